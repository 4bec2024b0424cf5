"""Failovers as agents, operators and dashboards see them; `store` writes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

GET_FAILOVER: Final = """
    SELECT tenant_id, id, agent_id, instance_id, pool_id, kind, status, action, replica_id,
           new_instance_id, message, detected_at, deadline, promoted_at, resolved_at
      FROM failovers
     WHERE tenant_id = $1 AND agent_id = $2 AND id = $3
"""

LIST_STEPS: Final = """
    SELECT kind, occurred_at, detail
      FROM failover_steps
     WHERE tenant_id = $1 AND failover_id = $2
     ORDER BY seq
"""

LIST_FAILOVERS: Final = """
    SELECT tenant_id, id, agent_id, instance_id, pool_id, kind, status, action, replica_id,
           new_instance_id, message, detected_at, deadline, promoted_at, resolved_at
      FROM failovers
     WHERE tenant_id = $1 AND agent_id = $2 AND ($3::text IS NULL OR status = $3)
       AND ($4::timestamptz IS NULL OR (detected_at, id) < ($4, $5))
     ORDER BY detected_at DESC, id DESC
     LIMIT $6 OFFSET $7
"""

COUNT_FAILOVERS: Final = """
    SELECT count(*)
      FROM failovers
     WHERE tenant_id = $1 AND agent_id = $2 AND ($3::text IS NULL OR status = $3)
"""

# What an agent is told of its signal: the failover, and the replica that it relies on.
FIND_OUTCOME: Final = """
    SELECT f.id, f.instance_id, f.kind, f.status, f.action, f.message, f.noticed_at, f.promoted_at,
           f.new_instance_id, f.switch_command_id, i.pool_id, i.mode, i.az,
           r.id AS replica_id, r.instance_id AS replica_instance_id, r.pool_id AS replica_pool_id,
           r.instance_type AS replica_type, r.az AS replica_az,
           r.hourly_cost_nanousd AS replica_cost_nanousd, r.created_at AS replica_created_at
      FROM failovers f
      LEFT JOIN instances i ON i.tenant_id = f.tenant_id AND i.id = f.instance_id
      LEFT JOIN replicas r
        ON r.tenant_id = f.tenant_id AND r.agent_id = f.agent_id
       AND CASE WHEN f.action = 'promoted_replica' THEN r.id = f.replica_id
                WHEN f.status = 'ignored' THEN false
                ELSE r.status IN ('launching', 'syncing', 'ready') END
     WHERE f.tenant_id = $1 AND f.id = $2
"""

FIND_NEWEST: Final = """
    SELECT id, tenant_id, agent_id, instance_id, kind, status, action, replica_id, new_instance_id,
           detected_at, noticed_at, acted_at, promoted_at, deadline, bypassed
      FROM failovers
     WHERE tenant_id = $1 AND agent_id = $2 AND kind <> 'drain'
     ORDER BY status IN ('detected', 'handling') DESC, detected_at DESC, id DESC
     LIMIT 1
"""

COUNT_AROUND: Final = """
    SELECT (SELECT count(*)
              FROM replicas
             WHERE tenant_id = $1 AND agent_id = $2 AND created_by = 'emergency'
               AND status IN ('launching', 'syncing', 'ready')) AS replicas,
           (SELECT count(*)
              FROM failovers
             WHERE tenant_id = $1 AND agent_id = $2 AND kind = 'termination'
               AND noticed_at > $3) AS notices
"""

LIST_EMERGENCIES: Final = """
    SELECT id, tenant_id, agent_id, instance_id, kind, status, action, replica_id, new_instance_id,
           detected_at, noticed_at, acted_at, promoted_at, deadline, bypassed
      FROM failovers
     WHERE kind <> 'drain' AND detected_at > $1
     ORDER BY detected_at DESC, id DESC
     LIMIT $2
"""

SUM_EMERGENCIES: Final = """
    SELECT count(*) FILTER (WHERE kind <> 'silence') AS total,
           count(*) FILTER (WHERE kind = 'rebalance') AS rebalance,
           count(*) FILTER (WHERE kind = 'termination') AS termination,
           count(*) FILTER (WHERE kind = 'silence') AS silence,
           count(*) FILTER (WHERE kind <> 'silence' AND action = 'promoted_replica') AS promoted,
           count(*) FILTER (WHERE kind <> 'silence' AND status = 'failed') AS failed
      FROM failovers
     WHERE kind <> 'drain' AND detected_at > $1
"""

MOST: Final = 500
NOTICES_WITHIN: Final = timedelta(hours=24)
STATUSES: Final = ("detected", "handling", "resolved", "failed", "ignored")


@dataclass(frozen=True, slots=True)
class Failover:
    """One instance's going, and what was done about it."""

    tenant_id: TenantId
    id: UUID
    agent_id: UUID
    instance_id: str
    pool_id: str | None
    kind: str
    status: str
    action: str
    replica_id: UUID | None
    new_instance_id: str | None
    message: str | None
    detected_at: datetime
    deadline: datetime | None
    promoted_at: datetime | None
    resolved_at: datetime | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a signal so far, and the replica that the agent relies on, if any.

    Attributes:
        pool_id: Of the instance that goes, as its ``mode`` and ``az``.
        replica_cost_nanousd: Planned, an hour.
    """

    id: UUID
    instance_id: str
    kind: str
    status: str
    action: str
    message: str | None
    noticed_at: datetime | None
    promoted_at: datetime | None
    new_instance_id: str | None
    switch_command_id: UUID | None
    pool_id: str | None
    mode: str | None
    az: str | None
    replica_id: UUID | None
    replica_instance_id: str | None
    replica_pool_id: str | None
    replica_type: str | None
    replica_az: str | None
    replica_cost_nanousd: int | None
    replica_created_at: datetime | None


@dataclass(frozen=True, slots=True)
class Emergency:
    """A signal as it is listed; ``acted_at`` is the first step after the strongest one."""

    id: UUID
    tenant_id: TenantId
    agent_id: UUID
    instance_id: str
    kind: str
    status: str
    action: str
    replica_id: UUID | None
    new_instance_id: str | None
    detected_at: datetime
    noticed_at: datetime | None
    acted_at: datetime | None
    promoted_at: datetime | None
    deadline: datetime | None
    bypassed: list[str]


@dataclass(frozen=True, slots=True)
class Around:
    """How many emergency replicas live, and how many notices came in a day."""

    replicas: int
    notices: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Emergencies by kind and by end."""

    total: int
    rebalance: int
    termination: int
    silence: int
    promoted: int
    failed: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a failover."""

    kind: str
    occurred_at: datetime
    detail: str | None


async def find(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, failover_id: UUID
) -> Failover | None:
    """One failover, None when there is none."""
    row = await conn.fetchrow(GET_FAILOVER, tenant_id, agent_id, failover_id)
    return Failover(**row) if row else None


async def list_steps(conn: Conn, tenant_id: TenantId, failover_id: UUID) -> list[Step]:
    """A failover's story, oldest first."""
    return [Step(**row) for row in await conn.fetch(LIST_STEPS, tenant_id, failover_id)]


async def list_failovers(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, *, status: str | None, page: Page
) -> Slice[Failover]:
    """An agent's failovers, newest first."""
    at, last = page.after_instant()
    rows = await conn.fetch(
        LIST_FAILOVERS,
        tenant_id,
        agent_id,
        status,
        at,
        last,
        page.limit + 1,
        page.offset,
    )
    total = await conn.fetchval(COUNT_FAILOVERS, tenant_id, agent_id, status)
    return Slice([Failover(**row) for row in rows], total)


async def get_outcome(conn: Conn, tenant_id: TenantId, failover_id: UUID) -> Outcome:
    """What an agent is told of its signal.

    Raises:
        LookupError: There is no such failover.
    """
    row = await conn.fetchrow(FIND_OUTCOME, tenant_id, failover_id)
    if row is None:
        raise LookupError(failover_id)
    return Outcome(**row)


async def find_newest(conn: Conn, tenant_id: TenantId, agent_id: UUID) -> Emergency | None:
    """An agent's open emergency, or else its last one; None when it had none."""
    row = await conn.fetchrow(FIND_NEWEST, tenant_id, agent_id)
    return Emergency(**row) if row else None


async def count_around(conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime) -> Around:
    """How much emergency there is about an agent."""
    row = await conn.fetchrow(COUNT_AROUND, tenant_id, agent_id, now - NOTICES_WITHIN)
    return Around(**row) if row else Around(0, 0)


async def list_emergencies(conn: Conn, since: datetime) -> list[Emergency]:
    """Emergencies within the connection's scope, newest first, at most `MOST`."""
    return [Emergency(**row) for row in await conn.fetch(LIST_EMERGENCIES, since, MOST)]


async def sum_emergencies(conn: Conn, since: datetime) -> Summary:
    """How many there were, within the connection's scope."""
    row = await conn.fetchrow(SUM_EMERGENCIES, since)
    assert row is not None  # an aggregate has one row
    return Summary(**row)
