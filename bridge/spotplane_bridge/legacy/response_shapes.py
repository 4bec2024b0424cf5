"""Declarative response shapes: JSON names in their order, each with the field that fills it.

A shape is compiled once for the message that it prints, into a printer and a JSON schema. Every
member is always printed; null appears only where a shape allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from spotplane_bridge.serializer import compile_serializer

Schema: TypeAlias = dict[str, Any]
Get: TypeAlias = Callable[[Any], Any]

NANO: Final = 1_000_000_000
_TIMESTAMP: Final = "google.protobuf.Timestamp"
_DURATION: Final = "google.protobuf.Duration"
_NOTHING: Final = object()
_REALS: Final = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})
_INTEGERS: Final = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)


class ShapeError(ValueError):
    """A shape does not fit its message; raised when the bridge starts, never by a request."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A member or a shape bound to its message type."""

    get: Get
    schema: Schema


class Member:
    """The source of one JSON value.

    Args:
        path: Field of the message, dotted for one inside another.
        change: Converts the value into JSON; without it, the field's type decides.
        schema: Schema of the value that ``change`` returns.
        absent: Value when the field is absent; None is null.
        empty: Whether an empty text, 0 or false counts as absent.
    """

    def __init__(
        self,
        path: str,
        change: Get | None = None,
        schema: Schema | None = None,
        *,
        absent: Any = _NOTHING,
        empty: bool = False,
    ) -> None:
        self._path = path
        self._change = change
        self._schema = schema
        self._absent = absent
        self._empty = empty

    def compile(self, descriptor: Descriptor) -> Compiled:
        """Bind the member to a message type.

        Raises:
            ShapeError: The message has no such field.
        """
        steps = _steps(descriptor, self._path)
        field = steps[-1]
        change, schema = self._change, self._schema or _schema(field)
        if change is None:
            change = _natural(field)
        absent = self._absent
        if absent is _NOTHING and any(step.has_presence for step in steps):
            absent = None
        if absent is None:
            schema = nullable(schema)
        return Compiled(self._getter(steps, change, absent), schema)

    def _getter(self, steps: list[FieldDescriptor], change: Get | None, absent: Any) -> Get:
        read: Get = attrgetter(self._path)
        is_there = None if absent is _NOTHING else _presence(steps)
        if is_there is None and not self._empty:
            return read if change is None else lambda message: change(read(message))

        def get(message: Any) -> Any:
            if is_there is not None and not is_there(message):
                return absent
            value = read(message)
            if self._empty and not value:
                return None if absent is _NOTHING else absent
            return value if change is None else change(value)

        return get


def field(path: str) -> Member:
    """Return a field by its type: money in dollars, instants with `Z`, null when it is absent.

    An integer whose name has `nanousd` in it is printed in dollars. A field without presence is
    never null.
    """
    return Member(path)


def optional(path: str) -> Member:
    """Return a field; null when it is absent, empty, or 0."""
    return Member(path, absent=None, empty=True)


def default(path: str, absent: Any) -> Member:
    """Return a field; ``absent`` when it is absent or an empty text, e.g. `n/a` or 0."""
    return Member(path, absent=absent, empty=True)


def usd(path: str, *, decimals: int = 6, absent: Any = _NOTHING) -> Member:
    """Return nano-dollars as a number of dollars; ``absent=0`` where pages expect a number."""
    return Member(path, lambda nanos: dollars(nanos, decimals), {"type": "number"}, absent=absent)


def number(path: str, *, decimals: int | None = None, absent: Any = _NOTHING) -> Member:
    """Return a number, rounded when ``decimals`` is given."""
    change = None if decimals is None else lambda value: round(value, decimals)
    return Member(path, change, {"type": "number"}, absent=absent)


def date(path: str) -> Member:
    """Return the UTC day of an instant."""
    return Member(path, _day, {"type": "string", "format": "date"})


def mapped(path: str, names: Mapping[Any, Any], *, other: Any = _NOTHING) -> Member:
    """Return a field's value by another name, e.g. the state `active` as `running`.

    Args:
        path: The field.
        names: New names by the value as it would be printed otherwise.
        other: For values without a new name; by default they are unchanged.
    """

    def change(value: Any) -> Any:
        return names.get(value, value if other is _NOTHING else other)

    return Member(path, change, {"type": _json_type(next(iter(names.values())))})


def made(make: Get, **schema: Any) -> Computed:
    """Return a value computed from the whole message, for renaming and regrouping only.

    Args:
        make: From the message to a JSON value.
        schema: Schema of the value, e.g. ``type="string"``.
    """
    return Computed(make, schema)


def const(value: Any) -> Computed:
    """Return a value that is the same in every response, where the contract fixes it."""
    return Computed(lambda _message: value, {"const": value})


@dataclass(frozen=True, slots=True)
class Computed:
    """A computed member; see `made`."""

    make: Get
    schema: Schema

    def compile(self, _descriptor: Descriptor) -> Compiled:
        """Bind the member to a message type."""
        return Compiled(self.make, self.schema)


@dataclass(frozen=True, slots=True)
class Nested:
    """A message inside another, in its own shape; null when it is absent."""

    path: str
    shape: Shape
    always: bool = False

    def compile(self, descriptor: Descriptor) -> Compiled:
        """Bind the member to a message type."""
        steps = _steps(descriptor, self.path)
        inner = self.shape.compile(_message_type(steps[-1], self.path))
        read, is_there = attrgetter(self.path), _presence(steps)
        if self.always or is_there is None:
            return Compiled(lambda message: inner.get(read(message)), inner.schema)
        return Compiled(
            lambda message: inner.get(read(message)) if is_there(message) else None,
            nullable(inner.schema),
        )


def nested(path: str, shape: Shape, *, always: bool = False) -> Nested:
    """Return a message inside another; ``always`` prints it from defaults when it is absent."""
    return Nested(path, shape, always)


@dataclass(frozen=True, slots=True)
class Each:
    """A list of messages, each in a shape."""

    path: str
    shape: Shape

    def compile(self, descriptor: Descriptor) -> Compiled:
        """Bind the member to a message type."""
        last = _steps(descriptor, self.path)[-1]
        if not last.is_repeated:
            raise ShapeError(f"{last.full_name} is no list")
        inner = self.shape.compile(_message_type(last, self.path))
        read, get = attrgetter(self.path), inner.get
        return Compiled(
            lambda message: [get(item) for item in read(message)],
            {"type": "array", "items": inner.schema},
        )


def each(path: str, shape: Shape) -> Each:
    """Return a list of messages, each in a shape."""
    return Each(path, shape)


Source: TypeAlias = "str | bool | int | Member | Computed | Nested | Each | Shape"


class Shape:
    """A JSON object: its members in their order.

    A member is a field's path (as `field`), ``True``/``False``/a number (a constant), a shape (an
    object of fields of the same message) or one of the functions above.

    Args:
        bases: Shapes with the leading members.
        members: By JSON name; use ``**{...}`` for names that Python does not accept.
    """

    def __init__(self, *bases: Shape, **members: Source) -> None:
        self.members: dict[str, Source] = {}
        for base in bases:
            self.members.update(base.members)
        self.members.update(members)

    def compile(self, descriptor: Descriptor) -> Compiled:
        """Bind the shape to a message type.

        Raises:
            ShapeError: A member names a field that the message does not have.
        """
        parts = {name: _source(source).compile(descriptor) for name, source in self.members.items()}
        getters = tuple((name, part.get) for name, part in parts.items())
        return Compiled(
            lambda message: {name: get(message) for name, get in getters},
            {
                "type": "object",
                "properties": {name: part.schema for name, part in parts.items()},
                "required": list(parts),
            },
        )


@dataclass(frozen=True, slots=True)
class Array:
    """A bare JSON array of the messages in a repeated field."""

    path: str
    shape: Shape

    def compile(self, descriptor: Descriptor) -> Compiled:
        """Bind the array to a message type."""
        return Each(self.path, self.shape).compile(descriptor)


@dataclass(frozen=True, slots=True)
class Either:
    """One of two shapes, chosen by a condition on the response."""

    when: Callable[[Any], bool]
    then: Shape
    otherwise: Shape

    def compile(self, descriptor: Descriptor) -> Compiled:
        """Bind both shapes to a message type."""
        when = self.when
        then, otherwise = self.then.compile(descriptor), self.otherwise.compile(descriptor)
        return Compiled(
            lambda message: (then if when(message) else otherwise).get(message),
            {"oneOf": [then.schema, otherwise.schema]},
        )


def dollars(nanos: int, decimals: int = 6) -> float | int:
    """Return nano-dollars as dollars, rounded half away from zero; whole dollars stay integers."""
    step = 10 ** (9 - decimals)
    units = (abs(nanos) + step // 2) // step
    amount = units / 10**decimals
    amount = -amount if nanos < 0 and units else amount
    return int(amount) if amount.is_integer() else amount


def nullable(schema: Schema) -> Schema:
    """Return a schema that also allows null."""
    kind = schema.get("type")
    if isinstance(kind, str):
        return {**schema, "type": [kind, "null"]}
    if isinstance(kind, list) and "null" in kind:
        return schema
    return {"oneOf": [schema, {"type": "null"}]} if schema else schema


def _source(source: Source) -> Any:
    if isinstance(source, str):
        return field(source)
    if isinstance(source, (bool, int, float)):
        return const(source)
    return source


def _steps(descriptor: Descriptor, path: str) -> list[FieldDescriptor]:
    steps: list[FieldDescriptor] = []
    here: Descriptor | None = descriptor
    for name in path.split("."):
        found = here.fields_by_name.get(name) if here is not None else None
        if found is None:
            raise ShapeError(f"{descriptor.full_name} has no field {path}")
        steps.append(found)
        here = found.message_type
    return steps


def _message_type(last: FieldDescriptor, path: str) -> Descriptor:
    kind: Descriptor | None = last.message_type
    if kind is None:
        raise ShapeError(f"{path} is no message")
    return kind


def _presence(steps: list[FieldDescriptor]) -> Callable[[Any], bool] | None:
    """Return a test for the presence of every part of a path; None when it is always present."""
    names = [step.name for step in steps]
    checked = [step.has_presence for step in steps]
    if not any(checked):
        return None
    if len(names) == 1:
        only = names[0]
        return lambda message: bool(message.HasField(only))

    def is_there(message: Any) -> bool:
        for name, check in zip(names, checked, strict=True):
            if check and not message.HasField(name):
                return False
            message = getattr(message, name)
        return True

    return is_there


def _natural(last: FieldDescriptor) -> Get | None:
    """Return the conversion of a field into JSON by its type; None when it is JSON already."""
    kind = last.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return lambda value: {str(key): value[key] for key in sorted(value)}
    one = _natural_one(last)
    if not last.is_repeated:
        return one
    return list if one is None else lambda values: [one(value) for value in values]


def _natural_one(last: FieldDescriptor) -> Get | None:
    kind = last.message_type
    if kind is not None:
        if kind.full_name == _DURATION:
            return lambda value: int(value.seconds)
        return compile_serializer(kind)
    if last.enum_type is not None:
        names = enum_names(last)
        return lambda value: names.get(value, str(value))
    if last.cpp_type in _INTEGERS and "nanousd" in last.name:
        return dollars
    return None


def enum_names(last: FieldDescriptor) -> dict[int, str]:
    """Return the names of an enum's values by number: lower-case, without the enum's own name."""
    assert last.enum_type is not None
    full = "".join(f"_{c}" if c.isupper() else c.upper() for c in last.enum_type.name).lstrip("_")
    return {
        value.number: value.name.removeprefix(f"{full}_").lower() for value in last.enum_type.values
    }


def _day(value: Any) -> str:
    return str(value)[:10] if isinstance(value, str) else value.ToDatetime().date().isoformat()


def _schema(last: FieldDescriptor) -> Schema:
    kind = last.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": True}
    one = _schema_one(last)
    return {"type": "array", "items": one} if last.is_repeated else one


def _schema_one(last: FieldDescriptor) -> Schema:
    kind = last.message_type
    if kind is not None:
        if kind.full_name == _TIMESTAMP:
            return {"type": "string", "format": "date-time"}
        if kind.full_name == _DURATION:
            return {"type": "integer"}
        return {"type": "object", "additionalProperties": True}
    if last.enum_type is not None:
        return {"type": "string", "enum": list(enum_names(last).values())}
    if last.cpp_type in _INTEGERS:
        return {"type": "number"} if "nanousd" in last.name else {"type": "integer"}
    if last.cpp_type in _REALS:
        return {"type": "number"}
    return {"type": "boolean" if last.cpp_type == FieldDescriptor.CPPTYPE_BOOL else "string"}


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "string" if isinstance(value, str) else "number"
