"""Which agents a caller may name, for every service whose requests name one."""

from __future__ import annotations

import time
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.agents import errors, queries, store
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Scope
from spotplane_server.kernel.request_context import Caller


def scope(caller: Caller) -> Scope:
    """A tenant's own rows; an administrator's all."""
    return caller.tenant_id or ALL_TENANTS


def agent_id(caller: Caller, text: str) -> UUID:
    """Read the id of an agent; an agent's own credential names itself only.

    Raises:
        Invalid: It is no UUID. AgentNotFound: It is another agent's.
    """
    found = wire.uuid(text, "agent_id", "agent ID")
    if caller.kind == "agent" and caller.id != str(found):
        raise errors.AgentNotFound
    return found


class Missing:
    """Agents that are known not to be there, so that one that never learns of it costs little.

    An id that was deleted is never an agent again, and a new agent has a new id; so what is here
    is never wrong, and is forgotten only to keep it small.
    """

    def __init__(self, size: int = 10_000, ttl_seconds: float = 60.0) -> None:
        self._size = size
        self._ttl_seconds = ttl_seconds
        self._until: OrderedDict[tuple[str, UUID], float] = OrderedDict()

    def add(self, scope: str, found: UUID) -> None:
        """Remember that there is no such agent in a scope."""
        self._until[scope, found] = time.monotonic() + self._ttl_seconds
        if len(self._until) > self._size:
            self._until.popitem(last=False)

    def has(self, scope: str, found: UUID) -> bool:
        """Whether that is known."""
        until = self._until.get((scope, found))
        if until is None:
            return False
        if until <= time.monotonic():
            self._until.pop((scope, found), None)
            return False
        return True


_MISSING: Final = Missing()
# How long a deleted agent may still say what became of its replicas.
LEFTOVERS_FOR: Final = timedelta(hours=24)


async def get_even_deleted(conn: Conn, found: UUID, now: datetime) -> queries.AgentView:
    """Read an agent, even one that was deleted within a day and has replicas left to confirm.

    For what such an agent still has to ask and to say, so that no instance is orphaned.

    Raises:
        AgentNotFound: There is none in the connection's scope.
    """
    view = await queries.get(conn, found, now, deleted_since=now - LEFTOVERS_FOR)
    if view is None:
        raise errors.AgentNotFound
    return view


async def lock_even_deleted(conn: Conn, found: UUID, now: datetime) -> store.Locked:
    """Hold an agent's row, even of one that `get_even_deleted` finds.

    Raises:
        AgentNotFound: There is none in the connection's scope.
    """
    locked = await store.lock(conn, found, deleted_since=now - LEFTOVERS_FOR)
    if locked is None:
        raise errors.AgentNotFound
    return locked


async def get(conn: Conn, found: UUID, now: datetime) -> queries.AgentView:
    """Read an agent.

    Raises:
        AgentNotFound: There is none in the connection's scope.
    """
    known_scope = _scope_of(conn)
    view = None if _MISSING.has(known_scope, found) else await queries.get(conn, found, now)
    if view is None:
        _MISSING.add(known_scope, found)
        raise errors.AgentNotFound
    return view


async def lock(conn: Conn, found: UUID) -> store.Locked:
    """Hold an agent's row.

    Raises:
        AgentNotFound: There is none in the connection's scope.
    """
    known_scope = _scope_of(conn)
    locked = None if _MISSING.has(known_scope, found) else await store.lock(conn, found)
    if locked is None:
        _MISSING.add(known_scope, found)
        raise errors.AgentNotFound
    return locked


def _scope_of(conn: Conn) -> str:
    return str(getattr(conn, "scope", ""))
