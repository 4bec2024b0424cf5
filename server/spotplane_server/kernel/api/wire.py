"""Parses request fields and formats response fields; every error names its field."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar
from uuid import UUID

import orjson
from google.protobuf import json_format, struct_pb2, timestamp_pb2
from google.protobuf.message import Message

from spotplane_server.kernel.errors import Invalid, Semantic

T = TypeVar("T")

MAX_METADATA_BYTES: Final = 16 * 1024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# The database driver stores these as infinities, which come back as times without a zone.
_INFINITE: Final = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_BARE_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


def has_field(request: Message, field: str) -> bool:
    """Whether an optional or message field was sent."""
    return request.HasField(field)


def optional(request: Message, field: str) -> Any:
    """An optional field's value, None when it was not sent."""
    return getattr(request, field) if request.HasField(field) else None


def uuid(text: str, field: str, what: str) -> UUID:
    """Read a UUID; ``what`` is for the message, e.g. ``region ID``.

    Raises:
        Invalid: ``INVALID_ID``, or ``MISSING_FIELD`` when empty.
    """
    if not text:
        raise missing(field)
    try:
        return UUID(text)
    except ValueError as err:
        raise Invalid(
            f"invalid {what}",
            reason="INVALID_ID",
            field=field,
            suggestion=f"pass a UUID as {field}",
        ) from err


def optional_uuid(request: Message, field: str, what: str) -> UUID | None:
    """Read an optional UUID."""
    return uuid(getattr(request, field), field, what) if request.HasField(field) else None


def positive_int(text: str, field: str, what: str) -> int:
    """Read an int32 of at least 1 from text.

    Raises:
        Invalid: ``INVALID_ID``.
    """
    if text.isascii() and text.isdigit() and 1 <= int(text) < 2**31:
        return int(text)
    raise Invalid(f"invalid {what}", reason="INVALID_ID", field=field)


def missing(field: str) -> Invalid:
    """The error for a required field that is absent."""
    return Invalid(f"{field} is required", reason="MISSING_FIELD", field=field)


def out_of_range(field: str, rule: str) -> Invalid:
    """The error for a number or length beyond its range."""
    return Invalid(f"{field} must be {rule}", reason="OUT_OF_RANGE", field=field)


def text(value: str, field: str, *, maximum: int, required: bool = False) -> str:
    """Trim a text and hold it to its length.

    Raises:
        Invalid: ``MISSING_FIELD`` or ``OUT_OF_RANGE``.
    """
    value = value.strip()
    if required and not value:
        raise missing(field)
    if len(value) > maximum:
        raise out_of_range(field, f"at most {maximum} characters")
    if "\x00" in value:
        raise Invalid(f"{field} must not contain NUL", field=field)
    return value


def optional_text(request: Message, field: str, *, maximum: int) -> str | None:
    """Read an optional text."""
    if not request.HasField(field):
        return None
    return text(getattr(request, field), field, maximum=maximum)


def texts(request: Message, field: str, *, maximum: int) -> list[str]:
    """Read a list of texts, each held to a length; empty ones are left out."""
    read = (text(value, field, maximum=maximum) for value in getattr(request, field))
    return [value for value in read if value]


def one_of(value: str, field: str, allowed: Iterable[str]) -> str:
    """Hold a text to a closed set.

    Raises:
        Invalid: ``UNKNOWN_ENUM``, listing the set; ``MISSING_FIELD`` when empty.
    """
    allowed = tuple(allowed)
    if not value:
        raise missing(field)
    if value not in allowed:
        raise Invalid(
            f"{field} must be one of {', '.join(allowed)}", reason="UNKNOWN_ENUM", field=field
        )
    return value


def optional_one_of(request: Message, field: str, allowed: Iterable[str]) -> str | None:
    """Read an optional member of a closed set."""
    return one_of(getattr(request, field), field, allowed) if request.HasField(field) else None


def optional_list(request: Message, field: str, read: Callable[[str], T]) -> list[T] | None:
    """Read an optional text of items with commas between them; ``read`` gets each trimmed."""
    if not request.HasField(field):
        return None
    return [read(item.strip()) for item in getattr(request, field).split(",")]


def integer(value: int, field: str, minimum: int, maximum: int) -> int:
    """Hold a number to its range.

    Raises:
        Invalid: ``OUT_OF_RANGE``.
    """
    if not minimum <= value <= maximum:
        raise out_of_range(field, f"between {minimum} and {maximum}")
    return value


def optional_integer(request: Message, field: str, minimum: int, maximum: int) -> int | None:
    """Read an optional number."""
    if not request.HasField(field):
        return None
    return integer(getattr(request, field), field, minimum, maximum)


def email(value: str, field: str = "email") -> str:
    """Read an e-mail address.

    Raises:
        Invalid: ``MISSING_FIELD``, ``OUT_OF_RANGE`` or ``INVALID_EMAIL``.
    """
    value = text(value, field, maximum=320, required=True)
    if not _EMAIL.fullmatch(value):
        raise Invalid("invalid e-mail address", reason="INVALID_EMAIL", field=field)
    return value


def decimal(
    value: float, field: str, *, digits: int, maximum: Decimal | int | None = None
) -> Decimal:
    """Read a number exactly, through the shortest text that means it.

    Raises:
        Invalid: ``OUT_OF_RANGE``: negative, not finite, too large or with too many fraction digits.
    """
    exact = Decimal(repr(value))
    if not exact.is_finite() or exact < 0:
        raise out_of_range(field, "a finite number, at least 0")
    exponent = exact.normalize().as_tuple().exponent
    if isinstance(exponent, int) and -exponent > digits:
        raise out_of_range(field, f"given with at most {digits} fraction digits")
    if maximum is not None and exact > maximum:
        raise out_of_range(field, f"at most {maximum}")
    return exact


def instant(value: str, field: str) -> datetime:
    """Read RFC 3339 with a zone.

    Raises:
        Invalid: ``INVALID_DATE``, with a suggestion for a bare date; also for the first and the
            last moment that there is.
    """
    try:
        parsed = datetime.fromisoformat(value)
        at = parsed.astimezone(UTC)
    except (ValueError, OverflowError):  # the latter: beyond the first or the last year
        parsed = None
    if parsed is None or parsed.tzinfo is None or "T" not in value.upper() or not is_storable(at):
        bare = _BARE_DATE.fullmatch(value) is not None
        raise Invalid(
            f"{field} must be an RFC 3339 date-time with a zone",
            reason="INVALID_DATE",
            field=field,
            suggestion=f"use {value}T00:00:00Z" if bare else "use e.g. 2026-01-31T00:00:00Z",
        )
    return at


def is_storable(at: datetime) -> bool:
    """Whether the database keeps an instant as what it is."""
    return at not in _INFINITE


def optional_instant(request: Message, field: str) -> datetime | None:
    """Read an optional instant."""
    return instant(getattr(request, field), field) if request.HasField(field) else None


def future(request: Message, field: str, now: datetime) -> datetime | None:
    """Read an optional instant that must lie ahead.

    Raises:
        Invalid: It is no instant. Semantic: it has passed.
    """
    at = optional_instant(request, field)
    if at is not None and at <= now:
        raise Semantic(f"{field} must be in the future", field=field)
    return at


def json_object(
    request: Message, field: str, *, maximum: int = MAX_METADATA_BYTES
) -> dict[str, Any] | None:
    """Read an optional Struct as a plain object.

    Raises:
        Invalid: ``OUT_OF_RANGE`` when its JSON is too large.
    """
    if not request.HasField(field):
        return None
    try:
        value = from_struct(getattr(request, field))
    except Invalid as err:
        raise Invalid(f"{field}: {err.message}", reason=err.reason, field=field) from err
    if len(orjson.dumps(value)) > maximum:
        raise out_of_range(field, f"at most {maximum} bytes of JSON")
    return value


def immutable(request: Message, present: Mapping[str, object]) -> None:
    """Let immutable fields be repeated, not changed.

    Raises:
        Semantic: One differs from ``present``.
    """
    for field, value in present.items():
        if request.HasField(field) and getattr(request, field) != value:
            raise Semantic(f"{field} cannot be changed", field=field)


def changes(request: Message, readers: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Read the fields of an update that are present.

    Raises:
        Invalid: ``NO_FIELDS`` when none is.
    """
    found = {name: read() for name, read in readers.items() if request.HasField(name)}
    if not found:
        raise Invalid(
            "no field to update",
            reason="NO_FIELDS",
            suggestion=f"send at least one of {', '.join(readers)}",
        )
    return found


def timestamp(at: datetime | None) -> timestamp_pb2.Timestamp | None:
    """An instant for an answer; None leaves the field absent."""
    if at is None:
        return None
    # Exact in integers, and several times faster than `FromDatetime`.
    since = at - _EPOCH
    return timestamp_pb2.Timestamp(
        seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000
    )


def from_timestamp(value: timestamp_pb2.Timestamp) -> datetime:
    """An instant of a stream message, aware UTC.

    Raises:
        Invalid: It lies outside of the years 1 to 9999, or is their first or last moment.
    """
    try:
        at = value.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as err:
        raise Invalid("a time must lie in the years 1 to 9999", reason="OUT_OF_RANGE") from err
    if not is_storable(at):
        raise Invalid("a time must lie within the years 1 to 9999", reason="OUT_OF_RANGE")
    return at


def struct(value: Mapping[str, Any]) -> struct_pb2.Struct:
    """A plain object for an answer."""
    result = struct_pb2.Struct()
    result.update(value)
    return result


def plain(message: Message, field: str) -> Any:
    """A message as plain JSON: an object, or a list for a `ListValue`.

    Raises:
        Invalid: A number is not finite, a time lies outside of the years 1 to 9999, or a text
            contains NUL, which the database cannot store.
    """
    try:
        value = json_format.MessageToDict(message, preserving_proto_field_name=True)
    except (json_format.Error, ValueError, OverflowError) as err:
        raise Invalid(
            f"{field} has a number or a time that JSON cannot express",
            reason="OUT_OF_RANGE",
            field=field,
        ) from err
    if b"\\u0000" in orjson.dumps(value):
        raise Invalid("a text must not contain NUL", field=field)
    return value


def from_struct(value: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as a plain object, whole numbers as integers.

    Raises:
        Invalid: A number is not finite, which JSON cannot say, or a text contains NUL, which the
            database cannot store.
    """
    return {_storable(name): _plain(item) for name, item in value.fields.items()}


def _plain(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "number_value":
            return _number(value.number_value)
        case "string_value":
            return _storable(value.string_value)
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _storable(value: str) -> str:
    if "\x00" in value:
        raise Invalid("a text must not contain NUL")
    return value


def _number(value: float) -> int | float:
    if not math.isfinite(value):
        raise Invalid("a number must be finite", reason="OUT_OF_RANGE")
    # Beyond 2^53 a double has no digits of its own for each integer; it is shown as the double.
    return int(value) if value.is_integer() and abs(value) <= 2**53 else value


def price(value: Decimal | None) -> float | None:
    """An exact price for an answer, through its shortest text."""
    return None if value is None else float(value)
