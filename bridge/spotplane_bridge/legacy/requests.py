"""Tolerant parsing of legacy requests: member names, aliases, types and filters.

Unknown members are ignored, null means absent, numbers may be sent as texts, instants without an
offset are UTC, and a filter of `all` or an empty text is no filter. The error about an unusable
value names its member.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from spotplane_bridge.errors import Failure, invalid
from spotplane_bridge.legacy.response_shapes import NANO, Schema, enum_names
from spotplane_bridge.parser import ParseError, compile_parser

Convert: TypeAlias = Callable[[Any], Any]
# Writes one JSON value into a message: message, value, path of the value.
Write: TypeAlias = Callable[[Any, Any, str], None]

# No text in this API is longer, independent of its own limit.
MAX_TEXT: Final = 16_384
MAX_ITEMS: Final = 10_000

_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})
_NO_FILTER: Final = frozenset({"", "all"})
_TIMESTAMP: Final = "google.protobuf.Timestamp"
# Values that the field's own type accepts.
_FREE: Final = frozenset(
    {"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"}
)
# With surrounding spaces and more digits than a nanosecond has.
_LONGEST_INSTANT: Final = 128
# Bytes of a header that are not UTF-8, as aiohttp decodes them.
_NOT_UTF8: Final = re.compile(r"[\ud800-\udfff]")
_FRACTION: Final = re.compile(r"(\.\d{6})\d+")
_INTEGERS: Final[Mapping[int, tuple[int, int]]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_REALS: Final = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})


@dataclass(frozen=True, slots=True)
class Incoming:
    """One request, before conversion into a message.

    Attributes:
        path: Variables of the path, decoded.
        query: Parameters, each once; the last one counts.
        body: The JSON object, empty when there is none.
        headers: The headers as received.
    """

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One member of a request and the field that it fills; see `parameter`."""

    names: tuple[str, ...]
    field: str
    of: tuple[Parameter, ...] = ()
    convert: Convert | None = None
    max_length: int = MAX_TEXT
    exact: bool = False
    schema: Schema | None = None


def parameter(
    name: str,
    *aliases: str,
    field: str | None = None,
    of: Sequence[Parameter | str] = (),
    convert: Convert | None = None,
    max_length: int = MAX_TEXT,
    exact: bool = False,
    schema: Schema | None = None,
) -> Parameter:
    """Declare the field that a member of a path, query, header or body fills.

    Args:
        name: Its name in the contract.
        aliases: Other names, of which the first one given counts.
        field: The request's field, dotted for one inside another; the name when left out.
        of: Members of an object, or of each object in a list; without them, the fields' own names.
        convert: Changes the value before it is parsed as the field's type, e.g. an alias's word
            into the contract's. It may raise `parser.ParseError`; None means absent.
        max_length: Most characters of a text; a longer one is 400.
        exact: Whether `all` and an empty text are values and not "no filter", for searches.
        schema: For the document, where ``convert`` makes the field's own type misleading.
    """
    inner = tuple(as_parameter(member) for member in of)
    return Parameter((name, *aliases), field or name, inner, convert, max_length, exact, schema)


def as_parameter(member: Parameter | str) -> Parameter:
    """Return the parameter; a name alone is one without options."""
    return parameter(member) if isinstance(member, str) else member


class Reader:
    """Fills requests of one message type from some members; compiled when the bridge starts.

    Raises:
        ValueError: The message lacks a field that a member names.
    """

    def __init__(self, descriptor: Descriptor, members: Sequence[Parameter]) -> None:
        self._members = [(member.names, _writer(descriptor, member)) for member in members]

    def from_json(self, message: Any, values: Mapping[str, Any]) -> None:
        """Fill the request from an object of a body.

        Raises:
            Failure: 400, naming the member.
        """
        try:
            _fill(self._members, message, values, "")
        except ParseError as err:
            raise parse_failure(err) from err


class TextReader:
    """Fills requests from query parameters or headers; `all` and empty texts mean no filter."""

    def __init__(self, descriptor: Descriptor, members: Sequence[Parameter]) -> None:
        self._members = [
            (member.names, _writer(descriptor, member), member.exact) for member in members
        ]

    def from_text(self, message: Any, values: Mapping[str, str]) -> None:
        """Fill the request from texts by name.

        Raises:
            Failure: 400, naming the parameter.
        """
        for names, write, exact in self._members:
            for name in names:
                text = values.get(name)
                if text is not None and (exact or text.lower() not in _NO_FILTER):
                    try:
                        write(message, text, name)
                    except ParseError as err:
                        raise parse_failure(err) from err
                    break


def parse_failure(err: ParseError) -> Failure:
    """Return the failure for an unusable value."""
    return invalid(err.code or "INVALID_FIELD", err.path or "body", err.description)


def _fill(
    members: Sequence[tuple[tuple[str, ...], Write]], message: Any, values: Any, path: str
) -> None:
    if not isinstance(values, Mapping):
        raise ParseError(path, "must be an object")
    prefix = f"{path}." if path else ""
    for names, write in members:
        for name in names:
            value = values.get(name)
            if value is not None:
                write(message, value, prefix + name)
                break


def _writer(descriptor: Descriptor, member: Parameter) -> Write:
    *outer, last = member.field.split(".")
    here = descriptor
    for name in outer:
        step = here.fields_by_name.get(name)
        if step is None or step.message_type is None:
            raise ValueError(f"{descriptor.full_name} has no field {member.field}")
        here = step.message_type
    target = here.fields_by_name.get(_known_as(here, last))
    if target is None:
        raise ValueError(f"{descriptor.full_name} has no field {member.field}")
    write = _field_writer(target, member)
    convert = member.convert

    def write_member(message: Any, value: Any, path: str) -> None:
        if convert is not None:
            value = _at(convert, value, path)
            if value is None:
                return
        for name in outer:
            message = getattr(message, name)
        write(message, value, path)

    return write_member


def _known_as(descriptor: Descriptor, name: str) -> str:
    """Return the field of a member that the contract and our lists spell differently."""
    if name == "cursor" and name not in descriptor.fields_by_name:
        return "page_token"
    return name


def _field_writer(target: FieldDescriptor, member: Parameter) -> Write:
    kind, name = target.message_type, target.name
    if kind is not None and kind.GetOptions().map_entry:
        return _map_writer(name)
    if kind is not None and kind.full_name not in _FREE and kind.full_name != _TIMESTAMP:
        return _object_writer(target, member)
    if kind is not None:
        return _free_writer(target)
    convert = scalar(target, member.max_length)
    is_text = target.cpp_type == FieldDescriptor.CPPTYPE_STRING

    def write(message: Any, value: Any, path: str) -> None:
        # An empty text is an absent number or flag.
        if value != "" or is_text:
            setattr(message, name, _at(convert, value, path))

    def write_each(message: Any, value: Any, path: str) -> None:
        items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        getattr(message, name).extend(
            _at(convert, item, f"{path}[{index}]")
            for index, item in enumerate(_list(items, path))
            if item not in (None, "")
        )

    return write_each if target.is_repeated else write


def _object_writer(target: FieldDescriptor, member: Parameter) -> Write:
    kind, name = target.message_type, target.name
    assert kind is not None
    members = member.of or tuple(parameter(inner.name) for inner in kind.fields)
    writers = [(inner.names, _writer(kind, inner)) for inner in members]

    def write(message: Any, value: Any, path: str) -> None:
        inner = getattr(message, name)
        inner.SetInParent()
        _fill(writers, inner, value, path)

    def write_each(message: Any, value: Any, path: str) -> None:
        items = getattr(message, name)
        for index, item in enumerate(_list(value, path)):
            if item is not None:
                _fill(writers, items.add(), item, f"{path}[{index}]")

    return write_each if target.is_repeated else write


def _free_writer(target: FieldDescriptor) -> Write:
    kind, name = target.message_type, target.name
    assert kind is not None
    fill: Write = _write_instant if kind.full_name == _TIMESTAMP else compile_parser(kind)

    def write(message: Any, value: Any, path: str) -> None:
        inner = getattr(message, name)
        fill(inner, value, path)
        inner.SetInParent()

    def write_each(message: Any, value: Any, path: str) -> None:
        for index, item in enumerate(_list(value, path)):
            if item is not None:
                fill(getattr(message, name).add(), item, f"{path}[{index}]")

    return write_each if target.is_repeated else write


def _map_writer(name: str) -> Write:
    def write(message: Any, value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            raise ParseError(path, "must be an object")
        for key, item in value.items():
            if item is not None:
                getattr(message, name)[key] = text(item)

    return write


def _write_instant(message: Any, value: Any, path: str) -> None:
    message.FromDatetime(_at(instant, value, path))


def _list(value: Any, path: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ParseError(path, "must be a list")
    if len(value) > MAX_ITEMS:
        raise ParseError(path, f"may have at most {MAX_ITEMS} items", "OUT_OF_RANGE")
    return value


def _at(convert: Convert, value: Any, path: str) -> Any:
    try:
        return convert(value)
    except ParseError as err:
        raise ParseError(err.path or path, err.description, err.code) from err


def scalar(target: FieldDescriptor, max_length: int = MAX_TEXT) -> Convert:
    """Return the tolerant conversion of a JSON value or a text into this field's type.

    The function raises `ParseError` with an empty path. An integer with `nanousd` in its name is
    given in dollars.
    """
    bounds = _INTEGERS.get(target.cpp_type)
    if target.enum_type is not None:
        numbers = {name: number for number, name in enum_names(target).items()}
        return lambda value: _enum(value, numbers)
    if bounds is not None:
        return nanousd if "nanousd" in target.name else lambda value: integer(value, *bounds)
    if target.cpp_type in _REALS:
        return real
    if target.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return boolean
    return lambda value: text(value, max_length)


def text(value: Any, max_length: int = MAX_TEXT) -> str:
    """Parse a text; a number is converted to its digits."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ParseError("", "must be a string")
    if len(value) > max_length:
        raise ParseError("", f"must have at most {max_length} characters", "OUT_OF_RANGE")
    if _NOT_UTF8.search(value):
        raise ParseError("", "must be UTF-8")
    return value


def integer(value: Any, low: int = -(2**63), high: int = 2**63 - 1) -> int:
    """Parse an integer, also as `"5"`, `5.0` or `"5.0"`."""
    number = real(value) if not isinstance(value, int) or isinstance(value, bool) else value
    if isinstance(number, float) and not number.is_integer():
        raise ParseError("", "must be an integer")
    if not low <= number <= high:
        raise ParseError("", f"must be an integer in {low}..{high}", "OUT_OF_RANGE")
    return int(number)


def real(value: Any) -> float:
    """Parse a finite number, also as a text."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError(value)
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(value)
    except (ValueError, OverflowError) as err:
        raise ParseError("", "must be a number") from err
    return number


def nanousd(value: Any) -> int:
    """Parse dollars as nano-dollars, exactly for up to nine decimals."""
    real(value)
    try:
        amount = int((Decimal(str(value).strip()) * NANO).to_integral_value())
    except InvalidOperation as err:
        raise ParseError("", "must be a number") from err
    if abs(amount) >= 2**63:
        raise ParseError("", "is beyond any amount of money", "OUT_OF_RANGE")
    return amount


def boolean(value: Any) -> bool:
    """Parse a flag, also as a word or as 0 and 1."""
    word = str(value).strip().lower() if isinstance(value, (bool, int, str)) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ParseError("", "must be true or false")


def instant(value: Any) -> datetime:
    """Parse an instant as RFC 3339; without an offset it is UTC."""
    if not isinstance(value, str) or len(value) > _LONGEST_INSTANT:
        raise ParseError("", "must be a time as in 2026-03-01T12:00:00Z", "INVALID_DATE")
    try:
        at = datetime.fromisoformat(_FRACTION.sub(r"\1", value.strip()))
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as err:
        description = "must be a time as in 2026-03-01T12:00:00Z"
        raise ParseError("", description, "INVALID_DATE") from err
    return at


def instant_text(value: Any) -> str:
    """Parse an instant for RPCs that take it as a string field."""
    return instant(value).isoformat().replace("+00:00", "Z")


def _enum(value: Any, numbers: Mapping[str, int]) -> int:
    word = str(value).lower()
    if word not in numbers:
        raise ParseError("", f"must be one of {', '.join(numbers)}", "UNKNOWN_ENUM")
    return numbers[word]
