"""What the coordinator looks for: agents without the replica that they should have, and so on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.prices.rules import PLANNED_NANOUSD
from spotplane_server.replicas import rules

# Agents in manual mode whose primary serves and that have nothing standing by. The failures are
# those since the last replica that came to stand. Never a third instance beside one that waits for
# its end, and never a second zombie's: a zombie counts for an hour, or while it is heard of.
# In no order, so that those for whom no pool is left do not keep the others out.
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
       AND (SELECT count(*)
              FROM instances o
              LEFT JOIN agent_sessions s ON s.tenant_id = o.tenant_id AND s.instance_id = o.id
             WHERE o.tenant_id = a.tenant_id AND o.agent_id = a.id
               AND o.status IN ('zombie', 'terminating')
               AND greatest(o.updated_at + interval '1 hour',
                            s.last_heartbeat_at + interval '2 minutes') > $2) < 2
     ORDER BY random()
     LIMIT $1
"""

# Live replicas that nobody asked to keep: those of deleted agents, those of manual mode once it is
# off, and what an emergency left behind that is over for an agent that is well.
LIST_UNWANTED: Final = """
    SELECT r.tenant_id, r.id, r.agent_id
      FROM replicas r
      JOIN agents a ON a.tenant_id = r.tenant_id AND a.id = r.agent_id
     WHERE r.status IN ('launching', 'syncing', 'ready')
       AND (a.deleted_at IS NOT NULL
            OR (NOT a.manual_replica_enabled AND r.for_manual_mode)
            OR (NOT a.manual_replica_enabled AND r.created_by = 'emergency'
                AND a.status IN ('online', 'disabled')
                AND NOT EXISTS (SELECT
                                  FROM failovers f
                                 WHERE f.tenant_id = a.tenant_id AND f.agent_id = a.id
                                   AND f.status IN ('detected', 'handling'))))
     LIMIT $1
"""

# Failed replicas whose instances still run, of agents whose zombies may be ended, once those have
# waited as long as a zombie does.
LIST_LEFT_RUNNING: Final = """
    SELECT r.tenant_id, r.id, r.agent_id
      FROM replicas r
      JOIN agents a
        ON a.tenant_id = r.tenant_id AND a.id = r.agent_id AND a.auto_terminate_enabled
      JOIN instances i
        ON i.tenant_id = r.tenant_id AND i.id = r.instance_id AND i.status = 'zombie'
     WHERE r.status = 'failed' AND r.bound
       AND NOT i.spared
       AND i.updated_at + make_interval(secs => a.terminate_wait_seconds) <= $1
     LIMIT $2
"""

# Replicas whose instance should be gone and perhaps is not: whoever was to end it has died, or
# never got the order. Agents that poll find them by polling.
LIST_UNCONFIRMED: Final = """
    SELECT r.tenant_id, r.id, r.agent_id
      FROM replicas r
      JOIN instances p
        ON p.tenant_id = r.tenant_id AND p.agent_id = r.agent_id AND p.status = 'running_primary'
      JOIN agents a ON a.tenant_id = r.tenant_id AND a.id = r.agent_id
     WHERE r.status = 'terminated' AND r.bound AND NOT r.termination_confirmed
       AND r.terminated_at > $1
       AND coalesce(a.replicas_polled_at < $4, true)
       AND NOT EXISTS (SELECT
                         FROM agent_commands c
                        WHERE c.tenant_id = r.tenant_id AND c.agent_id = r.agent_id
                          AND c.type = 'terminate_replica'
                          AND c.parameters ->> 'replica_id' = r.id::text
                          AND (c.status IN ('pending', 'leased', 'executing')
                               OR c.created_at > $2))
     LIMIT $3
"""

# Replicas that nobody will launch any more: their order was called off because the agent has moved,
# or nobody has launched them for too long, whatever way it was to learn of them.
LIST_STRANDED: Final = """
    SELECT r.tenant_id, r.id, r.agent_id
      FROM replicas r
      JOIN agents a ON a.tenant_id = r.tenant_id AND a.id = r.agent_id
     WHERE r.status IN ('launching', 'syncing', 'ready') AND NOT r.bound
       AND (r.created_at <= $2
            OR (coalesce(a.replicas_polled_at < $3, true)
                AND EXISTS (SELECT
                              FROM agent_commands c
                             WHERE c.tenant_id = r.tenant_id AND c.agent_id = r.agent_id
                               AND c.request_id = 'create-replica-' || r.id
                               AND c.status IN ('cancelled', 'expired', 'failed'))))
     LIMIT $1
"""

# Replicas that held a stream and have been silent too long, while somebody listened. One that never
# held a stream says nothing by its silence.
LIST_LOST: Final = """
    SELECT r.tenant_id, r.id, r.agent_id
      FROM replicas r
      JOIN agent_sessions s
        ON s.tenant_id = r.tenant_id AND s.instance_id = r.instance_id
       AND s.streamed_at > '-infinity'
      LEFT JOIN heartbeat_listener_lags l ON l.server_id = s.server_id
     CROSS JOIN heartbeat_collection h
     WHERE r.status IN ('syncing', 'ready') AND r.bound
       AND greatest(s.last_heartbeat_at, h.since, l.uninterrupted_since)
           < $1::timestamptz - coalesce(l.lag, interval '0')
       AND h.seen_at > now() - interval '10 seconds'
     LIMIT $2
"""

# Told once a replica, a day after it was marked. Of a deleted agent's leftovers the agents tell.
TELL_UNCONFIRMED: Final = """
    UPDATE replicas r
       SET unconfirmed_told_at = $1
     WHERE r.status = 'terminated' AND r.bound AND NOT r.termination_confirmed
       AND r.terminated_at <= $2 AND r.unconfirmed_told_at IS NULL
       AND EXISTS (SELECT
                     FROM agents a
                    WHERE a.tenant_id = r.tenant_id AND a.id = r.agent_id AND a.deleted_at IS NULL)
    RETURNING r.tenant_id, r.id, r.agent_id, r.instance_id, r.pool_id, r.terminated_at
"""

# Adds what was spent since the last time, at the prices of the clean series from then on; at the
# planned price where the series has none of the day before. A final one is summed up for good.
ACCRUE_COSTS: Final = """
    WITH due AS (
        SELECT tenant_id, id, pool_id, cost_until AS since,
               coalesce(hourly_cost_nanousd, $3) AS planned,
               greatest(coalesce(promoted_at, termination_confirmed_at, $1), cost_until) AS until,
               coalesce(promoted_at, termination_confirmed_at) IS NOT NULL AS final
          FROM replicas
         WHERE cost_until IS NOT NULL
           AND (cost_until <= $2 OR promoted_at IS NOT NULL OR termination_confirmed)
         ORDER BY cost_until
         LIMIT $4
           FOR UPDATE SKIP LOCKED),
    spent AS (
        SELECT d.tenant_id, d.id, d.until, d.final,
               sum(extract(epoch FROM step.ends_at - step.starts_at) * step.price) / 3600 AS cost
          FROM due d
         CROSS JOIN LATERAL (
                SELECT t.starts_at, t.price,
                       coalesce(lead(t.starts_at) OVER (ORDER BY t.starts_at), d.until) AS ends_at
                  FROM (SELECT d.since AS starts_at,
                               coalesce((SELECT c.price_nanousd
                                           FROM clean_prices c
                                          WHERE c.pool_id = d.pool_id
                                            AND c.bucket_at <= d.since
                                            AND c.bucket_at > d.since - interval '1 day'
                                          ORDER BY c.bucket_at DESC
                                          LIMIT 1), d.planned) AS price
                        UNION ALL
                        SELECT c.bucket_at, c.price_nanousd
                          FROM clean_prices c
                         WHERE c.pool_id = d.pool_id
                           AND c.bucket_at > d.since AND c.bucket_at < d.until) t) step
         GROUP BY d.tenant_id, d.id, d.until, d.final)
    UPDATE replicas r
       SET cost_nanousd = r.cost_nanousd + round(s.cost)::bigint,
           cost_until = CASE WHEN s.final THEN NULL ELSE s.until END
      FROM spent s
     WHERE r.tenant_id = s.tenant_id AND r.id = s.id
"""

BATCH: Final = 200
# How often, and for how long, an instance is ordered to be ended until the cloud confirms it.
ORDER_EVERY: Final = timedelta(minutes=6)
ORDERED_FOR: Final = timedelta(hours=24)
POLLED_WITHIN: Final = timedelta(minutes=5)
ACCRUE_EVERY: Final = timedelta(minutes=5)
ACCRUE_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Uncovered:
    """An agent that should have a replica; ``failures`` launches in a row went wrong."""

    tenant_id: TenantId
    agent_id: UUID
    failures: int
    failed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Found:
    """A replica that something is to be done about."""

    tenant_id: TenantId
    id: UUID
    agent_id: UUID


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """A replica whose end nobody has confirmed for a day."""

    tenant_id: TenantId
    id: UUID
    agent_id: UUID
    instance_id: str
    pool_id: str
    terminated_at: datetime


async def list_uncovered(conn: Conn, now: datetime) -> list[Uncovered]:
    """Agents that should have a replica and have none."""
    return [Uncovered(**row) for row in await conn.fetch(LIST_UNCOVERED, BATCH, now)]


async def list_unwanted(conn: Conn) -> list[Found]:
    """Live replicas that nobody wants any more."""
    return [Found(**row) for row in await conn.fetch(LIST_UNWANTED, BATCH)]


async def list_left_running(conn: Conn, now: datetime) -> list[Found]:
    """Failed replicas whose instances may be ended."""
    return [Found(**row) for row in await conn.fetch(LIST_LEFT_RUNNING, now, BATCH)]


async def list_unconfirmed(conn: Conn, now: datetime) -> list[Found]:
    """Replicas whose end nobody has confirmed and nobody works on."""
    rows = await conn.fetch(
        LIST_UNCONFIRMED, now - ORDERED_FOR, now - ORDER_EVERY, BATCH, now - POLLED_WITHIN
    )
    return [Found(**row) for row in rows]


async def list_stranded(conn: Conn, now: datetime) -> list[Found]:
    """Replicas that nobody launches."""
    rows = await conn.fetch(LIST_STRANDED, BATCH, now - rules.LAUNCH_WITHIN, now - POLLED_WITHIN)
    return [Found(**row) for row in rows]


async def list_lost(conn: Conn, *, silent_since: datetime) -> list[Found]:
    """Replicas whose instances have gone silent."""
    return [Found(**row) for row in await conn.fetch(LIST_LOST, silent_since, BATCH)]


async def tell_unconfirmed(conn: Conn, now: datetime) -> list[Unconfirmed]:
    """Replicas unconfirmed for a day, each once."""
    rows = await conn.fetch(TELL_UNCONFIRMED, now, now - ORDERED_FOR)
    return [Unconfirmed(**row) for row in rows]


async def accrue_costs(conn: Conn, now: datetime) -> None:
    """Sum up what replicas have cost until now."""
    await conn.execute(ACCRUE_COSTS, now, now - ACCRUE_EVERY, PLANNED_NANOUSD, ACCRUE_BATCH)
