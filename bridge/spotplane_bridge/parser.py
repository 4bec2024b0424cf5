"""Parses JSON values and texts into protobuf fields; a writer is compiled once per message type.

Follows the proto JSON mapping, except that unknown members are ignored, null means absent, and
numbers that are not finite are rejected.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor

Convert: TypeAlias = Callable[[Any], Any]
# Fills a message from a JSON value: message, value, path of the value.
Fill: TypeAlias = Callable[[Any, Any, str], None]

# Each level of a free object takes three levels of messages, of which protobuf allows 100.
MAX_FREE_DEPTH: Final = 30

_INTEGER: Final = re.compile(r"-?\d{1,20}")
_DECIMAL: Final = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?")
_INSTANT: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.IGNORECASE
)
_DURATION: Final = re.compile(r"-?\d{1,12}(\.\d{1,9})?s")


class ParseError(ValueError):
    """An unusable value.

    Attributes:
        path: Its position, e.g. `records[2].prompt_tokens`.
        code: Reason, None when the value is simply of another type.
        description: The expected value.
    """

    def __init__(self, path: str, description: str, code: str | None = None) -> None:
        super().__init__(description)
        self.path = path
        self.code = code
        self.description = description


class Writer:
    """Writes one field of a message.

    Attributes:
        name: The field's name.
        repeated: Whether it holds a list.
        takes_text: Whether a path or a query parameter can express its value.
    """

    def __init__(self, field: FieldDescriptor) -> None:
        self.name: str = field.name
        kind = field.message_type
        self._map = kind if kind is not None and kind.GetOptions().map_entry else None
        self.repeated = bool(field.is_repeated) and self._map is None
        self.takes_text = self._map is None and (kind is None or kind.full_name in _WELL_KNOWN)
        self._convert = None if kind is not None else scalar(field)
        self._fill = None if kind is None or self._map else compile_parser(kind)
        self._is_bool = field.cpp_type == FieldDescriptor.CPPTYPE_BOOL
        self._is_json = kind is not None and kind.full_name in _JSON_TYPES
        union = field.containing_oneof
        # The union of an `optional` field has no other member.
        self._union = union.name if union is not None and len(union.fields) > 1 else None

    def write(self, message: Any, value: Any, path: str) -> None:
        """Write a JSON value other than null."""
        if self._union and message.WhichOneof(self._union) not in {None, self.name}:
            raise ParseError(path, f"only one member of {self._union} may be given", "INVALID_JSON")
        if self._map is not None:
            _write_map(getattr(message, self.name), self._map, value, path)
        elif not self.repeated:
            self._write_single(message, value, path)
        elif not isinstance(value, list):
            raise ParseError(path, "must be a list")
        else:
            for index, item in enumerate(value):
                self._append(message, item, f"{path}[{index}]")

    def write_text(self, message: Any, text: str, path: str) -> None:
        """Write a text of a path or a query; repeated fields append it."""
        value: Any = text
        if self._is_bool:
            # JSON's own booleans are the only ones, in every part of a request.
            value = {"true": True, "false": False}.get(text, text)
        elif self._is_json:
            try:
                value = orjson.loads(text)
            except orjson.JSONDecodeError as err:
                raise ParseError(path, "must be JSON", "INVALID_JSON") from err
        if self.repeated:
            self._append(message, value, path)
        else:
            self._write_single(message, value, path)

    def _write_single(self, message: Any, value: Any, path: str) -> None:
        if self._fill is not None:
            target = getattr(message, self.name)
            target.SetInParent()
            self._fill(target, value, path)
        elif self._convert is not None:
            setattr(message, self.name, _converted(self._convert, value, path))

    def _append(self, message: Any, value: Any, path: str) -> None:
        items = getattr(message, self.name)
        if self._fill is not None:
            self._fill(items.add(), value, path)
        elif self._convert is not None:
            items.append(_converted(self._convert, value, path))


_writers: dict[str, dict[str, Writer]] = {}


def writers(descriptor: Descriptor) -> dict[str, Writer]:
    """Return the writers of a message's fields by their accepted JSON names; compiled once."""
    found = _writers.get(descriptor.full_name)
    if found is None:
        # Registered before it is complete, for a message that contains itself.
        found = _writers[descriptor.full_name] = {}
        for field in descriptor.fields:
            found[field.name] = found[field.json_name] = Writer(field)
    return found


def compile_parser(descriptor: Descriptor) -> Fill:
    """Return the function that fills messages of this type from JSON values."""
    known = _WELL_KNOWN.get(descriptor.full_name)
    if known is not None:
        return known
    if descriptor.full_name.startswith("google.protobuf."):
        raise ValueError(f"{descriptor.full_name} cannot be part of a REST request")
    members = writers(descriptor)

    def fill(message: Any, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise ParseError(path, "must be an object")
        prefix = f"{path}." if path else ""
        for name, item in value.items():
            writer = members.get(name)
            if writer is not None and item is not None:
                writer.write(message, item, prefix + writer.name)

    return fill


def _converted(convert: Convert, value: Any, path: str) -> Any:
    try:
        return convert(value)
    except ParseError as err:
        raise ParseError(path, err.description, err.code) from err


def _write_map(container: Any, entry: Descriptor, value: Any, path: str) -> None:
    if not isinstance(value, dict):
        raise ParseError(path, "must be an object")
    key_type, value_type = entry.fields_by_name["key"], entry.fields_by_name["value"]
    convert_key = scalar(key_type)
    is_bool = key_type.cpp_type == FieldDescriptor.CPPTYPE_BOOL
    for name, item in value.items():
        where = f"{path}.{name}"
        text = {"true": True, "false": False}.get(name, name) if is_bool else name
        key = _converted(convert_key, text, where)
        if value_type.message_type is not None:
            compile_parser(value_type.message_type)(container[key], item, where)
        else:
            container[key] = _converted(scalar(value_type), item, where)


def scalar(field: FieldDescriptor) -> Convert:
    """Return the function that converts a JSON value into a value of this field.

    The function raises `ParseError` with an empty path.
    """
    if field.enum_type is not None:
        names = {v.name: v.number for v in field.enum_type.values}
        return lambda value: _enum(value, names)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes
    bounds = _BOUNDS.get(field.cpp_type)
    if bounds is not None:
        return lambda value: _integer(value, *bounds)
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return lambda value: _number(value, 3.4028234e38)
    return _SIMPLE[field.cpp_type]


def _integer(value: Any, low: int, high: int) -> int:
    is_text = isinstance(value, str) and _INTEGER.fullmatch(value)
    if is_text or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ParseError("", "must be an integer")
    if not low <= value <= high:
        raise ParseError("", f"must be an integer in {low}..{high}", "OUT_OF_RANGE")
    return value


def _number(value: Any, bound: float = math.inf) -> float:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = float(value)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ParseError("", "must be a number")
    number = float(value)
    if not math.isfinite(number) or abs(number) > bound:
        raise ParseError("", "must be a finite number", "OUT_OF_RANGE")
    return number


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ParseError("", "must be true or false")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ParseError("", "must be a string")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ParseError("", "must be a string in base64")
    try:
        text = value.replace("-", "+").replace("_", "/").rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as err:
        raise ParseError("", "must be a string in base64", "INVALID_FIELD") from err


def _enum(value: Any, names: dict[str, int]) -> int:
    if isinstance(value, str) and value in names:
        return names[value]
    if isinstance(value, int) and not isinstance(value, bool) and value in names.values():
        return value
    raise ParseError("", f"must be one of {', '.join(names)}", "UNKNOWN_ENUM")


def _timestamp(message: Any, value: Any, path: str) -> None:
    if not isinstance(value, str):
        raise ParseError(path, "must be a string")
    try:
        if not _INSTANT.fullmatch(value):
            raise ValueError(value)
        message.FromJsonString(value.upper())
    except ValueError as err:
        raise ParseError(path, "must be RFC 3339 with a zone", "INVALID_DATE") from err


def _duration(message: Any, value: Any, path: str) -> None:
    if not isinstance(value, str):
        raise ParseError(path, "must be a string")
    try:
        if not _DURATION.fullmatch(value):
            raise ValueError(value)
        message.FromJsonString(value)
    except ValueError as err:
        raise ParseError(path, "must be seconds like 3.5s", "OUT_OF_RANGE") from err


def _struct(message: Any, value: Any, path: str) -> None:
    if not isinstance(value, dict):
        raise ParseError(path, "must be an object")
    _check_free(value, path, 1)
    message.update(value)


def _list(message: Any, value: Any, path: str) -> None:
    if not isinstance(value, list):
        raise ParseError(path, "must be a list")
    _check_free(value, path, 1)
    message.extend(value)


def _value(message: Any, value: Any, path: str) -> None:
    if isinstance(value, dict):
        _struct(message.struct_value, value, path)
        message.struct_value.SetInParent()
    elif isinstance(value, list):
        _list(message.list_value, value, path)
        message.list_value.SetInParent()
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, str):
        message.string_value = value
    else:
        message.number_value = _converted(_number, value, path)


def _check_free(value: Any, path: str, depth: int) -> None:
    if depth > MAX_FREE_DEPTH:
        raise ParseError(path, f"nested deeper than {MAX_FREE_DEPTH} levels", "OUT_OF_RANGE")
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list)):
            _check_free(item, path, depth + 1)


def _wrapper(message: Any, value: Any, path: str) -> None:
    field = message.DESCRIPTOR.fields_by_name["value"]
    message.value = _converted(scalar(field), value, path)


_BOUNDS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_SIMPLE: Final[dict[int, Convert]] = {
    FieldDescriptor.CPPTYPE_BOOL: _boolean,
    FieldDescriptor.CPPTYPE_STRING: _string,
    FieldDescriptor.CPPTYPE_DOUBLE: _number,
}
_WELL_KNOWN: Final[dict[str, Fill]] = {
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Duration": _duration,
    "google.protobuf.Struct": _struct,
    "google.protobuf.Value": _value,
    "google.protobuf.ListValue": _list,
    **{
        f"google.protobuf.{name}Value": _wrapper
        for name in ("Bool", "Int32", "Int64", "UInt32", "UInt64", "Float", "Double", "String")
    },
}
# Types whose text form is JSON; the text form of the others is the plain value.
_JSON_TYPES: Final = frozenset(
    {
        "google.protobuf.Struct",
        "google.protobuf.Value",
        "google.protobuf.ListValue",
        "google.protobuf.BoolValue",
    }
)
