"""Converts HTTP requests into requests of their RPCs.

Unknown members of a body are ignored; unknown query parameters are rejected, so that a mistyped
filter never widens a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl

import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from spotplane_bridge.errors import Failure, invalid
from spotplane_bridge.parser import ParseError, Writer, compile_parser, writers
from spotplane_bridge.routes import Route

MAX_PARAMETERS: Final = 100

# Reason for a text that is not of its field's type, other than a number.
_TEXT_CODES: Final = {
    FieldDescriptor.CPPTYPE_BOOL: "UNKNOWN_ENUM",
    FieldDescriptor.CPPTYPE_ENUM: "UNKNOWN_ENUM",
    FieldDescriptor.CPPTYPE_STRING: "INVALID_FIELD",
    FieldDescriptor.CPPTYPE_MESSAGE: "INVALID_JSON",
}


def read_request(route: Route, values: Sequence[str], query: str, body: bytes) -> Message:
    """Build the RPC's request.

    Args:
        route: The matched route.
        values: Values of the path's variables, decoded, in the route's order.
        query: Query string, without the question mark.
        body: Body as it was sent; empty is `{}`. Ignored by routes that have none.

    Raises:
        Failure: 400, with the invalid field or parameter in its details.
    """
    message = route.request_class()
    if route.body and body:
        _read_body(route, message, body)
    if query:
        _read_query(route, message, query)
    if values:
        by_name = writers(route.descriptor.input_type)
        for name, text in zip(route.variables, values, strict=True):
            _write_text(message, by_name[name], text, "INVALID_ID")
    return message


def check_media_type(content_type: str | None) -> None:
    """Accept an absent media type and every spelling of JSON.

    Raises:
        Failure: 415.
    """
    if content_type is not None and "application/json" not in content_type.lower():
        raise Failure(415, "UNSUPPORTED_MEDIA_TYPE", "the body must be application/json")


def parameters(route: Route) -> list[FieldDescriptor]:
    """Return the fields of the request that the query may hold, in their order."""
    by_name = writers(route.descriptor.input_type)
    return [
        field
        for field in route.descriptor.input_type.fields
        if _is_parameter(route, by_name[field.name])
    ]


def _is_parameter(route: Route, writer: Writer) -> bool:
    return (
        writer.takes_text
        and route.body not in {"*", writer.name}
        and writer.name not in route.variables
    )


def _read_body(route: Route, message: Message, body: bytes) -> None:
    try:
        members = orjson.loads(body)
    except orjson.JSONDecodeError as err:
        where = f"line {err.lineno}, column {err.colno}"
        raise Failure(400, "INVALID_JSON", f"the body is not JSON: {where}") from err
    if members is None:
        return
    if not isinstance(members, dict):
        raise Failure(400, "INVALID_JSON", "the body must be a JSON object")
    descriptor = route.descriptor.input_type
    try:
        if route.body == "*":
            compile_parser(descriptor)(message, members, "")
        else:
            writers(descriptor)[route.body].write(message, members, route.body)
    except ParseError as err:
        raise invalid(err.code or "INVALID_JSON", err.path, err.description) from err


def _read_query(route: Route, message: Message, query: str) -> None:
    by_name = writers(route.descriptor.input_type)
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError as err:
        raise Failure(400, "OUT_OF_RANGE", "too many query parameters") from err
    seen: set[str] = set()
    for name, text in pairs:
        writer = by_name.get(name)
        if writer is None or not _is_parameter(route, writer):
            raise _unknown_parameter(route, name)
        if writer.name in seen and not writer.repeated:
            raise invalid("INVALID_FIELD", writer.name, "given more than once")
        seen.add(writer.name)
        field = route.descriptor.input_type.fields_by_name[writer.name]
        _write_text(message, writer, text, _TEXT_CODES.get(field.cpp_type, "OUT_OF_RANGE"))


def _unknown_parameter(route: Route, name: str) -> Failure:
    names = [field.name for field in parameters(route)]
    return Failure(
        400,
        "UNKNOWN_PARAMETER",
        f"unknown query parameter {name}",
        [{"field": name, "description": "this route has no such parameter"}],
        f"parameters here: {', '.join(names)}" if names else "this route has no parameters",
    )


def _write_text(message: Message, writer: Writer, text: str, code: str) -> None:
    try:
        writer.write_text(message, text, writer.name)
    except ParseError as err:
        raise invalid(err.code or code, err.path, err.description) from err
