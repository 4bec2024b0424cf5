"""Failovers, their steps, and the snapshot that the reconciler decides on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from spotplane_server.failover.rules import STRENGTH, Kind
from spotplane_server.instances.store import Instance
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# A stronger kind takes the open failover over, and its deadline with it; what was done counts from
# the strongest signal.
OPEN_FAILOVER: Final = """
    INSERT INTO failovers AS f (tenant_id, id, agent_id, instance_id, pool_id, kind, status,
                                detected_at, noticed_at, deadline, bypassed, wanted_pool_id,
                                preferred_zones, excluded_zones)
    VALUES ($1, $2, $3, $4, $5, $6, 'detected', $7, $7, $8, $10, $11, $12, $13)
    ON CONFLICT (tenant_id, instance_id) WHERE status IN ('detected', 'handling') DO UPDATE
       SET kind = CASE WHEN ($9::jsonb ->> $6)::int > ($9::jsonb ->> f.kind)::int
                       THEN $6 ELSE f.kind END,
           deadline = CASE WHEN ($9::jsonb ->> $6)::int >= ($9::jsonb ->> f.kind)::int
                           THEN coalesce($8, f.deadline) ELSE f.deadline END,
           noticed_at = CASE WHEN ($9::jsonb ->> $6)::int > ($9::jsonb ->> f.kind)::int
                             THEN $7 ELSE f.noticed_at END,
           acted_at = CASE WHEN ($9::jsonb ->> $6)::int > ($9::jsonb ->> f.kind)::int
                           THEN NULL ELSE f.acted_at END,
           bypassed = CASE WHEN f.bypassed = '{}' THEN $10 ELSE f.bypassed END,
           wanted_pool_id = coalesce($11, f.wanted_pool_id),
           preferred_zones = CASE WHEN $12 = '{}'::text[] THEN f.preferred_zones ELSE $12 END,
           excluded_zones = CASE WHEN $13 = '{}'::text[] THEN f.excluded_zones ELSE $13 END
    RETURNING id, kind, detected_at
"""

FIND_OPEN: Final = """
    SELECT id, kind, detected_at
      FROM failovers
     WHERE tenant_id = $1 AND instance_id = $2 AND status IN ('detected', 'handling')
"""

# The same notice once more, after its failover is closed, opens no second one; one that names no
# deadline is the same as any. An instance that serves no more goes once: whatever is said of it is
# the same, and what promoted its successor is the answer.
FIND_CLOSED: Final = """
    SELECT id
      FROM failovers
     WHERE tenant_id = $1 AND instance_id = $2
       AND ((kind = $3 AND ($4::timestamptz IS NULL OR deadline = $4))
            OR ($6 AND (kind = $3 OR action = 'promoted_replica')))
       AND status IN ('resolved', 'failed', 'ignored')
       AND detected_at > $5
     ORDER BY ($6 AND action = 'promoted_replica') DESC, detected_at DESC
     LIMIT 1
"""

# A notice that names no instance, or none that is known, means the primary; repeated after that
# was replaced, it does not mean the new one. Without a deadline it is a repeat while the old one's
# runs.
FIND_REPEAT: Final = """
    SELECT id
      FROM failovers
     WHERE tenant_id = $1 AND agent_id = $2 AND kind = $3
       AND status = 'resolved' AND new_instance_id IS NOT NULL
       AND detected_at > $5
       AND CASE WHEN $4::timestamptz IS NULL
                THEN greatest(coalesce(deadline, resolved_at), resolved_at) > $6
                ELSE deadline = $4 END
     ORDER BY detected_at DESC
     LIMIT 1
"""

# What served last, of an agent of whose instances none does.
FIND_LAST_SERVED: Final = """
    SELECT instance_id
      FROM instance_spans
     WHERE tenant_id = $1 AND agent_id = $2 AND status = 'running_primary'
     ORDER BY started_at DESC
     LIMIT 1
"""

FIND_WISH: Final = """
    SELECT wanted_pool_id, preferred_zones, excluded_zones
      FROM failovers
     WHERE tenant_id = $1 AND id = $2
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
           acted_at = CASE WHEN $4::text IS NOT NULL THEN coalesce(acted_at, $8) ELSE acted_at END,
           promoted_at = CASE WHEN $4 = 'promoted_replica' THEN $8 ELSE promoted_at END,
           resolved_at = CASE WHEN $3 IN ('resolved', 'failed', 'ignored') THEN $8 END
     WHERE tenant_id = $1 AND id = $2 AND status IN ('detected', 'handling')
"""

# Counted, so that of two reconcilers with the same snapshot one comes too late.
NOTE_SWITCH: Final = """
    UPDATE failovers
       SET switch_count = switch_count + 1, switch_queued_at = $4, switch_command_id = $5
     WHERE tenant_id = $1 AND id = $2 AND switch_count = $3 AND status IN ('detected', 'handling')
"""

TAKEN_AFTER: Final = timedelta(seconds=60)
REPEAT_WITHIN: Final = timedelta(hours=2)
# An instance that will never serve again.
NO_MORE: Final = frozenset({"zombie", "terminating", "terminated"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an agent asks of its replacement's place; none of it binds."""

    pool_id: str | None = None
    preferred_zones: Sequence[str] = ()
    exclude_zones: Sequence[str] = ()


ANYWHERE: Final = Wanted()


@dataclass(frozen=True, slots=True)
class Opened:
    """An open failover; ``detected_at`` is of its first signal."""

    id: UUID
    kind: str
    detected_at: datetime


async def open_failover(
    conn: Conn,
    instance: Instance,
    kind: Kind,
    *,
    deadline: datetime | None,
    bypassed: Sequence[str],
    wanted: Wanted,
    now: datetime,
) -> Opened:
    """Open a failover, or join the open one about the instance and perhaps make it stronger."""
    row = await conn.fetchrow(
        OPEN_FAILOVER,
        instance.tenant_id,
        uuid4(),
        instance.agent_id,
        instance.id,
        instance.pool_id,
        kind,
        now,
        deadline,
        STRENGTH,
        list(bypassed),
        wanted.pool_id,
        list(wanted.preferred_zones),
        list(wanted.exclude_zones),
    )
    if row is None:
        raise AssertionError("the upsert answers a row")
    return Opened(**row)


async def find_open(conn: Conn, tenant_id: TenantId, instance_id: str) -> Opened | None:
    """The open failover about an instance, None when there is none."""
    row = await conn.fetchrow(FIND_OPEN, tenant_id, instance_id)
    return Opened(**row) if row else None


async def find_closed(
    conn: Conn, instance: Instance, kind: Kind, deadline: datetime | None, now: datetime
) -> UUID | None:
    """The closed failover that this very notice opened before, None when it is new."""
    found: UUID | None = await conn.fetchval(
        FIND_CLOSED,
        instance.tenant_id,
        instance.id,
        kind,
        deadline,
        now - REPEAT_WITHIN,
        instance.status in NO_MORE,
    )
    return found


async def find_repeat(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    kind: Kind,
    deadline: datetime | None,
    now: datetime,
) -> UUID | None:
    """The closed failover of the former primary that a notice without an instance repeats."""
    found: UUID | None = await conn.fetchval(
        FIND_REPEAT,
        tenant_id,
        agent_id,
        kind,
        deadline,
        now - REPEAT_WITHIN,
        now - TAKEN_AFTER,
    )
    return found


async def find_last_served(conn: Conn, tenant_id: TenantId, agent_id: UUID) -> str | None:
    """The instance that served last, None when none ever did."""
    found: str | None = await conn.fetchval(FIND_LAST_SERVED, tenant_id, agent_id)
    return found


async def find_wanted(conn: Conn, tenant_id: TenantId, failover_id: UUID) -> Wanted:
    """What was asked of the replacement's place."""
    row = await conn.fetchrow(FIND_WISH, tenant_id, failover_id)
    if row is None:
        return ANYWHERE
    return Wanted(row["wanted_pool_id"], row["preferred_zones"], row["excluded_zones"])


async def note_switch(
    conn: Conn,
    tenant_id: TenantId,
    failover_id: UUID,
    *,
    count: int,
    command_id: UUID,
    now: datetime,
) -> bool:
    """Count a switch of last resort; False when another was queued since ``count`` was read."""
    done = await conn.execute(NOTE_SWITCH, tenant_id, failover_id, count, now, command_id)
    return bool(done == "UPDATE 1")


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
