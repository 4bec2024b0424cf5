"""When a younger agent takes an older one's place.

Agents that go by their instance's name register anew, as another agent, on the instance that the
older one launched for its switch. Once the older one's report says so, the two are one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, TypeAlias
from uuid import UUID

from spotplane_server import events
from spotplane_server.agents import errors, store
from spotplane_server.agents.commands import store as store_module
from spotplane_server.instances import store as instances
from spotplane_server.instances import termination_store
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.switches import store as switches

# Hands an older agent's replicas to the younger one.
Inherit: TypeAlias = Callable[[Conn, TenantId, UUID, UUID, datetime], Awaitable[None]]

INHERIT_CONFIG: Final = """
    UPDATE agents y
       SET enabled = o.enabled, auto_switch_enabled = o.auto_switch_enabled,
           auto_terminate_enabled = o.auto_terminate_enabled,
           terminate_wait_seconds = o.terminate_wait_seconds,
           replica_enabled = o.replica_enabled, replica_count = o.replica_count,
           manual_replica_enabled = o.manual_replica_enabled,
           min_savings_percent = o.min_savings_percent, risk_threshold = o.risk_threshold,
           max_switches_per_week = o.max_switches_per_week,
           max_switches_per_day = o.max_switches_per_day,
           min_pool_duration_hours = o.min_pool_duration_hours,
           config_version = greatest(y.config_version, o.config_version) + 1,
           generation = y.generation + 1, updated_at = $4
      FROM agents o
     WHERE y.tenant_id = $1 AND y.id = $3 AND o.tenant_id = $1 AND o.id = $2
"""

REHOME_SESSIONS: Final = """
    UPDATE agent_sessions SET agent_id = $3 WHERE tenant_id = $1 AND agent_id = $2
"""


async def supersede(
    conn: Conn,
    tenant_id: TenantId,
    older: UUID,
    younger: UUID,
    *,
    inherit: Inherit,
    consent: bool,
    now: datetime,
) -> None:
    """Let ``younger`` take the place of ``older``, in one transaction.

    The younger keeps its primary and inherits configuration, limits, replicas, instances and past
    switches; the older one's primary becomes a zombie and itself is deleted, reason `superseded`.
    Its open switch stays, so that the result that is still to come is taken. Nothing happens when
    it was superseded before.

    Args:
        conn: In a transaction that holds the older agent's row.
        tenant_id: Whose agents they are.
        older: The agent that switched.
        younger: The agent on the instance that it switched to.
        inherit: Moves the older one's replicas.
        consent: Whether the old instance may be ended.
        now: When. Signal both agents' topics after the commit.

    Raises:
        AgentNotFound: There is no such younger agent.
    """
    heir = await store.lock(conn, younger)
    if heir is None or heir.tenant_id != tenant_id:
        raise errors.AgentNotFound
    former = await instances.find_primary(conn, tenant_id, older)
    if former is not None:
        await termination_store.retire(
            conn, tenant_id, former.id, to="zombie", now=now, consent=consent
        )
    await store_module.cancel(
        conn,
        tenant_id,
        older,
        statuses=("pending",),
        reason="another agent has taken this one's place",
        now=now,
    )
    await conn.execute(INHERIT_CONFIG, tenant_id, older, younger, now)
    await inherit(conn, tenant_id, older, younger, now)
    await instances.rehome(conn, tenant_id, older, younger, now)
    await conn.execute(REHOME_SESSIONS, tenant_id, older, younger)
    await switches.rehome(conn, tenant_id, older, younger)
    await store.delete(conn, tenant_id, older, now, reason="superseded", superseded_by=younger)
    await _announce(conn, tenant_id, older, heir, former.id if former else None, now)


async def _announce(
    conn: Conn,
    tenant_id: TenantId,
    older: UUID,
    heir: store.Locked,
    left: str | None,
    now: datetime,
) -> None:
    data = {
        "agent_id": str(older),
        "reason": "superseded",
        "superseded_by": str(heir.id),
        "agent_name": heir.logical_agent_id,
        "instance_id": left,
    }
    await events.append(conn, events.Event("agent.deleted", str(older), data, tenant_id), now)
