"""Errors of a declared route: what the server said, in the words of the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from spotplane_bridge.dialects.routes import Call
from spotplane_bridge.errors import Failure, fleet_code

_MALFORMED: Final = frozenset({"INVALID_ID", "MISSING_FIELD"})
_TENANT: Final = frozenset({"tenant_id"})


def told(failure: Failure, declared: Call, path_fields: frozenset[str]) -> Failure:
    """The failure as this route tells it.

    An id of the path that is malformed is one that does not exist, and so is another tenant's,
    wherever it stands. Documented members are added.
    """
    at = {detail.get("field", "").rpartition(".")[2] for detail in failure.details}
    malformed = failure.code in _MALFORMED and at and at <= path_fields
    foreign = failure.code == "TENANT_MISMATCH" or (failure.code == "INVALID_ID" and at == _TENANT)
    if malformed or foreign:
        failure = Failure(404, "NOT_FOUND", "", headers=failure.headers)
    code = fleet_code(failure.code)
    for key in ("*", code):
        failure.members.update(_members(declared.errors.get(key, {}), failure.metadata))
    return failure


def _members(declared: Mapping[str, Any], metadata: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in declared.items():
        if not callable(value):
            found[name] = value
        elif name in metadata:
            found[name] = value(metadata[name])
    return found
