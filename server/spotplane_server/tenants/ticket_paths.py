"""Paths that accept tickets, and their access rules."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode
from uuid import UUID

from spotplane_server.kernel.errors import NotFound
from spotplane_server.kernel.request_context import Caller

# Exports and event streams, which browsers open without headers. The group is a tenant's id.
_TENANT_PATHS: Final = re.compile(
    r"/api/client/([^/]+)/export/(?:savings|switch-history)|/api/events/stream/([^/]+)"
)
_ADMIN_PATHS: Final = frozenset({"/api/admin/export/global-stats"})
_SHARED_PATHS: Final = frozenset({"/api/events/stream"})
# Parameters that are added to the URL later: the ticket, and the position when reconnecting.
_UNBOUND_PARAMETERS: Final = frozenset({"ticket", "last_event_id"})


class PathNotFound(NotFound):
    """The path accepts no tickets, or the caller may not use it."""

    reason = "PATH_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("there is no such path for tickets")


def validate_path(caller: Caller, requested: str) -> str:
    """Return the path with its normalized query.

    Raises:
        PathNotFound: The caller may not use it, or it accepts no tickets.
    """
    path, _, query = requested.partition("?")
    pairs = [
        (name, value)
        for name, value in parse_qsl(query, keep_blank_values=True)
        if name not in _UNBOUND_PARAMETERS
    ]
    if not (_may_use(caller, path) and _may_filter_by(caller, dict(pairs).get("client_id", ""))):
        raise PathNotFound
    return f"{path}?{urlencode(pairs)}" if pairs else path


def tenant_ids_in(path: str) -> list[UUID]:
    """Return the tenants in a path and in its `client_id` parameters.

    Raises:
        PathNotFound: A value is not a valid tenant id.
    """
    bare_path, _, query = path.partition("?")
    match = _TENANT_PATHS.fullmatch(bare_path)
    names = [unquote(match[1] or match[2])] if match else []
    names += [value for name, value in parse_qsl(query) if name == "client_id" and value != "all"]
    try:
        return [UUID(name) for name in names]
    except ValueError:
        raise PathNotFound from None


def _may_use(caller: Caller, path: str) -> bool:
    if caller.kind == "admin":
        if "admin:read" not in caller.scopes:
            return False
        return path in _ADMIN_PATHS | _SHARED_PATHS or bool(_TENANT_PATHS.fullmatch(path))
    if path in _SHARED_PATHS:
        return True
    match = _TENANT_PATHS.fullmatch(path)
    if match is None or caller.kind != "tenant":
        return False
    return unquote(match[1] or match[2]).lower() == str(caller.tenant_id)


def _may_filter_by(caller: Caller, tenant_id: str) -> bool:
    return caller.kind == "admin" or tenant_id.lower() in {"", "all", str(caller.tenant_id)}
