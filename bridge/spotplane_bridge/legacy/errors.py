"""Translate the server's errors into the codes and member names of a legacy route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from spotplane_bridge.errors import Failure, legacy_code
from spotplane_bridge.legacy.routes import Call

_TENANT: Final = frozenset({"tenant_id"})


def translate_error(failure: Failure, declared: Call, path_fields: frozenset[str]) -> Failure:
    """Return the failure in the terms of this route.

    A malformed id of the path becomes a 404, and so does another tenant's id anywhere in the
    request. Fields have the names of the route's members. Documented members are added.
    """
    at = {detail.get("field", "").rpartition(".")[2] for detail in failure.details}
    code = legacy_code(failure.code)
    malformed = code == "VALIDATION_ERROR" and at and at <= path_fields
    foreign = failure.code == "TENANT_MISMATCH" or (failure.code == "INVALID_ID" and at == _TENANT)
    if malformed or foreign:
        failure = Failure(404, "NOT_FOUND", "", headers=failure.headers)
        code = failure.code
    if code == "NOT_FOUND":
        # A suggestion about an unknown id would distinguish it from a malformed one.
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
            text = detail.get("description", "")
            failure.message = _rename_in_message(failure.message, field, name)
            detail.update(field=name, description=_rename_in_message(text, field, name))


def _rename_in_message(text: str, field: str, name: str) -> str:
    return name + text[len(field) :] if text.startswith(f"{field} ") else text


def _members(declared: Mapping[str, Any], metadata: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in declared.items():
        if not callable(value):
            found[name] = value
        elif name in metadata:
            found[name] = value(metadata[name])
    return found
