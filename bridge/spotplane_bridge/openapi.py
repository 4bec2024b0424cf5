"""The OpenAPI 3.1 document of all routes, built from descriptors and the comments of the API files.

Prose of the comments becomes structure where a convention allows it: "Answers 201", a leading
"Required", reasons in backquotes, and the status in each reason's own comment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from spotplane.v1 import error_reason_pb2

from spotplane_bridge import transcode
from spotplane_bridge.comments import load_comments
from spotplane_bridge.errors import Failure, error_format_of
from spotplane_bridge.legacy import documents, registry
from spotplane_bridge.legacy.routes import LegacyRoute
from spotplane_bridge.ops import CHECKS, installed_version
from spotplane_bridge.routes import Route
from spotplane_bridge.schemas import EXAMPLE_UUID, Schemas

_SUCCESS: Final = re.compile(r"\b(Answers |and )(201|204)\b")
_REASON: Final = re.compile(r"`([A-Z][A-Z_]+)`")
_STATUS: Final = re.compile(r"\b([45]\d\d)\b")
_PREFIX: Final = "ERROR_REASON_"

# Errors of every call, besides those in its own comment.
_ALWAYS: Final = {
    400: ("INVALID_JSON", "INVALID_FIELD", "OUT_OF_RANGE", "UNKNOWN_PARAMETER"),
    401: ("API_KEY_MISSING", "API_KEY_INVALID", "ADMIN_TOKEN_MISSING", "ADMIN_TOKEN_INVALID"),
    403: ("SCOPE_FORBIDDEN", "ROLE_FORBIDDEN", "TENANT_SUSPENDED", "KEY_SUSPENDED"),
    429: ("RATE_LIMIT_REQUESTS", "ADMIN_RATE_LIMIT"),
    500: ("INTERNAL",),
    503: ("SERVICE_UNAVAILABLE", "DATABASE_UNAVAILABLE"),
    504: ("DEADLINE_EXCEEDED",),
}
_TITLES: Final = {
    400: "The request is malformed; `details` names the field.",
    401: "No valid credential.",
    403: "The credential may not do this.",
    404: "There is no such resource.",
    408: "The body came in too slowly.",
    409: "The state of things does not allow it.",
    413: "The body is too large.",
    415: "The body is of another media type, or compressed.",
    422: "Well-formed but impossible; `details` says what.",
    429: "Too many requests; wait as `Retry-After` says.",
    500: "A defect of ours; the cause is in the log under the correlation id.",
    501: "The server cannot do this.",
    503: "A dependency is away; retry as `Retry-After` says.",
    504: "The deadline passed; whether the change took effect is unknown.",
}
_ERROR_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "Why a request failed.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code", "category", "status_code", "correlation_id"],
            "properties": {
                "message": {"type": "string", "description": "For a person."},
                "type": {"type": "string", "description": "Class of the failure."},
                "code": {"type": "string", "description": "Reason; switch on this."},
                "category": {"type": "string", "description": "Class of the failure, shorter."},
                "status_code": {"type": "integer", "description": "The HTTP status."},
                "correlation_id": {"type": "string", "description": "Quote it to support."},
                "suggestion": {"type": "string", "description": "What to do instead."},
                "details": {
                    "type": "array",
                    "description": "Fields at fault.",
                    "items": {
                        "type": "object",
                        "required": ["field", "description"],
                        "properties": {
                            "field": {"type": "string", "description": "Path of the field."},
                            "description": {"type": "string", "description": "What is wrong."},
                        },
                    },
                },
            },
        }
    },
}
_SECURITY: Final = {
    "AdminToken": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Admin-Token",
        "description": "Token of a platform administrator.",
    },
    "ApiKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "API key of a tenant, or an agent's own credential.",
    },
}
_INTRODUCTION: Final = (
    "The REST door of Spotplane, a multi-tenant control plane for spot compute. Every route is one "
    "RPC of the gRPC API and behaves the same there. 64-bit integers are JSON numbers, absent "
    "values are null, instants are RFC 3339 in UTC. Every answer carries `X-Request-ID`."
)


def build(routes: Sequence[Route], declared: Sequence[LegacyRoute] = ()) -> dict[str, Any]:
    """Return the document of these routes, the legacy routes and the bridge's own."""
    return _Builder(load_comments()).document(routes, declared)


class _Builder:
    def __init__(self, comments: dict[str, str]) -> None:
        self._comments = comments
        self._schemas = Schemas(comments)
        # HTTP status of each reason, from the comment of the reason.
        self._reasons = {
            value.name.removeprefix(_PREFIX): int(status[1])
            for value in error_reason_pb2.ErrorReason.DESCRIPTOR.values
            if (status := _STATUS.search(comments.get(f"{_enum_scope()}.{value.name}", "")))
        }

    def document(self, routes: Sequence[Route], declared: Sequence[LegacyRoute]) -> dict[str, Any]:
        paths: dict[str, Any] = {}
        for route in sorted(routes, key=lambda r: r.template):
            # OpenAPI has no pattern for the rest of a path; the variable's name has to suffice.
            path = re.sub(r"=\*\*?\}", "}", route.template)
            paths.setdefault(path, {})[route.method.lower()] = self._operation(route)
        services = {route.service: route.descriptor.containing_service for route in routes}
        methods = registry.rpcs() if declared else {}
        for of_field in sorted(declared, key=lambda r: r.template):
            operation = documents.operation(of_field, methods, self._comments)
            paths.setdefault(of_field.template, {})[of_field.method.lower()] = operation
            service = methods[of_field.calls[-1].rpc].containing_service
            services[service.name] = service
        tags = [
            {"name": name, "description": self._comments.get(service.full_name, name)}
            for name, service in sorted(services.items())
        ]
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Spotplane",
                "version": installed_version(),
                "description": _INTRODUCTION,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": [*tags, {"name": "Operations", "description": "The process itself."}],
            "paths": {**paths, **_operations_paths()},
            "components": {
                "schemas": {
                    **dict(sorted(self._schemas.components.items())),
                    "Error": _ERROR_SCHEMA,
                    **({"LegacyError": documents.LEGACY_ERROR} if declared else {}),
                },
                "securitySchemes": _SECURITY,
            },
        }

    def _operation(self, route: Route) -> dict[str, Any]:
        comment = self._comments.get(route.descriptor.full_name, "")
        summary, _, rest = comment.partition(". ")
        name = f"{route.service}_{route.descriptor.name}"
        operation: dict[str, Any] = {
            "operationId": name if not route.binding else f"{name}_{route.binding + 1}",
            "tags": [route.service],
            "summary": summary.splitlines()[0].rstrip(".") if summary else name,
            "description": comment if rest or "\n" in comment else "",
            "security": _security(route),
            "parameters": [*self._path_parameters(route), *self._query_parameters(route)],
            "responses": {**self._successes(route, comment), **self._errors(route, comment)},
        }
        if route.body:
            operation["requestBody"] = self._body(route)
        return {key: value for key, value in operation.items() if value not in ("", [])}

    def _path_parameters(self, route: Route) -> list[dict[str, Any]]:
        fields = route.descriptor.input_type.fields_by_name
        return [
            self._parameter(route, fields[name], "path", required=True) for name in route.variables
        ]

    def _query_parameters(self, route: Route) -> list[dict[str, Any]]:
        return [
            self._parameter(route, field, "query", required=self._schemas.is_required(field))
            for field in transcode.parameters(route)
        ]

    def _parameter(self, route: Route, field: Any, place: str, *, required: bool) -> dict[str, Any]:
        schema = self._schemas.field(field, of_request=True)
        description = schema.pop("description", "")
        parameter = {
            "name": field.name,
            "in": place,
            "required": required,
            "description": description,
            "schema": schema,
        }
        if place == "path":
            parameter["example"] = self._schemas.field_example(field, of_request=True)
        return parameter

    def _body(self, route: Route) -> dict[str, Any]:
        descriptor = route.descriptor.input_type
        if route.body != "*":
            descriptor = descriptor.fields_by_name[route.body].message_type
        without = frozenset(route.variables) if route.body == "*" else frozenset()
        example = self._schemas.example(descriptor, without, of_request=True)
        return {
            # No body at all is an empty object.
            "required": any(
                self._schemas.is_required(f) for f in descriptor.fields if f.name not in without
            ),
            "content": {
                "application/json": {
                    "schema": self._schemas.body(descriptor, without),
                    "example": example,
                }
            },
        }

    def _successes(self, route: Route, comment: str) -> dict[str, Any]:
        response = {"description": "Success.", "content": self._content(route, comment)}
        found = _SUCCESS.search(comment)
        if found is None:
            return {"200": response}
        if found[2] == "204":
            return {"204": {"description": "Success, without a body."}}
        created = {**response, "description": "Created."}
        return {"201": created} if found[1] == "Answers " else {"200": response, "201": created}

    def _content(self, route: Route, comment: str) -> dict[str, Any]:
        descriptor = route.descriptor.output_type
        if not route.is_raw:
            return self._json(self._schemas.answer(descriptor), descriptor)
        twin = _typed_twin(route)
        if twin is not None:
            items = twin.fields_by_name["data"].message_type
            bare = {"type": "array", "items": self._schemas.answer(items)}
            # The second is the response under `envelope=true`.
            schema = {"oneOf": [bare, self._schemas.answer(twin)]}
            example = self._schemas.example(items, frozenset(), of_request=False)
            return {"application/json": {"schema": schema, "example": [example]}}
        if "server-sent events" in comment:
            text = 'id: 7\nevent: log\ndata: {"message":"downloading"}\n\n'
            return {"text/event-stream": {"schema": {"type": "string"}, "example": text}}
        kind = "application/zip" if "ZIP archive" in comment else "application/octet-stream"
        return {kind: {"schema": {"type": "string", "contentMediaType": kind}}}

    def _json(self, schema: dict[str, Any], descriptor: Descriptor) -> dict[str, Any]:
        example = self._schemas.example(descriptor, frozenset(), of_request=False)
        return {"application/json": {"schema": schema, "example": example}}

    def _errors(self, route: Route, comment: str) -> dict[str, Any]:
        codes: dict[int, list[str]] = {}
        for reason in dict.fromkeys(_REASON.findall(comment)):
            if reason in self._reasons:
                codes.setdefault(self._reasons[reason], []).append(reason)
        if route.variables:
            codes.setdefault(404, [])
        if route.body:
            codes.setdefault(408, []).append("DEADLINE_EXCEEDED")
            codes.setdefault(413, []).append("PAYLOAD_TOO_LARGE")
            codes.setdefault(415, []).append("UNSUPPORTED_MEDIA_TYPE")
        if route.method != "GET":
            codes.setdefault(409, []).append("CONFLICT")
        if route.body or transcode.parameters(route):
            codes.setdefault(422, []).append("SEMANTIC")
        for status, usual in _ALWAYS.items():
            codes.setdefault(status, []).extend(usual)
        return {
            str(status): _error(route, status, list(dict.fromkeys(codes[status])))
            for status in sorted(codes)
        }


def _error(route: Route, status: int, codes: list[str]) -> dict[str, Any]:
    title = _TITLES.get(status, "Failure.")
    named = f" Codes: {', '.join(f'`{code}`' for code in codes)}." if codes else ""
    code = codes[0] if codes else f"{route.service.removesuffix('Service').upper()}_NOT_FOUND"
    failure = Failure(status, code, title.replace("`", "").rstrip("."))
    return {
        "description": title + named,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Error"},
                "example": failure.body(error_format_of(route.template), EXAMPLE_UUID),
            }
        },
    }


def _typed_twin(route: Route) -> Descriptor | None:
    """Return the response of the typed RPC beside one that returns a bare list."""
    name = route.descriptor.name
    methods = route.descriptor.containing_service.methods_by_name
    twin = methods.get(name.removesuffix("Flat")) if name.endswith("Flat") else None
    return twin.output_type if twin is not None else None


def _security(route: Route) -> list[dict[str, list[str]]]:
    if route.template.startswith(("/admin/", "/api/v1/admin/")):
        return [{"AdminToken": []}]
    return [{"ApiKey": []}, {"AdminToken": []}]


def _enum_scope() -> str:
    return str(error_reason_pb2.ErrorReason.DESCRIPTOR.full_name)


def _operations_paths() -> dict[str, Any]:
    checks = dict.fromkeys(("server", *CHECKS), "ok")
    alive = {"status": "healthy", "time": "2026-03-01T12:00:00.000Z", "version": "0.1.0"}
    pages = {
        "/health": ("Whether the process serves", "application/json", alive),
        "/ready": ("Whether it can do its work", "application/json", _ready("ready", checks)),
        "/metrics": ("Prometheus metrics", "text/plain", "active_connections 3.0"),
        "/openapi.json": ("This document", "application/json", {"openapi": "3.1.0"}),
        "/api/v1/admin/openapi.yaml": (
            "This document as YAML",
            "application/yaml",
            {"openapi": "3.1.0"},
        ),
        "/api-docs": ("This document as a page", "text/html", "<!doctype html>"),
    }
    paths: dict[str, Any] = {
        path: {
            "get": {
                "operationId": "Operations_" + re.sub(r"\W+", "_", path.strip("/")),
                "tags": ["Operations"],
                "summary": summary,
                "security": [],
                "responses": {"200": _page("Success.", kind, example)},
            }
        }
        for path, (summary, kind, example) in pages.items()
    }
    paths["/ready"]["get"]["responses"]["503"] = _page(
        "Not ready, or draining.",
        "application/json",
        _ready("not_ready", {**checks, "database": "failed"}),
    )
    return paths


def _ready(status: str, checks: dict[str, str]) -> dict[str, Any]:
    return {"status": status, "checks": checks}


def _page(description: str, kind: str, example: Any) -> dict[str, Any]:
    schema = {"type": "object" if isinstance(example, dict) else "string"}
    return {"description": description, "content": {kind: {"schema": schema, "example": example}}}
