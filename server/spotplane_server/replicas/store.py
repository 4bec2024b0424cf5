"""The replicas table and its one writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.db import Conn
from spotplane_server.kernel.paging import Page, Slice

INSERT_REPLICA: Final = """
    INSERT INTO replicas (tenant_id, id, agent_id, instance_id, type, status, pool_id,
                          instance_type, region, az, created_by, hourly_cost_nanousd, created_at,
                          updated_at)
    VALUES ($1, $2, $3, $4, $5, 'launching', $6, $7, $8, $9, $10, $11, $12, $12)
    ON CONFLICT (tenant_id, agent_id) WHERE status IN ('launching', 'syncing', 'ready') DO NOTHING
    RETURNING id
"""

LOCK_REPLICA: Final = """
    SELECT tenant_id, id, agent_id, instance_id, bound, type, status, sync_status, sync_progress,
           pool_id, instance_type, region, az, created_by, hourly_cost_nanousd, message,
           termination_confirmed, created_at, launched_at, ready_at, promoted_at, terminated_at
      FROM replicas
     WHERE tenant_id = $1 AND agent_id = $2 AND id = $3
       FOR UPDATE
"""

FIND_REPLICA: Final = """
    SELECT tenant_id, id, agent_id, instance_id, bound, type, status, sync_status, sync_progress,
           pool_id, instance_type, region, az, created_by, hourly_cost_nanousd, message,
           termination_confirmed, created_at, launched_at, ready_at, promoted_at, terminated_at
      FROM replicas
     WHERE tenant_id = $1 AND agent_id = $2 AND id = $3
"""

FIND_LIVE: Final = """
    SELECT tenant_id, id, agent_id, instance_id, bound, type, status, sync_status, sync_progress,
           pool_id, instance_type, region, az, created_by, hourly_cost_nanousd, message,
           termination_confirmed, created_at, launched_at, ready_at, promoted_at, terminated_at
      FROM replicas
     WHERE tenant_id = $1 AND agent_id = $2 AND status IN ('launching', 'syncing', 'ready')
"""

LIST_REPLICAS: Final = """
    SELECT tenant_id, id, agent_id, instance_id, bound, type, status, sync_status, sync_progress,
           pool_id, instance_type, region, az, created_by, hourly_cost_nanousd, message,
           termination_confirmed, created_at, launched_at, ready_at, promoted_at, terminated_at
      FROM replicas
     WHERE tenant_id = $1 AND agent_id = $2 AND status = ANY($3)
       AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5))
     ORDER BY created_at DESC, id DESC
     LIMIT $6 OFFSET $7
"""

COUNT_REPLICAS: Final = """
    SELECT count(*) FROM replicas WHERE tenant_id = $1 AND agent_id = $2 AND status = ANY($3)
"""

BIND_REPLICA: Final = """
    UPDATE replicas
       SET instance_id = $4, bound = true, launched_at = $5, updated_at = $5,
           status = CASE WHEN status = 'launching' THEN 'syncing' ELSE status END,
           sync_status = CASE WHEN status = 'launching' THEN 'syncing' ELSE sync_status END,
           -- Bound after it was given up: the instance exists, so its end is to be confirmed again.
           termination_confirmed = false
     WHERE tenant_id = $1 AND agent_id = $2 AND id = $3 AND NOT bound
    RETURNING status
"""

MOVE_REPLICA: Final = """
    UPDATE replicas
       SET status = $4,
           sync_status = CASE WHEN $4 = 'ready' THEN 'synced'
                              WHEN $4 = 'syncing' THEN 'syncing' ELSE sync_status END,
           sync_progress = CASE WHEN $4 = 'ready' THEN 100 ELSE coalesce($6, sync_progress) END,
           message = coalesce($7, message),
           ready_at = CASE WHEN $4 = 'ready' THEN coalesce(ready_at, $8) ELSE ready_at END,
           promoted_at = CASE WHEN $4 = 'promoted' THEN $8 ELSE promoted_at END,
           terminated_at = CASE WHEN $4 = 'terminated' THEN coalesce(terminated_at, $8)
                                ELSE terminated_at END,
           -- What never had an instance has nothing to confirm.
           termination_confirmed = termination_confirmed OR ($4 = 'terminated' AND NOT bound),
           updated_at = $8
     WHERE tenant_id = $1 AND agent_id = $2 AND id = $3 AND status = ANY($5)
       AND ($4 NOT IN ('ready', 'promoted') OR bound)
"""

CONFIRM_TERMINATION: Final = """
    UPDATE replicas
       SET termination_confirmed = true, updated_at = $3,
           status = CASE WHEN status IN ('launching', 'syncing', 'ready', 'failed')
                         THEN 'terminated' ELSE status END,
           terminated_at = coalesce(terminated_at, $3)
     WHERE tenant_id = $1 AND instance_id = $2 AND status <> 'promoted'
    RETURNING id, agent_id
"""

# Agents in manual mode whose primary serves and that have nothing standing by. The failures are
# those since the last replica that came to stand. In no order, so that those for whom no pool is
# left do not keep the others out.
LIST_UNCOVERED: Final = """
    SELECT a.tenant_id, a.id AS agent_id, f.failures, f.failed_at
      FROM agents a
      JOIN instances i
        ON i.tenant_id = a.tenant_id AND i.agent_id = a.id AND i.status = 'running_primary'
     CROSS JOIN LATERAL (
            SELECT count(*) AS failures, max(r.updated_at) AS failed_at
              FROM replicas r
             WHERE r.tenant_id = a.tenant_id AND r.agent_id = a.id AND r.status = 'failed'
               AND r.created_at > coalesce((SELECT max(g.ready_at)
                                              FROM replicas g
                                             WHERE g.tenant_id = a.tenant_id AND g.agent_id = a.id),
                                           '-infinity')) f
     WHERE a.manual_replica_enabled
       AND a.enabled
       AND a.status = 'online'
       AND NOT EXISTS (SELECT
                         FROM replicas r
                        WHERE r.tenant_id = a.tenant_id AND r.agent_id = a.id
                          AND r.status IN ('launching', 'syncing', 'ready'))
     ORDER BY random()
     LIMIT $1
"""

# Live replicas that nobody asked to keep: those of deleted agents, manual ones of agents that left
# manual mode, and what an emergency left behind that is over for an agent that is well.
LIST_UNWANTED: Final = """
    SELECT r.tenant_id, r.id, r.agent_id
      FROM replicas r
      JOIN agents a ON a.tenant_id = r.tenant_id AND a.id = r.agent_id
     WHERE r.status IN ('launching', 'syncing', 'ready')
       AND (a.deleted_at IS NOT NULL
            OR (NOT a.manual_replica_enabled AND r.created_by = 'coordinator')
            OR (NOT a.manual_replica_enabled AND r.created_by = 'emergency'
                AND a.status IN ('online', 'disabled')
                AND NOT EXISTS (SELECT
                                  FROM failovers f
                                 WHERE f.tenant_id = a.tenant_id AND f.agent_id = a.id
                                   AND f.status IN ('detected', 'handling'))))
     LIMIT $1
"""

# Replicas whose instance should be gone and perhaps is not: whoever was to end it has died, or
# never got the order.
LIST_UNCONFIRMED: Final = """
    SELECT r.tenant_id, r.id, r.agent_id
      FROM replicas r
      JOIN instances p
        ON p.tenant_id = r.tenant_id AND p.agent_id = r.agent_id AND p.status = 'running_primary'
     WHERE r.status = 'terminated' AND r.bound AND NOT r.termination_confirmed
       AND r.terminated_at > $1
       AND NOT EXISTS (SELECT
                         FROM agent_commands c
                        WHERE c.tenant_id = r.tenant_id AND c.agent_id = r.agent_id
                          AND c.type = 'terminate_replica'
                          AND c.parameters ->> 'replica_id' = r.id::text
                          AND (c.status IN ('pending', 'leased', 'executing')
                               OR c.created_at > $2))
     LIMIT $3
"""

LIST_FAILED_POOLS: Final = """
    SELECT pool_id
      FROM replicas
     WHERE tenant_id = $1 AND agent_id = $2 AND status = 'failed' AND NOT bound AND updated_at >= $3
     GROUP BY pool_id
    HAVING count(*) >= $4
"""

# Replicas that nobody will launch any more: their order was cancelled, because the agent has moved.
LIST_STRANDED: Final = """
    SELECT r.tenant_id, r.id, r.agent_id
      FROM replicas r
      JOIN agent_commands c
        ON c.tenant_id = r.tenant_id AND c.agent_id = r.agent_id
       AND c.request_id = 'create-replica-' || r.id
     WHERE r.status = 'launching' AND NOT r.bound
       AND c.status IN ('cancelled', 'expired', 'failed')
     LIMIT $1
"""


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as it stands; ``instance_id`` is a placeholder until ``bound``."""

    tenant_id: TenantId
    id: UUID
    agent_id: UUID
    instance_id: str
    bound: bool
    type: str
    status: str
    sync_status: str
    sync_progress: float
    pool_id: str
    instance_type: str
    region: str
    az: str
    created_by: str
    hourly_cost_nanousd: int | None
    message: str | None
    termination_confirmed: bool
    created_at: datetime
    launched_at: datetime | None
    ready_at: datetime | None
    promoted_at: datetime | None
    terminated_at: datetime | None


@dataclass(frozen=True, slots=True)
class Uncovered:
    """An agent that should have a replica; ``failures`` launches in a row went wrong."""

    tenant_id: TenantId
    agent_id: UUID
    failures: int
    failed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Unwanted:
    """A replica that should not be there."""

    tenant_id: TenantId
    id: UUID
    agent_id: UUID


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a replica is to be launched, and for what."""

    type: str
    pool_id: str
    instance_type: str
    region: str
    az: str
    created_by: str
    hourly_cost_nanousd: int | None


async def insert(
    conn: Conn,
    tenant_id: TenantId,
    replica_id: UUID,
    agent_id: UUID,
    placeholder: str,
    place: Placement,
    now: datetime,
) -> bool:
    """Ask for a replica; False when one is live already."""
    made = await conn.fetchval(
        INSERT_REPLICA,
        tenant_id,
        replica_id,
        agent_id,
        placeholder,
        place.type,
        place.pool_id,
        place.instance_type,
        place.region,
        place.az,
        place.created_by,
        place.hourly_cost_nanousd,
        now,
    )
    return made is not None


async def lock(conn: Conn, tenant_id: TenantId, agent_id: UUID, replica_id: UUID) -> Replica | None:
    """Hold one replica, None when there is none."""
    row = await conn.fetchrow(LOCK_REPLICA, tenant_id, agent_id, replica_id)
    return Replica(**row) if row else None


async def find(conn: Conn, tenant_id: TenantId, agent_id: UUID, replica_id: UUID) -> Replica | None:
    """One replica, None when there is none."""
    row = await conn.fetchrow(FIND_REPLICA, tenant_id, agent_id, replica_id)
    return Replica(**row) if row else None


async def find_live(conn: Conn, tenant_id: TenantId, agent_id: UUID) -> Replica | None:
    """The agent's live replica, None when none is."""
    row = await conn.fetchrow(FIND_LIVE, tenant_id, agent_id)
    return Replica(**row) if row else None


async def list_replicas(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, *, statuses: Sequence[str], page: Page
) -> Slice[Replica]:
    """An agent's replicas, newest first."""
    at, last = page.after_instant()
    rows = await conn.fetch(
        LIST_REPLICAS,
        tenant_id,
        agent_id,
        list(statuses),
        at,
        last,
        page.limit + 1,
        page.offset,
    )
    total = await conn.fetchval(COUNT_REPLICAS, tenant_id, agent_id, list(statuses))
    return Slice([Replica(**row) for row in rows], total)


async def bind(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    replica_id: UUID,
    instance_id: str,
    now: datetime,
) -> str | None:
    """Put the real instance in the placeholder's place; the state then, None when bound already."""
    status: str | None = await conn.fetchval(
        BIND_REPLICA, tenant_id, agent_id, replica_id, instance_id, now
    )
    return status


async def move(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    replica_id: UUID,
    *,
    frm: Sequence[str],
    to: str,
    now: datetime,
    progress: float | None = None,
    message: str | None = None,
) -> bool:
    """Move a replica from one of some states to another; False when it was in none of them."""
    done = await conn.execute(
        MOVE_REPLICA, tenant_id, agent_id, replica_id, to, list(frm), progress, message, now
    )
    return bool(done == "UPDATE 1")


async def confirm_termination(
    conn: Conn, tenant_id: TenantId, instance_id: str, now: datetime
) -> UUID | None:
    """Note that a replica's instance is gone; its agent, None when it was no replica's."""
    row = await conn.fetchrow(CONFIRM_TERMINATION, tenant_id, instance_id, now)
    return row["agent_id"] if row else None


async def list_uncovered(conn: Conn, *, limit: int) -> list[Uncovered]:
    """Agents that should have a replica and have none."""
    return [Uncovered(**row) for row in await conn.fetch(LIST_UNCOVERED, limit)]


async def list_unconfirmed(
    conn: Conn, *, ended_since: datetime, ordered_before: datetime, limit: int
) -> list[Unwanted]:
    """Replicas whose end nobody has confirmed and nobody works on."""
    rows = await conn.fetch(LIST_UNCONFIRMED, ended_since, ordered_before, limit)
    return [Unwanted(**row) for row in rows]


async def list_failed_pools(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, *, since: datetime, at_least: int
) -> set[str]:
    """Pools in which launches for an agent have failed that often."""
    rows = await conn.fetch(LIST_FAILED_POOLS, tenant_id, agent_id, since, at_least)
    return {row["pool_id"] for row in rows}


async def list_stranded(conn: Conn, *, limit: int) -> list[Unwanted]:
    """Replicas whose launch was called off."""
    return [Unwanted(**row) for row in await conn.fetch(LIST_STRANDED, limit)]


async def list_unwanted(conn: Conn, *, limit: int) -> list[Unwanted]:
    """Replicas that nobody wants any more."""
    return [Unwanted(**row) for row in await conn.fetch(LIST_UNWANTED, limit)]
