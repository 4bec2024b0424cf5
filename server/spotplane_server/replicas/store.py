"""The replicas table and its one writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

INSERT_REPLICA: Final = """
    INSERT INTO replicas (tenant_id, id, agent_id, instance_id, type, status, pool_id,
                          instance_type, region, az, created_by, hourly_cost_nanousd, tags,
                          for_manual_mode, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, 'launching', $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)
    ON CONFLICT (tenant_id, agent_id) WHERE status IN ('launching', 'syncing', 'ready') DO NOTHING
    RETURNING id
"""

# An instance that runs already: launched by the agent on its own, or a primary that was demoted.
INSERT_RUNNING: Final = """
    INSERT INTO replicas (tenant_id, id, agent_id, instance_id, bound, type, status, sync_status,
                          sync_progress, pool_id, instance_type, region, az, created_by,
                          hourly_cost_nanousd, tags, for_manual_mode, created_at, updated_at,
                          launched_at, cost_until, ready_at)
    VALUES ($1, $2, $3, $4, true, $5, $15, CASE WHEN $15 = 'ready' THEN 'synced' ELSE 'syncing' END,
            CASE WHEN $15 = 'ready' THEN 100 ELSE 0 END, $6, $7, $8, $9, $10, $11, $12, $13, $14,
            $14, $14, $14, CASE WHEN $15 = 'ready' THEN $14::timestamptz END)
    ON CONFLICT (tenant_id, agent_id) WHERE status IN ('launching', 'syncing', 'ready') DO NOTHING
    RETURNING id
"""

LOCK_REPLICA: Final = """
    SELECT tenant_id, id, agent_id, instance_id, bound, type, status, sync_status, sync_progress,
           pool_id, instance_type, region, az, created_by, hourly_cost_nanousd, message,
           termination_confirmed, for_manual_mode, created_at, launched_at, ready_at, promoted_at,
           terminated_at
      FROM replicas
     WHERE tenant_id = $1 AND agent_id = $2 AND id = $3
       FOR UPDATE
"""

FIND_REPLICA: Final = """
    SELECT tenant_id, id, agent_id, instance_id, bound, type, status, sync_status, sync_progress,
           pool_id, instance_type, region, az, created_by, hourly_cost_nanousd, message,
           termination_confirmed, for_manual_mode, created_at, launched_at, ready_at, promoted_at,
           terminated_at
      FROM replicas
     WHERE tenant_id = $1 AND agent_id = $2 AND id = $3
"""

FIND_LIVE: Final = """
    SELECT tenant_id, id, agent_id, instance_id, bound, type, status, sync_status, sync_progress,
           pool_id, instance_type, region, az, created_by, hourly_cost_nanousd, message,
           termination_confirmed, for_manual_mode, created_at, launched_at, ready_at, promoted_at,
           terminated_at
      FROM replicas
     WHERE tenant_id = $1 AND agent_id = $2 AND status IN ('launching', 'syncing', 'ready')
"""

BIND_REPLICA: Final = """
    UPDATE replicas
       SET instance_id = $4, bound = true, launched_at = $5, cost_until = $5, updated_at = $5,
           status = CASE WHEN status = 'launching' THEN 'syncing' ELSE status END,
           sync_status = CASE WHEN status = 'launching' THEN 'syncing' ELSE sync_status END,
           -- Bound after it was given up: the instance exists, so its end is to be confirmed again.
           termination_confirmed = false,
           termination_confirmed_at = NULL
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
           termination_confirmed_at = CASE WHEN $4 = 'terminated' AND NOT bound
                                           THEN coalesce(termination_confirmed_at, $8)
                                           ELSE termination_confirmed_at END,
           updated_at = $8
     WHERE tenant_id = $1 AND agent_id = $2 AND id = $3 AND status = ANY($5)
       AND ($4 <> 'promoted' OR bound)
"""

NOTE_SYNC: Final = """
    UPDATE replicas
       SET sync_status = coalesce($4, sync_status),
           sync_latency_ms = coalesce($5, sync_latency_ms),
           sync_progress = coalesce($6, sync_progress),
           sync_started_at = coalesce(sync_started_at, $7),
           sync_completed_at = coalesce(sync_completed_at, $8),
           updated_at = $9
     WHERE tenant_id = $1 AND agent_id = $2 AND id = $3
       AND status IN ('launching', 'syncing', 'ready')
"""

NOTE_PROMOTION: Final = """
    UPDATE replicas
       SET replaced_instance_id = $3, demoted = $4
     WHERE tenant_id = $1 AND id = $2 AND status = 'promoted'
"""

NOTE_SUCCESSOR: Final = """
    UPDATE replicas
       SET successor_id = $3
     WHERE tenant_id = $1 AND id = $2 AND status IN ('promoted', 'terminated')
"""

FIND_BY_INSTANCE: Final = """
    SELECT tenant_id, id, agent_id, instance_id, bound, type, status, sync_status, sync_progress,
           pool_id, instance_type, region, az, created_by, hourly_cost_nanousd, message,
           termination_confirmed, for_manual_mode, created_at, launched_at, ready_at, promoted_at,
           terminated_at
      FROM replicas
     WHERE tenant_id = $1 AND agent_id = $2 AND instance_id = $3
     ORDER BY created_at DESC
     LIMIT 1
"""

CONFIRM_TERMINATION: Final = """
    UPDATE replicas
       SET termination_confirmed = true, updated_at = $3,
           termination_confirmed_at = coalesce(termination_confirmed_at, $3),
           status = CASE WHEN status IN ('launching', 'syncing', 'ready', 'failed')
                         THEN 'terminated' ELSE status END,
           terminated_at = coalesce(terminated_at, $3)
     WHERE tenant_id = $1 AND instance_id = $2 AND status <> 'promoted'
    RETURNING id, agent_id
"""

LIST_FAILED_POOLS: Final = """
    SELECT pool_id
      FROM replicas
     WHERE tenant_id = $1 AND agent_id = $2 AND status = 'failed' AND NOT bound AND updated_at >= $3
     GROUP BY pool_id
    HAVING count(*) >= $4
"""

POOL_EXISTS: Final = "SELECT EXISTS (SELECT FROM pools WHERE id = $1)"


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
    for_manual_mode: bool
    created_at: datetime
    launched_at: datetime | None
    ready_at: datetime | None
    promoted_at: datetime | None
    terminated_at: datetime | None


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
    for_manual_mode: bool = False
    tags: Mapping[str, Any] = field(default_factory=dict)


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
        dict(place.tags),
        place.for_manual_mode,
        now,
    )
    return made is not None


async def insert_running(
    conn: Conn,
    tenant_id: TenantId,
    replica_id: UUID,
    agent_id: UUID,
    instance_id: str,
    place: Placement,
    status: str,
    now: datetime,
) -> bool:
    """Make a replica of an instance that runs; False when another one is live."""
    made = await conn.fetchval(
        INSERT_RUNNING,
        tenant_id,
        replica_id,
        agent_id,
        instance_id,
        place.type,
        place.pool_id,
        place.instance_type,
        place.region,
        place.az,
        place.created_by,
        place.hourly_cost_nanousd,
        dict(place.tags),
        place.for_manual_mode,
        now,
        status,
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


async def find_by_instance(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, instance_id: str
) -> Replica | None:
    """The newest replica that an instance is or was, None when it never was one."""
    row = await conn.fetchrow(FIND_BY_INSTANCE, tenant_id, agent_id, instance_id)
    return Replica(**row) if row else None


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


async def note_sync(
    conn: Conn,
    replica: Replica,
    *,
    now: datetime,
    status: str | None = None,
    latency_ms: int | None = None,
    progress: float | None = None,
    started_at: datetime | None = None,
    completed_at: datetime | None = None,
) -> None:
    """Note how far a live replica's transfer is, where it was told; the first instants stay."""
    await conn.execute(
        NOTE_SYNC,
        replica.tenant_id,
        replica.agent_id,
        replica.id,
        status,
        latency_ms,
        progress,
        started_at,
        completed_at,
        now,
    )


async def note_promotion(
    conn: Conn, replica: Replica, *, replaced: str | None, demoted: bool
) -> None:
    """Remember what a promotion did, so that a repeat answers the same."""
    await conn.execute(NOTE_PROMOTION, replica.tenant_id, replica.id, replaced, demoted)


async def note_successor(conn: Conn, replica: Replica, successor_id: UUID) -> None:
    """Remember which replica was requested in the place of a final one."""
    await conn.execute(NOTE_SUCCESSOR, replica.tenant_id, replica.id, successor_id)


async def list_failed_pools(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, *, since: datetime, at_least: int
) -> set[str]:
    """Pools in which launches for an agent have failed that often."""
    rows = await conn.fetch(LIST_FAILED_POOLS, tenant_id, agent_id, since, at_least)
    return {row["pool_id"] for row in rows}


async def pool_exists(conn: Conn, pool_id: str) -> bool:
    """Whether a pool is known, of whatever type and region."""
    found: bool = await conn.fetchval(POOL_EXISTS, pool_id)
    return found
