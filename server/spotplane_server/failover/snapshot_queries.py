"""What the reconciler looks at: losses nobody told of, open failovers, what the cloud took."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.failover.rules import Situation
from spotplane_server.failover.store import TAKEN_AFTER
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# Agents whose primary is gone while a replica stands by that nobody has promoted: the loss was told
# to somebody else, or its failover ended before the replica was there.
OPEN_VACANCIES: Final = """
    INSERT INTO failovers (tenant_id, id, agent_id, instance_id, pool_id, kind, status, detected_at,
                           noticed_at)
    SELECT a.tenant_id, gen_random_uuid(), a.id, l.id, l.pool_id, 'silence', 'detected', $1, $1
      FROM replicas r
      JOIN agents a ON a.tenant_id = r.tenant_id AND a.id = r.agent_id AND a.deleted_at IS NULL
     CROSS JOIN LATERAL (
            SELECT i.id, i.pool_id
              FROM instances i
             WHERE i.tenant_id = a.tenant_id AND i.agent_id = a.id
               AND i.status IN ('zombie', 'terminating', 'terminated')
             ORDER BY i.updated_at DESC
             LIMIT 1) l
     WHERE r.status IN ('syncing', 'ready') AND r.bound
       AND NOT EXISTS (SELECT
                         FROM instances p
                        WHERE p.tenant_id = a.tenant_id AND p.agent_id = a.id
                          AND p.status = 'running_primary')
       AND NOT EXISTS (SELECT
                         FROM failovers f
                        WHERE f.tenant_id = a.tenant_id AND f.agent_id = a.id
                          AND f.status IN ('detected', 'handling'))
    ON CONFLICT (tenant_id, instance_id) WHERE status IN ('detected', 'handling') DO NOTHING
    RETURNING tenant_id, id, true AS fresh
"""

# Primaries that have been silent too long, while somebody listened, and whose loss no failover
# knows of yet: a rebalance or a drain waits, which is over now. Who said goodbye left on purpose;
# who was just launched is still booting.
OPEN_SILENCES: Final = """
    INSERT INTO failovers AS o (tenant_id, id, agent_id, instance_id, pool_id, kind, status,
                                detected_at, noticed_at)
    SELECT i.tenant_id, gen_random_uuid(), i.agent_id, i.id, i.pool_id, 'silence', 'detected', $1,
           $1
      FROM instances i
      JOIN agents a ON a.tenant_id = i.tenant_id AND a.id = i.agent_id
      JOIN agent_sessions s ON s.tenant_id = i.tenant_id AND s.instance_id = i.id
      LEFT JOIN heartbeat_listener_lags l ON l.server_id = s.server_id
     CROSS JOIN heartbeat_collection h
     WHERE i.status = 'running_primary'
       AND a.deleted_at IS NULL
       AND s.goodbye_at IS NULL
       AND greatest(s.last_heartbeat_at, h.since, l.uninterrupted_since)
           < $2::timestamptz - coalesce(l.lag, interval '0')
       AND h.seen_at > now() - interval '10 seconds'
       AND (a.grace_until IS NULL OR a.grace_until < $1)
       AND NOT EXISTS (SELECT
                         FROM failovers f
                        WHERE f.tenant_id = i.tenant_id AND f.instance_id = i.id
                          AND f.kind IN ('silence', 'termination')
                          AND (f.status IN ('detected', 'handling')
                               OR (f.kind = 'silence' AND f.detected_at > s.last_heartbeat_at)))
    ON CONFLICT (tenant_id, instance_id) WHERE status IN ('detected', 'handling') DO UPDATE
       SET kind = 'silence', noticed_at = $1, acted_at = NULL
     WHERE o.kind IN ('rebalance', 'drain')
    RETURNING tenant_id, id, detected_at = $1 AS fresh
"""

SNAPSHOT: Final = """
    SELECT f.tenant_id, f.id AS failover_id, f.agent_id, f.instance_id, f.kind, f.status,
           f.detected_at, f.deadline, p.id AS primary_id, i.status AS instance_status,
           coalesce(s.last_heartbeat_at >= $1, false) AS heard,
           r.id AS replica_id, r.status AS replica_status,
           coalesce(r.bound, false) AS replica_bound, r.created_by AS replica_created_by,
           coalesce(rs.streamed_at = '-infinity' OR (rs.goodbye_at IS NULL
                                     AND greatest(rs.last_heartbeat_at, h.since,
                                                  rl.uninterrupted_since)
                                         >= $1::timestamptz - coalesce(rl.lag, interval '0')), true)
               AS replica_alive,
           f.switch_count, f.switch_queued_at,
           a.manual_replica_enabled AS manual_mode,
           coalesce(ps.last_heartbeat_at >= $1, false) AS launcher_online,
           EXISTS (SELECT
                     FROM agent_commands c
                    WHERE c.tenant_id = f.tenant_id AND c.agent_id = f.agent_id
                      AND c.type = 'switch' AND c.trigger = 'EMERGENCY'
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
      LEFT JOIN agent_sessions rs ON rs.tenant_id = r.tenant_id AND rs.instance_id = r.instance_id
      LEFT JOIN heartbeat_listener_lags rl ON rl.server_id = rs.server_id
     CROSS JOIN heartbeat_collection h
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

BATCH: Final = 500


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


async def open_vacancies(conn: Conn, now: datetime) -> list[Silence]:
    """Open a failover for every agent without a primary that has somebody standing by."""
    return [Silence(**row) for row in await conn.fetch(OPEN_VACANCIES, now)]


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
