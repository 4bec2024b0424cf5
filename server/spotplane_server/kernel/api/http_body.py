"""HTTP bodies: serializes lists to JSON, byte-identical over every protocol.

Proto names, every field, 64-bit integers as numbers, null for absent optionals, instants as
RFC 3339 with `Z`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import orjson
from google.api import httpbody_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from spotplane.v1 import pagination_pb2

from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import wire


def answer(
    items: Sequence[Message], pagination: pagination_pb2.Pagination, *, envelope: bool
) -> httpbody_pb2.HttpBody:
    """Answer a list as a bare array, or in the usual envelope when that was asked for.

    The total goes into the header `x-total-count` either way.
    """
    request_context.answer_headers({"x-total-count": str(pagination.total)})
    body: Any = [to_json(item) for item in items]
    if envelope:
        body = {"data": body, "pagination": to_json(pagination)}
    return httpbody_pb2.HttpBody(content_type="application/json", data=orjson.dumps(body))


def to_json(message: Message) -> Any:
    """Turn a message into a value that `orjson` prints."""
    name = message.DESCRIPTOR.full_name
    if name == "google.protobuf.Struct":
        return wire.from_struct(message)  # type: ignore[arg-type]
    if name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        return message.ToJsonString()  # type: ignore[attr-defined]
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {str(key): _value(field, value[key]) for key in sorted(value)}
        return [_value(field, item) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(field, value)


def _value(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, Message):
        return to_json(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode()
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value
