"""Estimates the memory of a message from its wire bytes, before it is parsed.

The parser makes an object of 250 bytes from a nested message of two, so that a request of 10 MiB
can take more than a gigabyte and hold the event loop for seconds. The estimate is an upper bound
that is cheap for the usual request: first from the size alone, then from the outermost fields,
and only then by a walk through all fields. Walks allocate nothing per field, end as soon as the
limit is passed, and give way to other work every few milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

# Depth at which protobuf's own parser gives up.
MAX_DEPTH: Final = 100
# Fields between two chances for other work: about 2 ms.
STEP: Final = 8_192
# Bytes, measured with protobuf 6.33 (upb) and rounded up. A member of a list takes 36 bytes; a
# single number takes none, but a walk takes time for it.
FIELD_COST: Final = 40
_MESSAGE_COST: Final = 32
_SLOT_COST: Final = 16
# The least that a field takes on the wire: its tag, and a length or a number.
_LEAST_BYTES: Final = 2

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
# Ten bytes of seven bits, more than a number has.
_VARINT_BITS: Final = 70
_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_NUMBERS: Final = {
    FieldDescriptor.TYPE_DOUBLE: 8,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
}


class Malformed(ValueError):
    """The bytes are not in the wire format."""


class TooLarge(ValueError):
    """A parsed message would take more memory than its limit.

    Args:
        path: The field with which the limit was passed; empty for an unknown field.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


@dataclass(slots=True)
class _Field:
    """A length-delimited field.

    Attributes:
        cost: Bytes of memory for one value.
        inside: The shape of a nested message.
        unit: Bytes of one packed number, 0 where the field is not packed.
    """

    name: str
    cost: int = FIELD_COST
    inside: Shape | None = None
    unit: int = 0


@dataclass(slots=True)
class Shape:
    """What a walk needs to know of a message type.

    Attributes:
        fields: Nested messages and packed lists, by field number; all others cost the same.
        names: Names of all fields, by number.
        ratio: Most bytes of memory for a byte on the wire, however deeply nested.
    """

    fields: dict[int, _Field] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    ratio: int = FIELD_COST // _LEAST_BYTES

    def raise_ratio(self) -> bool:
        """Raise the ratio to that of the nested messages; whether it has changed."""
        before = self.ratio
        nested = [item.inside.ratio for item in self.fields.values() if item.inside]
        self.ratio = max(before, *nested, 0)
        return self.ratio > before


_UNKNOWN: Final = Shape()
_PLAIN: Final = _Field("")


def shape_of(message: Descriptor) -> Shape:
    """Prepare walks through messages of a type."""
    seen: dict[str, Shape] = {}
    shape = _shape(message, seen)
    # Types may contain each other, so the ratios are carried outwards until none changes.
    while any(known.raise_ratio() for known in seen.values()):
        pass
    return shape


def _shape(message: Descriptor, seen: dict[str, Shape]) -> Shape:
    if message.full_name in seen:
        return seen[message.full_name]
    shape = seen[message.full_name] = Shape()
    for item in message.fields:
        shape.names[item.number] = item.name
        if item.message_type is not None:
            cost = _MESSAGE_COST + _SLOT_COST * _slots(item.message_type)
            inside = _shape(item.message_type, seen)
            shape.fields[item.number] = _Field(item.name, cost, inside)
            shape.ratio = max(shape.ratio, cost // _LEAST_BYTES)
        elif item.is_repeated and item.type not in (
            FieldDescriptor.TYPE_STRING,
            FieldDescriptor.TYPE_BYTES,
        ):
            unit = _NUMBERS.get(item.type, 1)
            shape.fields[item.number] = _Field(item.name, unit=unit)
            shape.ratio = max(shape.ratio, FIELD_COST // unit)
    return shape


def _slots(message: Descriptor) -> int:
    """Values that a message has room for; of a oneof there is one."""
    return len({(item.containing_oneof or item).full_name for item in message.fields})


def check(data: bytes, shape: Shape, limit: int) -> Iterator[None]:
    """Check the memory of a message; yields now and then so that other work gets its turn.

    Raises:
        TooLarge: It may take more than ``limit`` bytes.
        Malformed: The bytes are no message.
    """
    if len(data) * shape.ratio <= limit:
        return
    try:
        outline = _Walk(data, shape, limit, nested=False)
        try:
            yield from outline.run()
        except TooLarge:
            if outline.is_exact:
                raise
            yield from _Walk(data, shape, limit, nested=True).run()
    except IndexError:
        raise Malformed from None


class _Level(NamedTuple):
    """A message that is being walked through; ``group`` is its number where it is a group."""

    name: str
    shape: Shape
    end: int
    group: int = 0


class _Walk:
    """Adds up the costs of a message's fields.

    Args:
        data: The message.
        shape: Of its type.
        limit: Of the sum.
        nested: Whether nested messages are walked through; otherwise their length counts.
    """

    __slots__ = ("_cost", "_data", "_level", "_limit", "_nested", "_outer", "_pos", "is_exact")

    def __init__(self, data: bytes, shape: Shape, limit: int, *, nested: bool) -> None:
        self._data = data
        self._limit = limit
        self._nested = nested
        self._pos = self._cost = 0
        self._level = _Level("", shape, len(data))
        self._outer: list[_Level] = []
        self.is_exact = True

    def run(self) -> Iterator[None]:
        """Walk; yields after every `STEP` fields.

        Raises:
            TooLarge, Malformed, IndexError: As `check` does; `IndexError` for a truncated message.
        """
        fields = 0
        while True:
            if self._pos < self._level.end:
                self._field()
                fields += 1
                if not fields % STEP:
                    yield
            elif self._pos > self._level.end or self._level.group:
                raise Malformed
            elif self._outer:
                self._level = self._outer.pop()
            else:
                return

    def _field(self) -> None:
        tag = self._varint()
        number, wire_type = tag >> 3, tag & 7
        level, cost = self._level, FIELD_COST
        if wire_type == _BYTES:
            cost = self._delimited(level.shape.fields.get(number, _PLAIN))
        elif wire_type == _VARINT:
            self._varint()
        elif wire_type in _SIZES:
            self._pos += _SIZES[wire_type]
        elif wire_type == _GROUP:
            self._enter(_Level("", _UNKNOWN, level.end, number))
        elif wire_type == _GROUP_END and level.group == number:
            self._level = self._outer.pop()
        else:
            raise Malformed
        self._cost += cost
        if self._cost > self._limit:
            raise TooLarge(self._path(level, number))

    def _delimited(self, found: _Field) -> int:
        length = self._varint()
        end = self._pos + length
        if end > self._level.end:
            raise Malformed
        inside = found.inside
        if inside is not None and self._nested:
            self._enter(_Level(found.name, inside, end))
            return found.cost
        self._pos = end
        if inside is not None and length:
            self.is_exact = False
            return found.cost + length * inside.ratio
        return found.cost + length // found.unit * FIELD_COST if found.unit else found.cost

    def _enter(self, level: _Level) -> None:
        if len(self._outer) >= MAX_DEPTH:
            raise Malformed
        self._outer.append(self._level)
        self._level = level

    def _varint(self) -> int:
        data, pos = self._data, self._pos
        value = data[pos]
        shift = 0
        while value >> shift >= 128:
            pos, shift = pos + 1, shift + 7
            if shift >= _VARINT_BITS:
                raise Malformed
            value += (data[pos] - 1) << shift
        self._pos = pos + 1
        return value

    def _path(self, level: _Level, number: int) -> str:
        outer = [known.name for known in self._outer if known is not level]
        names = [*outer, level.name, level.shape.names.get(number, "")]
        return ".".join(name for name in names if name)
