"""Strategies for messages and request bodies of any type of the API."""

from __future__ import annotations

from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
_FINITE = st.floats(allow_nan=False, allow_infinity=False)
_FREE = st.recursive(
    st.none() | st.booleans() | TEXTS | st.integers(-(2**53), 2**53) | _FINITE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_STRING: TEXTS,
    FieldDescriptor.CPPTYPE_DOUBLE: _FINITE,
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
}


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 3) -> Any:
    """Any message of a type, each optional part there or not."""
    message = message_factory.GetMessageClass(descriptor)()
    fill(draw, message, depth)
    return message


def fill(draw: st.DrawFn, message: Any, depth: int) -> None:
    """Fill a message with anything."""
    name = message.DESCRIPTOR.full_name
    if name == "google.protobuf.Timestamp":
        message.seconds = draw(st.integers(-62135596800, 253402300799))
        message.nanos = draw(st.sampled_from([0, 1, 1_000, 120_000_000, 999_999_999]))
    elif name == "google.protobuf.Duration":
        message.seconds = draw(st.integers(0, 10**9))
    elif name == "google.protobuf.Struct":
        message.update(draw(st.dictionaries(TEXTS, _FREE, max_size=3)))
    else:
        for field in message.DESCRIPTOR.fields:
            if draw(st.booleans()):
                _fill_field(draw, message, field, depth)


def _fill_field(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    value = getattr(message, field.name)
    count = draw(st.integers(0, 2)) if field.is_repeated else 1
    if field.message_type is None:
        values = [draw(_SCALARS[field.cpp_type]) for _ in range(count)]
        if field.is_repeated:
            value.extend(values)
        else:
            setattr(message, field.name, values[0])
    elif field.is_repeated:
        for _ in range(count if depth else 0):
            fill(draw, value.add(), depth - 1)
    elif depth:
        value.SetInParent()
        fill(draw, value, depth - 1)
