"""Errors of a declared route: what the server said, in the words of the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from spotplane_bridge.errors import Failure, fleet_code
from spotplane_bridge.legacy.routes import Call

_TENANT: Final = frozenset({"tenant_id"})


def told(failure: Failure, declared: Call, path_fields: frozenset[str]) -> Failure:
    """The failure as this route tells it.

    An id of the path that is malformed is one that does not exist, and so is another tenant's,
    wherever it stands. Fields have the names of the route's members. Documented members are added.
    """
    at = {detail.get("field", "").rpartition(".")[2] for detail in failure.details}
    code = fleet_code(failure.code)
    malformed = code == "VALIDATION_ERROR" and at and at <= path_fields
    foreign = failure.code == "TENANT_MISMATCH" or (failure.code == "INVALID_ID" and at == _TENANT)
    if malformed or foreign:
        failure = Failure(404, "NOT_FOUND", "", headers=failure.headers)
        code = failure.code
    if code == "NOT_FOUND":
        # What to do about an unknown id would tell it from a malformed one.
        failure.suggestion = None
    _rename(failure, declared)
    for key in ("*", code):
        failure.members.update(_members(declared.errors.get(key, {}), failure.metadata))
    return failure


def _rename(failure: Failure, declared: Call) -> None:
    names = {member.field: member.names[0] for member in (*declared.query, *declared.body)}
    names["page_token"] = "cursor"
    for detail in failure.details:
        field = detail.get("field", "")
        name = names.get(field, field)
        if name != field:
            said = detail.get("description", "")
            failure.message = _said_of(failure.message, field, name)
            detail.update(field=name, description=_said_of(said, field, name))


def _said_of(said: str, field: str, name: str) -> str:
    return name + said[len(field) :] if said.startswith(f"{field} ") else said


def _members(declared: Mapping[str, Any], metadata: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in declared.items():
        if not callable(value):
            found[name] = value
        elif name in metadata:
            found[name] = value(metadata[name])
    return found
