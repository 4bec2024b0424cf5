"""Which paths take tickets, and who may use them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode
from uuid import UUID

from spotplane_server.kernel.errors import NotFound
from spotplane_server.kernel.request_context import Caller

# Exports and event streams: what browsers open without headers. The group is a tenant's id.
_OF_A_TENANT: Final = re.compile(
    r"/api/client/([^/]+)/export/(?:savings|switch-history)|/api/events/stream/([^/]+)"
)
_OF_ADMINISTRATORS: Final = frozenset({"/api/admin/export/global-stats"})
_OF_ANYBODY: Final = frozenset({"/api/events/stream"})
# What the URL gets later, and what it is reopened with.
_NOT_BOUND: Final = frozenset({"ticket", "last_event_id"})


class PathNotFound(NotFound):
    """The path takes no tickets, or the caller may not use it."""

    reason = "PATH_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("there is no such path for tickets")


def checked(caller: Caller, asked: str) -> str:
    """The path with its query as it will arrive.

    Raises:
        PathNotFound: The caller may not use it, or it takes no tickets.
    """
    path, _, query = asked.partition("?")
    pairs = [
        (name, value)
        for name, value in parse_qsl(query, keep_blank_values=True)
        if name not in _NOT_BOUND
    ]
    if not (_may_use(caller, path) and _may_name(caller, dict(pairs).get("client_id", ""))):
        raise PathNotFound
    return f"{path}?{urlencode(pairs)}" if pairs else path


def named_tenants(path: str) -> list[UUID]:
    """Tenants that a path names by itself or by `client_id`.

    Raises:
        PathNotFound: What it names is no tenant's id.
    """
    place, _, query = path.partition("?")
    match = _OF_A_TENANT.fullmatch(place)
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
        return path in _OF_ADMINISTRATORS | _OF_ANYBODY or bool(_OF_A_TENANT.fullmatch(path))
    if path in _OF_ANYBODY:
        return True
    match = _OF_A_TENANT.fullmatch(path)
    if match is None or caller.kind != "tenant":
        return False
    return unquote(match[1] or match[2]).lower() == str(caller.tenant_id)


def _may_name(caller: Caller, tenant_id: str) -> bool:
    return caller.kind == "admin" or tenant_id.lower() in {"", "all", str(caller.tenant_id)}
