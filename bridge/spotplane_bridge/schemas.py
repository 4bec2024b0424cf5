"""JSON schemas and examples of messages, as the bridge parses and serializes them."""

from __future__ import annotations

import re
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_INT64: Final = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})
_INT32: Final = frozenset({FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32})
_REALS: Final = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})

_WELL_KNOWN: Final[dict[str, tuple[dict[str, Any], Any]]] = {
    "google.protobuf.Timestamp": (
        {"type": "string", "format": "date-time"},
        "2026-03-01T12:00:00Z",
    ),
    "google.protobuf.Duration": ({"type": "string", "pattern": r"^-?\d+(\.\d+)?s$"}, "30s"),
    "google.protobuf.Struct": (
        {"type": "object", "additionalProperties": True},
        {"team": "search"},
    ),
    "google.protobuf.Value": ({}, "anything"),
    "google.protobuf.ListValue": ({"type": "array", "items": {}}, []),
}
# The first word of a field's comment marks it as required.
_REQUIRED: Final = re.compile(r"^Required\b")
_UUID: Final = re.compile(r"\bUUIDs?\b")
_QUOTED: Final = re.compile(r"`([^`]+)`")
_RANGE: Final = re.compile(r"(?<![\d.])(\d+)\.\.(\d+)(?! characters)\b")

EXAMPLE_UUID: Final = "0198c5a2-7f3e-7c41-9d2b-5e6f7a8b9c0d"
# Typical values by field name, where neither type nor comment gives one.
TYPICAL: Final[dict[str, Any]] = {
    "az": "us-east-1a",
    "city": "Ashburn",
    "code": "us-east-1",
    "country": "USA",
    "description": "Key of the batch jobs",
    "email": "ops@example.com",
    "family": "Llama",
    "gpu_model": "A10G",
    "hostname": "ip-10-0-0-17",
    "instance_id": "i-0abc1234def567890",
    "instance_name": "g5.xlarge",
    "instance_type": "g5.xlarge",
    "key": "sp_live_0123456789ABCDEFGHIJKLMNOPQRSTUV_2aCHuP",
    "key_prefix": "sp_live_0123...",
    "location": "Ashburn, USA",
    "logical_agent_id": "search-worker-1",
    "message": "done",
    "model_name": "llama-3.1-8b",
    "name": "Example",
    "next_page_token": "",
    "page_token": "opaque-token-of-the-previous-page",
    "pool_id": "g5.xlarge.us-east-1a",
    "prefix": "sp_live_0123...",
    "provider": "aws",
    "reason": "billing",
    "region": "us-east-1",
    "region_code": "us-east-1",
    "region_codes": "us-east-1",
    "region_name": "US East (N. Virginia)",
    "request_id": "req-20260301-0001",
    "end_date": "2026-03-02T00:00:00Z",
    "start_date": "2026-03-01T00:00:00Z",
    "timestamp": "2026-03-01T12:00:00Z",
}


class Schemas:
    """Collects the schemas of messages as components of one document.

    A message has another schema as a request (a member may be left out) than as a response (every
    member is present, and null means absent).

    Args:
        comments: Comments of the API by full name.
    """

    def __init__(self, comments: dict[str, str]) -> None:
        self._comments = comments
        self.components: dict[str, Any] = {}

    def answer(self, descriptor: Descriptor) -> dict[str, Any]:
        """Return a reference to the schema of a response."""
        return self._reference(descriptor, of_request=False)

    def body(self, descriptor: Descriptor, without: frozenset[str]) -> dict[str, Any]:
        """Return a reference to the schema of a request's body, without the fields of the path."""
        name = _name(descriptor)
        self.components.setdefault(name, self._object(descriptor, without, of_request=True))
        return {"$ref": f"#/components/schemas/{name}"}

    def field(self, field: FieldDescriptor, *, of_request: bool) -> dict[str, Any]:
        """Return the schema of one field, its comment included."""
        schema = self._type(field, of_request=of_request)
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            of_value = self._type(entry.fields_by_name["value"], of_request=of_request)
            schema = {"type": "object", "additionalProperties": of_value}
        elif field.is_repeated:
            schema = {"type": "array", "items": schema}
        elif not of_request and field.has_presence:
            schema = _nullable(schema)
        comment = self._comment(field)
        return {**schema, "description": comment} if comment else schema

    def is_required(self, field: FieldDescriptor) -> bool:
        """Return whether a request without the field is rejected."""
        return bool(_REQUIRED.match(self._comment(field)))

    def example(self, descriptor: Descriptor, without: frozenset[str], *, of_request: bool) -> Any:
        """Return an example message; a request has its required members, or the first one."""
        known = _WELL_KNOWN.get(descriptor.full_name)
        if known is not None:
            return known[1]
        fields = [field for field in descriptor.fields if field.name not in without]
        if of_request:
            required = [field for field in fields if self.is_required(field)]
            fields = required or fields[:1]
        return {field.name: self.field_example(field, of_request=of_request) for field in fields}

    def field_example(self, field: FieldDescriptor, *, of_request: bool) -> Any:
        """Return an example value of one field."""
        if field.message_type is not None:
            value = self.example(field.message_type, frozenset(), of_request=of_request)
        else:
            value = self._scalar_example(field)
        return [value] if field.is_repeated else value

    def _scalar_example(self, field: FieldDescriptor) -> Any:
        comment = self._comment(field)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return True
        if field.enum_type is not None:
            return field.enum_type.values[-1].name
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return _text_example(field.name, comment)
        bounds = _RANGE.search(comment)
        number = max(int(bounds[1]), min(int(bounds[2]), 50)) if bounds else 1
        return float(number) if field.cpp_type in _REALS else number

    def _reference(self, descriptor: Descriptor, *, of_request: bool) -> dict[str, Any]:
        known = _WELL_KNOWN.get(descriptor.full_name)
        if known is not None:
            return dict(known[0])
        name = _name(descriptor) + ("Input" if of_request else "")
        if name not in self.components:
            # Registered before it is complete, for a message that contains itself.
            self.components[name] = {}
            self.components[name] = self._object(descriptor, frozenset(), of_request=of_request)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(
        self, descriptor: Descriptor, without: frozenset[str], *, of_request: bool
    ) -> dict[str, Any]:
        fields = [field for field in descriptor.fields if field.name not in without]
        required = [f.name for f in fields if not of_request or self.is_required(f)]
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {f.name: self.field(f, of_request=of_request) for f in fields},
        }
        if required:
            schema["required"] = required
        comment = self._comments.get(descriptor.full_name)
        return {**schema, "description": comment} if comment else schema

    def _type(self, field: FieldDescriptor, *, of_request: bool) -> dict[str, Any]:
        if field.message_type is not None:
            return self._reference(field.message_type, of_request=of_request)
        if field.enum_type is not None:
            return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return {"type": "boolean"}
        if field.cpp_type in _INT64:
            return {"type": "integer", "format": "int64"}
        if field.cpp_type in _INT32:
            return {"type": "integer", "format": "int32"}
        if field.cpp_type in _REALS:
            return {"type": "number", "format": "double"}
        return {"type": "string"}

    def _comment(self, field: FieldDescriptor) -> str:
        return self._comments.get(field.full_name, "")


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"oneOf": [schema, {"type": "null"}]}


def _name(descriptor: Descriptor) -> str:
    package: str = descriptor.file.package
    return str(descriptor.full_name).removeprefix(f"{package}.")


def _text_example(name: str, comment: str) -> str:
    if comment.startswith("Positive integer"):
        return "7"
    if name == "id" or _UUID.search(comment) or (name.endswith("_id") and name not in TYPICAL):
        return EXAMPLE_UUID
    if name in TYPICAL:
        return str(TYPICAL[name])
    quoted = _QUOTED.search(comment)
    return quoted[1] if quoted else "text"
