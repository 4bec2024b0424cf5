"""Protobuf messages as JSON values: snake_case, every field, 64-bit integers as numbers.

A printer is compiled once per message type. Reading all fields by one `attrgetter` keeps the work
in C; only fields that need a change are touched again in Python. Many times faster than
`json_format`, which prints 64-bit integers as strings and leaves absent fields out.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Final, TypeAlias

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

Serializer: TypeAlias = Callable[[Any], Any]

# Integers beyond this lose digits in a double, so they are printed as the double.
_EXACT_INTEGERS: Final = 2**53

_serializers: dict[str, Serializer] = {}


def compile_serializer(descriptor: Descriptor) -> Serializer:
    """Return the conversion of this message type into JSON; compiled on first use."""
    found = _serializers.get(descriptor.full_name)
    if found is None:
        found = _WELL_KNOWN.get(descriptor.full_name) or _compile(descriptor)
        _serializers[descriptor.full_name] = found
    return found


def to_json(message: Message) -> Any:
    """Convert any message into a JSON value."""
    descriptor: Any = message.DESCRIPTOR
    return compile_serializer(descriptor)(message)


def _compile(descriptor: Descriptor) -> Serializer:
    if descriptor.full_name.startswith("google.protobuf."):
        return json_format.MessageToDict

    def print_later(message: Any) -> Any:
        return _serializers[descriptor.full_name](message)

    # For a message that contains itself: its printer is not registered before it is complete.
    _serializers[descriptor.full_name] = print_later
    fields = list(descriptor.fields)
    names = tuple(field.name for field in fields)
    read = _reader(names)
    change = tuple((f.name, fix) for f in fields if (fix := _fix(f)) is not None)
    nested = tuple(
        (f.name, compile_serializer(f.message_type)) for f in fields if _is_single_message(f)
    )
    optional = tuple(f.name for f in fields if f.has_presence and f.message_type is None)

    def print_message(message: Any) -> dict[str, Any]:
        out = dict(zip(names, read(message), strict=True))
        for name, fix in change:
            out[name] = fix(out[name])
        has = message.HasField
        for name, print_nested in nested:
            out[name] = print_nested(out[name]) if has(name) else None
        for name in optional:
            if not has(name):
                out[name] = None
        return out

    return print_message


def _reader(names: tuple[str, ...]) -> Callable[[Any], Iterable[Any]]:
    if not names:
        return lambda _message: ()
    if len(names) == 1:
        only = attrgetter(names[0])
        return lambda message: (only(message),)
    return attrgetter(*names)


def _is_single_message(field: FieldDescriptor) -> bool:
    return field.message_type is not None and not field.is_repeated


def _fix(field: FieldDescriptor) -> Serializer | None:
    """Return the conversion of the field's value into JSON, None when it is JSON already."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _map(field.message_type)
    if not field.is_repeated:
        return None if field.message_type is not None else _scalar(field)
    each = (
        compile_serializer(field.message_type) if field.message_type is not None else _scalar(field)
    )
    return list if each is None else lambda values: [each(value) for value in values]


def _map(entry: Descriptor) -> Serializer:
    value_field = entry.fields_by_name["value"]
    key_is_bool = entry.fields_by_name["key"].cpp_type == FieldDescriptor.CPPTYPE_BOOL
    message_type = value_field.message_type
    fix = (
        compile_serializer(message_type) if message_type is not None else _scalar(value_field)
    ) or _as_is

    def print_map(values: Any) -> dict[str, Any]:
        return {
            str(key).lower() if key_is_bool else str(key): fix(values[key])
            for key in sorted(values)
        }

    return print_map


def _scalar(field: FieldDescriptor) -> Serializer | None:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    if field.type == FieldDescriptor.TYPE_FLOAT:
        # The shortest text of a 32-bit float, not the digits of its 64-bit image.
        return lambda value: float(f"{value:.7g}")
    if field.enum_type is not None:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    return None


def _as_is(value: Any) -> Any:
    return value


def timestamp(message: Any) -> str:
    """Format RFC 3339 in UTC with `Z` and the fewest exact fraction digits of 0, 3, 6 or 9."""
    year, month, day, hour, minute, second = time.gmtime(message.seconds)[:6]
    text = f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}"
    nanos = message.nanos
    if not nanos:
        return text + "Z"
    if nanos % 1_000_000 == 0:
        return f"{text}.{nanos // 1_000_000:03d}Z"
    if nanos % 1_000 == 0:
        return f"{text}.{nanos // 1_000:06d}Z"
    return f"{text}.{nanos:09d}Z"


def struct(message: Any) -> dict[str, Any]:
    """Convert a free JSON object, by name; numbers without a fraction become integers again."""
    # The order of the fields is random and differs between processes.
    fields = message.fields
    return {name: value(fields[name]) for name in sorted(fields)}


def value(message: Any) -> Any:
    """Convert a free JSON value."""
    kind = message.WhichOneof("kind")
    if kind == "number_value":
        return _number(message.number_value)
    if kind == "struct_value":
        return struct(message.struct_value)
    if kind == "list_value":
        return _list(message.list_value)
    if kind in (None, "null_value"):
        return None
    return getattr(message, kind)


def _list(message: Any) -> list[Any]:
    return [value(item) for item in message.values]


def _number(number: float) -> int | float:
    is_whole = number.is_integer() and abs(number) <= _EXACT_INTEGERS
    # Integers have no -0.0.
    if is_whole and (number or math.copysign(1.0, number) > 0):
        return int(number)
    return number


def _wrapped(message: Any) -> Any:
    return message.value


_WELL_KNOWN: Final[dict[str, Serializer]] = {
    "google.protobuf.Timestamp": timestamp,
    "google.protobuf.Duration": lambda message: message.ToJsonString(),
    "google.protobuf.Struct": struct,
    "google.protobuf.Value": value,
    "google.protobuf.ListValue": _list,
    **{
        f"google.protobuf.{name}Value": _wrapped
        for name in ("Bool", "Int32", "Int64", "UInt32", "UInt64", "Double", "String")
    },
}
