"""Build the OpenAPI operations of declared routes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from spotplane_bridge.errors import ErrorFormat, Failure, error_format_of
from spotplane_bridge.legacy.exports import Table
from spotplane_bridge.legacy.handlers import BoundCall, bind
from spotplane_bridge.legacy.paths import parameters
from spotplane_bridge.legacy.requests import Parameter
from spotplane_bridge.legacy.response_shapes import Schema, enum_names
from spotplane_bridge.legacy.routes import Call, LegacyRoute
from spotplane_bridge.schemas import EXAMPLE_UUID, TYPICAL

LEGACY_ERROR: Final[Schema] = {
    "type": "object",
    "description": "Why a request under `/api/**` failed; some routes add members.",
    "required": ["status", "error", "data", "code", "correlation_id"],
    "properties": {
        "status": {"const": "error"},
        "error": {"type": "string", "description": "For a person."},
        "data": {"type": "null"},
        "code": {"type": "string", "description": "Reason; switch on this."},
        "correlation_id": {"type": "string", "description": "Quote it to support."},
        "details": {
            "description": "Fields at fault.",
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "hint": {"type": "string", "description": "What to do instead."},
    },
}
_NANO_DOLLARS: Final = re.compile(r"nano-(dollars|usd)", re.IGNORECASE)
_ERRORS: Final = {
    400: ("VALIDATION_ERROR", "A member is not acceptable, or the state forbids it."),
    401: ("UNAUTHORIZED", "No valid credential."),
    403: ("FORBIDDEN", "The credential may not do this."),
    404: ("NOT_FOUND", "There is no such resource."),
    408: ("DEADLINE_EXCEEDED", "The body came in too slowly."),
    409: ("CONFLICT", "The state of things does not allow it."),
    413: ("PAYLOAD_TOO_LARGE", "The body is too large."),
    415: ("UNSUPPORTED_MEDIA_TYPE", "The body is compressed."),
    429: ("RATE_LIMIT_EXCEEDED", "Too many requests; wait as `Retry-After` says."),
    500: ("SERVER_ERROR", "A defect of ours; quote the correlation id."),
    503: ("SERVICE_UNAVAILABLE", "A dependency is away; retry as `Retry-After` says."),
    504: ("DEADLINE_EXCEEDED", "The deadline passed; whether the change took effect is unknown."),
}
_OF_BODIES: Final = frozenset({408, 413, 415})
_ERROR_SCHEMAS: Final = {ErrorFormat.CANONICAL: "Error", ErrorFormat.LEGACY: "LegacyError"}
_INSTANT: Final = "2026-03-01T12:00:00Z"


def operation(
    route: LegacyRoute, methods: Mapping[str, MethodDescriptor], comments: Mapping[str, str]
) -> dict[str, Any]:
    """Return the OpenAPI operation of one declared route."""
    bound = bind(route, methods)
    usual = bound[-1]
    service = usual.method.containing_service.name
    comment = comments.get(usual.method.full_name, usual.method.name)
    summary = comment.partition(". ")[0].splitlines()[0].rstrip(".")
    described: dict[str, Any] = {
        "operationId": f"{service}_{usual.method.name}_{route.id}",
        "tags": [service],
        "summary": summary,
        "description": comment,
        "security": _security(route),
        "parameters": _parameters(route, bound, comments),
        "responses": {**_success(bound), **_failures(route)},
    }
    if (body := _body(bound, comments)) is not None:
        described["requestBody"] = body
    return {key: value for key, value in described.items() if value != []}


def _security(route: LegacyRoute) -> list[dict[str, list[str]]]:
    if route.template.startswith("/api/admin/"):
        return [{"AdminToken": []}]
    return [{"ApiKey": []}, {"AdminToken": []}]


def _parameters(
    route: LegacyRoute, bound: list[BoundCall], comments: Mapping[str, str]
) -> list[dict[str, Any]]:
    usual = bound[-1]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    placed: tuple[tuple[str, Callable[[Call], tuple[Parameter, ...]]], ...] = (
        ("path", lambda c: tuple(parameters(route.template, c.path, usual.method.input_type))),
        ("query", lambda c: c.query),
        ("header", lambda c: c.headers),
    )
    for call in reversed(bound):
        for place, members in placed:
            chosen = usual.declared if place == "path" else call.declared
            kind = usual.method.input_type if place == "path" else call.method.input_type
            for member in members(chosen):
                described = _parameter(place, member, kind, comments)
                found.setdefault((place, member.names[0]), described)
    return list(found.values())


def _parameter(
    place: str, member: Parameter, kind: Descriptor, comments: Mapping[str, str]
) -> dict[str, Any]:
    target = _target(kind, member)
    schema = _member(member, target)
    parameter = {
        "name": member.names[0],
        "in": place,
        "required": place == "path",
        "description": _comment(target, member, comments),
        "schema": schema,
    }
    if place == "path":
        parameter["example"] = example(member.names[0], schema)
    return parameter


def _body(bound: list[BoundCall], comments: Mapping[str, str]) -> dict[str, Any] | None:
    upload = next((call.declared.upload for call in bound if call.declared.upload), None)
    if upload is not None:
        part = {"type": "array", "items": {"type": "string", "contentMediaType": "*/*"}}
        schema: Schema = {"type": "object", "properties": dict.fromkeys(upload.files, part)}
        content = {"schema": schema, "example": {upload.files[0]: ["(bytes)"]}}
        return {"required": True, "content": {"multipart/form-data": content}}
    members: dict[str, Schema] = {}
    for call in reversed(bound):
        for member in call.declared.body:
            target = _target(call.method.input_type, member)
            described = {**_member(member, target)}
            if text := _comment(target, member, comments):
                described["description"] = text
            members.setdefault(member.names[0], described)
    if not members:
        return None
    schema = {"type": "object", "properties": members}
    return {
        "required": False,
        "content": {"application/json": {"schema": schema, "example": example("", schema)}},
    }


def _comment(target: FieldDescriptor, member: Parameter, comments: Mapping[str, str]) -> str:
    text = comments.get(target.full_name, "")
    if "nanousd" in target.name:
        # Requests have dollars here and nano-dollars in gRPC, which the comment describes.
        text = _NANO_DOLLARS.sub("US dollars", text)
    also = ", ".join(f"`{name}`" for name in member.names[1:])
    return f"{text} Also taken as {also}.".strip() if also else text


def _target(kind: Descriptor, member: Parameter) -> FieldDescriptor:
    *outer, last = member.field.split(".")
    for name in outer:
        inner = kind.fields_by_name[name].message_type
        assert inner is not None
        kind = inner
    found: FieldDescriptor = kind.fields_by_name.get(last) or kind.fields_by_name["page_token"]
    return found


def _member(member: Parameter, target: FieldDescriptor) -> Schema:
    if member.schema is not None:
        return member.schema
    kind = target.message_type
    one: Schema
    if kind is not None and member.of:
        properties = {inner.names[0]: _member(inner, _target(kind, inner)) for inner in member.of}
        one = {"type": "object", "properties": properties}
    elif kind is not None:
        is_instant = kind.full_name == "google.protobuf.Timestamp"
        one = {"type": "string", "format": "date-time"} if is_instant else {"type": "object"}
    elif target.enum_type is not None:
        one = {"type": "string", "enum": list(enum_names(target).values())}
    else:
        one = {"type": _scalar_type(target)}
    is_map = kind is not None and kind.GetOptions().map_entry
    return {"type": "array", "items": one} if target.is_repeated and not is_map else one


def _scalar_type(target: FieldDescriptor) -> str:
    if target.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "boolean"
    if target.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "string"
    whole = target.cpp_type not in {
        FieldDescriptor.CPPTYPE_DOUBLE,
        FieldDescriptor.CPPTYPE_FLOAT,
    }
    return "integer" if whole and "nanousd" not in target.name else "number"


def _success(bound: list[BoundCall]) -> dict[str, Any]:
    usual = bound[-1]
    status = usual.declared.status
    content = _content(usual)
    shapes = [call.shape.schema for call in reversed(bound) if call.shape is not None]
    if "application/json" in content and any(shape != shapes[0] for shape in shapes):
        content["application/json"]["schema"] = {"anyOf": shapes}
    response = {"description": "Success.", "content": content}
    if callable(status):
        return {"200": response, "201": response}
    return {str(status): response}


def _content(call: BoundCall) -> dict[str, Any]:
    shape = call.shape
    if shape is None:
        text = 'id: 7\nevent: connected\ndata: {"type":"connected"}\n\n'
        return {"text/event-stream": {"schema": {"type": "string"}, "example": text}}
    content = {"schema": shape.schema, "example": example("", shape.schema)}
    if not isinstance(shape, Table):
        return {"application/json": content}
    head = shape.header().decode()
    return {
        "text/csv": {"schema": {"type": "string"}, "example": head},
        "application/json": content,
    }


def _failures(route: LegacyRoute) -> dict[str, Any]:
    extra: dict[str, list[str]] = {}
    for call in route.calls:
        for code, members in call.errors.items():
            extra.setdefault(code, []).extend(members)
    found: dict[str, dict[str, Any]] = {}
    error_format = error_format_of(route.template)
    schema = {"$ref": f"#/components/schemas/{_ERROR_SCHEMAS[error_format]}"}
    for status, (code, text) in _ERRORS.items():
        if status in _OF_BODIES and route.method == "GET":
            continue
        body = Failure(status, code, text.rstrip(".")).body(error_format, EXAMPLE_UUID)
        found[str(status)] = {
            "description": text,
            "content": {"application/json": {"schema": schema, "example": body}},
        }
    for code, names in extra.items():
        named = ", ".join(f"`{name}`" for name in names)
        of = "Every error" if code == "*" else f"`{code}`"
        found["400"]["description"] += f" {of} also has {named}."
    return found


def example(name: str, schema: Schema) -> Any:
    """Return a typical value of a schema for a member of that name."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "oneOf" in schema:
        return example(name, schema["oneOf"][0])
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {key: example(key, value) for key, value in schema.get("properties", {}).items()}
    if kind == "array":
        return [example(name, schema.get("items", {}))]
    if kind == "string":
        return _text(name, schema)
    return True if kind == "boolean" else 1


def _text(name: str, schema: Schema) -> str:
    if "format" in schema:
        return _INSTANT if schema["format"] == "date-time" else _INSTANT[:10]
    snake = re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()
    if snake in TYPICAL:
        return str(TYPICAL[snake])
    return EXAMPLE_UUID if snake == "id" or snake.endswith("_id") else "text"
