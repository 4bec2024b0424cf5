"""Which agents a caller may name, for every service whose requests name one."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from spotplane_server.agents import errors, store
from spotplane_server.kernel import wire
from spotplane_server.kernel.calls import Caller
from spotplane_server.kernel.db import EVERY_TENANT, Conn, Scope


def scope(caller: Caller) -> Scope:
    """A tenant's own rows; an administrator's all."""
    return caller.tenant_id or EVERY_TENANT


def agent_id(caller: Caller, text: str) -> UUID:
    """Read the id of an agent; an agent's own credential names itself only.

    Raises:
        Invalid: It is no UUID. AgentNotFound: It is another agent's.
    """
    found = wire.uuid(text, "agent_id", "agent ID")
    if caller.kind == "agent" and caller.id != str(found):
        raise errors.AgentNotFound
    return found


async def get(conn: Conn, found: UUID, now: datetime) -> store.AgentView:
    """Read an agent.

    Raises:
        AgentNotFound: There is none in the connection's scope.
    """
    view = await store.get(conn, found, now)
    if view is None:
        raise errors.AgentNotFound
    return view


async def lock(conn: Conn, found: UUID) -> store.Locked:
    """Hold an agent's row.

    Raises:
        AgentNotFound: There is none in the connection's scope.
    """
    locked = await store.lock(conn, found)
    if locked is None:
        raise errors.AgentNotFound
    return locked
