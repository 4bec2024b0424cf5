"""Leaving: an agent is deleted, or an instance of one is gone."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from spotplane_server import events
from spotplane_server.agents import convert, store
from spotplane_server.agents.commands import store as store_module
from spotplane_server.agents.handlers import Standby
from spotplane_server.agents.sessions import store as sessions_store
from spotplane_server.instances import store as instances
from spotplane_server.kernel.auth import authenticator
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.switches import store as switches


async def delete(
    conn: Conn, locked: store.Locked, standby: Standby, *, reason: str, now: datetime
) -> None:
    """Delete an agent softly, with all that follows; bump no topic before the commit.

    Its commands are cancelled, its replicas marked for their end, its primary retired, and its
    credential is worth nothing any more.
    """
    tenant_id, agent_id = locked.tenant_id, locked.id
    await store_module.cancel(conn, tenant_id, agent_id, reason="the agent was deleted", now=now)
    primary = await instances.find_primary(conn, tenant_id, agent_id)
    if primary is not None:
        await instances.move(
            conn, tenant_id, primary.id, frm=("running_primary",), to="zombie", now=now
        )
    await standby.end_all(conn, tenant_id, agent_id, now)
    await store.delete(conn, tenant_id, agent_id, now, reason=reason)
    await authenticator.bump_epoch(conn)
    data = {
        "agent_id": str(agent_id),
        "agent_name": locked.logical_agent_id,
        "instance_id": primary.id if primary else None,
        "reason": reason,
    }
    await events.append(conn, events.Event("agent.deleted", str(agent_id), data, tenant_id), now)


async def meant(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, said: str | None, now: datetime
) -> instances.Instance | None:
    """The agent's instance that a goodbye is about, None when it is not the agent's.

    One that names none is that of the instance which the agent left last, if that one still owes
    it, and the primary's otherwise. Call it with the agent's row held.
    """
    if not said:
        left = await switches.settle_goodbye(conn, tenant_id, agent_id, now)
        if left is None:
            return await instances.find_primary(conn, tenant_id, agent_id)
        said = left
    else:
        await switches.settle_goodbye(conn, tenant_id, agent_id, now, instance_id=said)
    found = await instances.find(conn, tenant_id, said)
    return found if found is not None and found.agent_id == agent_id else None


async def say_goodbye(
    conn: Conn, agent_id: UUID, known: instances.Instance, why: str, now: datetime
) -> bool:
    """Note that an instance left; whether its agent is offline by that."""
    offline = await store.set_offline_if_primary(conn, known.tenant_id, agent_id, known.id, now)
    await sessions_store.leave(conn, known.tenant_id, known.id, now)
    if offline:
        event = convert.marked_offline(known.tenant_id, agent_id, known.id, why)
        await events.append(conn, event, now)
    return offline


async def bury(
    conn: Conn,
    agent_id: UUID,
    known: instances.Instance,
    standby: Standby,
    *,
    why: str,
    kind: str | None,
    now: datetime,
) -> None:
    """Note that an instance is gone for good, whatever it was; a repeat changes nothing."""
    if known.status == "terminated":
        return
    await say_goodbye(conn, agent_id, known, why, now)
    if known.status == "running_primary":
        await instances.move(
            conn, known.tenant_id, known.id, frm=("running_primary",), to="terminated", now=now
        )
        await store.raise_generation(conn, known.tenant_id, agent_id, now=now)
    else:
        await standby.confirm_gone(conn, known.tenant_id, agent_id, known.id, now)
    data = {
        "agent_id": str(agent_id),
        "instance_id": known.id,
        "reason": why,
        "termination_type": kind,
        "was": known.status,
    }
    event = events.Event("instance.terminated", str(agent_id), data, known.tenant_id)
    await events.append(conn, event, now)
