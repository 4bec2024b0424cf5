"""Normal form of responses: removes permitted differences between the frontends."""

from __future__ import annotations

import re
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tests.parity.worlds import MARK

_LONG: Final = {
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT64,
}
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_SECRET: Final = re.compile(r"\bsp[a]?_[a-z0-9]+_[0-9A-Za-z_]+(\.\.\.)?")
# The end of a name that was generated.
_GENERATED: Final = re.compile(r"(?<=-)[0-9a-f]{16}\b")
# Each call has its own, and the time of use is written a while after the use.
_VOLATILE: Final = frozenset({"last_used_at", "correlation_id"})
# Ids that are counted up.
_NUMBERED: Final = frozenset({"id", "instance_type_id"})


def normal_form(value: Any, descriptor: Descriptor | None) -> Any:
    """Drop null members and make numbers of 64-bit integers, as the contract defines it."""
    if isinstance(value, list):
        return [normal_form(item, descriptor) for item in value]
    if not isinstance(value, dict):
        return value
    fields = descriptor.fields_by_name if descriptor is not None else {}
    return {
        name: _member(member, fields.get(name))
        for name, member in value.items()
        if member is not None and name not in _VOLATILE
    }


def _member(value: Any, field: FieldDescriptor | None) -> Any:
    if field is None:
        return normal_form(value, None)
    if field.cpp_type in _LONG:
        return [int(item) for item in value] if isinstance(value, list) else int(value)
    inner = field.message_type
    if inner is None:
        return value
    if inner.full_name.startswith("google.protobuf."):
        return value
    return normal_form(value, inner)


def masked(value: Any, *, times_only: bool = False) -> Any:
    """Replace ids, times, secrets and worlds' names by markers, at any depth."""
    if isinstance(value, dict):
        return {name: _masked_member(name, item, times_only) for name, item in value.items()}
    if isinstance(value, list):
        return [masked(item, times_only=times_only) for item in value]
    if not isinstance(value, str):
        return value
    value = _TIME.sub("<time>", value)
    if times_only:
        return value
    for pattern, marker in (
        (_SECRET, "<secret>"),
        (_UUID, "<id>"),
        (_GENERATED, "<id>"),
        (MARK, "<world>"),
    ):
        value = pattern.sub(marker, value)
    return value


def _masked_member(name: str, value: Any, times_only: bool) -> Any:
    if name in _NUMBERED and isinstance(value, int) and not times_only:
        return "<id>"
    return masked(value, times_only=times_only)
