"""Failovers, their steps, and the snapshot that the reconciler decides on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.failover.rules import STRENGTH, Kind, Situation
from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.db import Conn
from spotplane_server.kernel.paging import Page, Slice

# A stronger kind takes the open failover over, and its deadline with it.
OPEN_FAILOVER: Final = """
    INSERT INTO failovers AS f (tenant_id, id, agent_id, instance_id, pool_id, kind, status,
                                detected_at, deadline)
    VALUES ($1, $2, $3, $4, $5, $6, 'detected', $7, $8)
    ON CONFLICT (tenant_id, instance_id) WHERE status IN ('detected', 'handling') DO UPDATE
       SET kind = CASE WHEN ($9::jsonb ->> $6)::int > ($9::jsonb ->> f.kind)::int
                       THEN $6 ELSE f.kind END,
           deadline = CASE WHEN ($9::jsonb ->> $6)::int >= ($9::jsonb ->> f.kind)::int
                           THEN coalesce($8, f.deadline) ELSE f.deadline END
    RETURNING id, kind, detected_at
"""

FIND_OPEN: Final = """
    SELECT id, kind, detected_at
      FROM failovers
     WHERE tenant_id = $1 AND instance_id = $2 AND status IN ('detected', 'handling')
"""

# The same notice once more, after its failover is closed, opens no second one; one that names no
# deadline is the same as any.
FIND_CLOSED: Final = """
    SELECT id
      FROM failovers
     WHERE tenant_id = $1 AND instance_id = $2 AND kind = $3
       AND ($4::timestamptz IS NULL OR deadline = $4)
       AND status IN ('resolved', 'failed', 'ignored')
       AND detected_at > $5
     ORDER BY detected_at DESC
     LIMIT 1
"""

INSERT_STEP: Final = """
    INSERT INTO failover_steps (tenant_id, failover_id, kind, occurred_at, detail)
    VALUES ($1, $2, $3, $4, $5)
"""

ADVANCE_FAILOVER: Final = """
    UPDATE failovers
       SET status = $3,
           action = coalesce($4, action),
           replica_id = coalesce($5, replica_id),
           new_instance_id = coalesce($6, new_instance_id),
           message = coalesce($7, message),
           promoted_at = CASE WHEN $4 = 'promoted_replica' THEN $8 ELSE promoted_at END,
           resolved_at = CASE WHEN $3 IN ('resolved', 'failed', 'ignored') THEN $8 END
     WHERE tenant_id = $1 AND id = $2 AND status IN ('detected', 'handling')
"""

# Primaries that have been silent too long, while somebody listened, and whose loss no failover
# knows of yet: a rebalance or a drain waits, which is over now. Who said goodbye left on purpose;
# who was just launched is still booting.
OPEN_SILENCES: Final = """
    INSERT INTO failovers AS o (tenant_id, id, agent_id, instance_id, pool_id, kind, status,
                                detected_at)
    SELECT i.tenant_id, gen_random_uuid(), i.agent_id, i.id, i.pool_id, 'silence', 'detected', $1
      FROM instances i
      JOIN agents a ON a.tenant_id = i.tenant_id AND a.id = i.agent_id
      JOIN agent_sessions s ON s.tenant_id = i.tenant_id AND s.instance_id = i.id
     CROSS JOIN heartbeat_collection h
     WHERE i.status = 'running_primary'
       AND a.deleted_at IS NULL
       AND s.goodbye_at IS NULL
       AND greatest(s.last_heartbeat_at, h.since) < $2
       AND h.seen_at > now() - interval '10 seconds'
       AND (a.grace_until IS NULL OR a.grace_until < $1)
       AND NOT EXISTS (SELECT
                         FROM failovers f
                        WHERE f.tenant_id = i.tenant_id AND f.instance_id = i.id
                          AND f.kind IN ('silence', 'termination')
                          AND (f.status IN ('detected', 'handling')
                               OR (f.kind = 'silence' AND f.detected_at > s.last_heartbeat_at)))
    ON CONFLICT (tenant_id, instance_id) WHERE status IN ('detected', 'handling') DO UPDATE
       SET kind = 'silence'
     WHERE o.kind IN ('rebalance', 'drain')
    RETURNING tenant_id, id, detected_at = $1 AS fresh
"""

SNAPSHOT: Final = """
    SELECT f.tenant_id, f.id AS failover_id, f.agent_id, f.instance_id, f.kind, f.status,
           f.detected_at, f.deadline, p.id AS primary_id, i.status AS instance_status,
           coalesce(s.last_heartbeat_at >= $1, false) AS heard,
           r.id AS replica_id, r.status AS replica_status,
           coalesce(r.bound, false) AS replica_bound, r.created_by AS replica_created_by,
           a.manual_replica_enabled AS manual_mode,
           coalesce(ps.last_heartbeat_at >= $1, false) AS launcher_online,
           EXISTS (SELECT
                     FROM agent_commands c
                    WHERE c.tenant_id = f.tenant_id AND c.agent_id = f.agent_id
                      AND c.type = 'switch'
                      AND c.status IN ('pending', 'leased', 'executing')) AS switch_open
      FROM failovers f
      JOIN agents a ON a.tenant_id = f.tenant_id AND a.id = f.agent_id AND a.deleted_at IS NULL
      LEFT JOIN instances i ON i.tenant_id = f.tenant_id AND i.id = f.instance_id
      LEFT JOIN agent_sessions s ON s.tenant_id = f.tenant_id AND s.instance_id = f.instance_id
      LEFT JOIN instances p
        ON p.tenant_id = f.tenant_id AND p.agent_id = f.agent_id AND p.status = 'running_primary'
      LEFT JOIN agent_sessions ps ON ps.tenant_id = p.tenant_id AND ps.instance_id = p.id
      LEFT JOIN replicas r
        ON r.tenant_id = f.tenant_id AND r.agent_id = f.agent_id
       AND r.status IN ('launching', 'syncing', 'ready')
     WHERE f.status IN ('detected', 'handling')
       AND ($2::uuid IS NULL OR f.id = $2)
     ORDER BY f.kind IN ('rebalance', 'drain'), f.detected_at, f.id
     LIMIT $3
"""

# The cloud has taken them: their time is over by a minute and nobody said otherwise.
END_TAKEN: Final = """
    SELECT i.tenant_id, i.id, i.agent_id
      FROM instances i
      JOIN failovers f ON f.tenant_id = i.tenant_id AND f.instance_id = i.id
     WHERE f.kind = 'termination'
       AND f.deadline < $1
       AND f.detected_at > $2
       AND i.status = 'zombie'
     LIMIT 1000
"""

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

STATUSES: Final = ("detected", "handling", "resolved", "failed", "ignored")
BATCH: Final = 500
TAKEN_AFTER: Final = timedelta(seconds=60)
REPEAT_WITHIN: Final = timedelta(hours=2)


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
class Opened:
    """An open failover; ``detected_at`` is of its first signal."""

    id: UUID
    kind: str
    detected_at: datetime


@dataclass(frozen=True, slots=True)
class Silence:
    """A failover that silence opened, or made stronger."""

    tenant_id: TenantId
    id: UUID
    fresh: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """An instance that the cloud has taken by now."""

    tenant_id: TenantId
    id: str
    agent_id: UUID


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a failover."""

    kind: str
    occurred_at: datetime
    detail: str | None


async def open_failover(
    conn: Conn,
    tenant_id: TenantId,
    failover_id: UUID,
    agent_id: UUID,
    instance_id: str,
    pool_id: str | None,
    kind: Kind,
    *,
    deadline: datetime | None,
    now: datetime,
) -> Opened:
    """Open a failover, or join the open one about the instance and perhaps make it stronger."""
    row = await conn.fetchrow(
        OPEN_FAILOVER,
        tenant_id,
        failover_id,
        agent_id,
        instance_id,
        pool_id,
        kind,
        now,
        deadline,
        STRENGTH,
    )
    if row is None:
        raise AssertionError("the upsert answers a row")
    return Opened(**row)


async def find_open(conn: Conn, tenant_id: TenantId, instance_id: str) -> Opened | None:
    """The open failover about an instance, None when there is none."""
    row = await conn.fetchrow(FIND_OPEN, tenant_id, instance_id)
    return Opened(**row) if row else None


async def find_closed(
    conn: Conn,
    tenant_id: TenantId,
    instance_id: str,
    kind: Kind,
    deadline: datetime | None,
    now: datetime,
) -> UUID | None:
    """The closed failover that this very notice opened before, None when it is new."""
    found: UUID | None = await conn.fetchval(
        FIND_CLOSED, tenant_id, instance_id, kind, deadline, now - REPEAT_WITHIN
    )
    return found


async def add_step(
    conn: Conn, tenant_id: TenantId, failover_id: UUID, kind: str, detail: str | None, now: datetime
) -> None:
    """Add to a failover's story."""
    await conn.execute(INSERT_STEP, tenant_id, failover_id, kind, now, detail)


async def advance(
    conn: Conn,
    tenant_id: TenantId,
    failover_id: UUID,
    status: str,
    *,
    now: datetime,
    action: str | None = None,
    replica_id: UUID | None = None,
    new_instance_id: str | None = None,
    message: str | None = None,
) -> bool:
    """Move an open failover on; False when somebody closed it meanwhile."""
    done = await conn.execute(
        ADVANCE_FAILOVER,
        tenant_id,
        failover_id,
        status,
        action,
        replica_id,
        new_instance_id,
        message,
        now,
    )
    return bool(done == "UPDATE 1")


async def open_silences(conn: Conn, *, now: datetime, after: timedelta) -> list[Silence]:
    """Open failovers of primaries that have been silent for longer than ``after``."""
    return [Silence(**row) for row in await conn.fetch(OPEN_SILENCES, now, now - after)]


async def snapshot(
    conn: Conn, *, now: datetime, offline_after: timedelta, only: UUID | None = None
) -> list[Situation]:
    """Open failovers and what they meet: losses first, and the oldest of each."""
    rows = await conn.fetch(SNAPSHOT, now - offline_after, only, BATCH)
    return [Situation(**row) for row in rows]


async def list_taken(conn: Conn, now: datetime) -> list[Taken]:
    """Zombies whose termination was announced for a minute ago or longer."""
    rows = await conn.fetch(END_TAKEN, now - TAKEN_AFTER, now - timedelta(days=1))
    return [Taken(**row) for row in rows]


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
