"""The agent_sessions table: who holds an instance's stream, and when it was last heard of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# A registration counts as a heartbeat. Epoch 0: no stream yet.
TOUCH_SESSION: Final = """
    INSERT INTO agent_sessions AS s (tenant_id, instance_id, agent_id, epoch, session_id, server_id,
                                     connected_at, last_heartbeat_at)
    VALUES ($1, $2, $3, 0, '00000000-0000-0000-0000-000000000000', '', $4, $4)
    ON CONFLICT (tenant_id, instance_id) DO UPDATE
       SET last_heartbeat_at = greatest(s.last_heartbeat_at, $4), goodbye_at = NULL
"""

# A sign of life without a stream; every one that has something new to say is written, and of the
# rest one in a while.
HEAR_SESSION: Final = """
    INSERT INTO agent_sessions AS s (tenant_id, instance_id, agent_id, epoch, session_id, server_id,
                                     connected_at, last_heartbeat_at, cpu_percent, memory_percent)
    VALUES ($1, $2, $3, 0, '00000000-0000-0000-0000-000000000000', '', $4, $4, $5, $6)
    ON CONFLICT (tenant_id, instance_id) DO UPDATE
       SET last_heartbeat_at = greatest(s.last_heartbeat_at, $4), goodbye_at = NULL,
           cpu_percent = coalesce($5, s.cpu_percent),
           memory_percent = coalesce($6, s.memory_percent)
     WHERE s.last_heartbeat_at < $4 - $7::interval OR s.goodbye_at IS NOT NULL
"""

# A goodbye without a stream. It ends no stream: whoever holds one says goodbye there.
LEAVE_SESSION: Final = """
    UPDATE agent_sessions
       SET goodbye_at = $3
     WHERE tenant_id = $1 AND instance_id = $2
"""

OPEN_SESSION: Final = """
    INSERT INTO agent_sessions AS s (tenant_id, instance_id, agent_id, epoch, session_id, server_id,
                                     connected_at, last_heartbeat_at, streamed_at,
                                     applied_generation)
    VALUES ($1, $2, $3, 1, $4, $5, $6, $6, $6, $7)
    ON CONFLICT (tenant_id, instance_id) DO UPDATE
       SET epoch = s.epoch + 1, session_id = $4, server_id = $5, agent_id = $3, connected_at = $6,
           last_heartbeat_at = greatest(s.last_heartbeat_at, $6), streamed_at = $6,
           applied_generation = $7,
           disconnected_at = NULL, goodbye_at = NULL
    RETURNING epoch
"""

# One statement for all agents of this process, whatever their number. A row that does not come back
# belongs to a newer session; the generation that comes back tells who missed a change.
FLUSH_HEARTBEATS: Final = """
    UPDATE agent_sessions s
       SET last_heartbeat_at = greatest(s.last_heartbeat_at, h.at),
           streamed_at = greatest(s.streamed_at, h.at),
           applied_generation = h.applied,
           cpu_percent = coalesce(h.cpu, s.cpu_percent),
           memory_percent = coalesce(h.memory, s.memory_percent),
           disconnected_at = CASE WHEN h.closed THEN $9::timestamptz END
      FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[], $5::bigint[],
                  $6::real[], $7::real[], $8::boolean[])
           AS h (tenant_id, instance_id, epoch, at, applied, cpu, memory, closed)
      JOIN instances i ON i.tenant_id = h.tenant_id AND i.id = h.instance_id
      JOIN agents a ON a.tenant_id = i.tenant_id AND a.id = i.agent_id
     WHERE s.tenant_id = h.tenant_id
       AND s.instance_id = h.instance_id
       AND s.epoch = h.epoch
    RETURNING s.tenant_id, s.instance_id, a.generation, a.deleted_at IS NOT NULL AS deleted
"""

# A gap of ten seconds means that the plane, its database, or this server was away.
KEEP_COLLECTING: Final = """
    WITH plane AS (
        UPDATE heartbeat_collection
           SET since = CASE WHEN seen_at < now() - interval '10 seconds' THEN $1 ELSE since END,
               seen_at = now())
    INSERT INTO heartbeat_listeners AS l (server_id, uninterrupted_since, last_flush_at,
                                          reconnect_within)
    VALUES ($2, $1, now(), $3)
    ON CONFLICT (server_id) DO UPDATE
       SET uninterrupted_since = CASE WHEN l.last_flush_at < now() - interval '10 seconds'
                                      THEN $1 ELSE l.uninterrupted_since END,
           last_flush_at = now()
"""

SAY_GOODBYE: Final = """
    UPDATE agent_sessions
       SET goodbye_at = $4, disconnected_at = $4
     WHERE tenant_id = $1 AND instance_id = $2 AND epoch = $3
"""

MARK_SILENT: Final = """
    UPDATE agents a
       SET status = 'offline', updated_at = $1
      FROM instances i
      JOIN agent_sessions s ON s.tenant_id = i.tenant_id AND s.instance_id = i.id
      LEFT JOIN heartbeat_listener_lags l ON l.server_id = s.server_id
     CROSS JOIN heartbeat_collection h
     WHERE i.tenant_id = a.tenant_id
       AND i.agent_id = a.id
       AND i.status = 'running_primary'
       AND a.status IN ('online', 'disabled', 'switching', 'error')
       AND greatest(s.last_heartbeat_at, h.since, l.uninterrupted_since)
           < $2::timestamptz - coalesce(l.lag, interval '0')
       AND h.seen_at > now() - interval '10 seconds'
       AND (a.grace_until IS NULL OR a.grace_until < $1)
    RETURNING a.tenant_id, a.id, i.id AS instance_id, s.last_heartbeat_at
"""

# The other edge: heard of again.
MARK_HEARD: Final = """
    UPDATE agents a
       SET status = CASE WHEN a.enabled THEN 'online' ELSE 'disabled' END, updated_at = $1
      FROM instances i
      JOIN agent_sessions s ON s.tenant_id = i.tenant_id AND s.instance_id = i.id
     WHERE i.tenant_id = a.tenant_id
       AND i.agent_id = a.id
       AND i.status = 'running_primary'
       AND a.status = 'offline'
       AND s.goodbye_at IS NULL
       AND s.last_heartbeat_at >= $2
    RETURNING a.tenant_id, a.id, i.id AS instance_id, s.last_heartbeat_at
"""

PRIMARY_HEARD: Final = """
    SELECT EXISTS (SELECT
                     FROM instances i
                     JOIN agent_sessions s ON s.tenant_id = i.tenant_id AND s.instance_id = i.id
                     LEFT JOIN heartbeat_listener_lags l ON l.server_id = s.server_id
                    WHERE i.tenant_id = $1
                      AND i.agent_id = $2
                      AND i.status = 'running_primary'
                      AND s.last_heartbeat_at >= $3::timestamptz - coalesce(l.lag, interval '0'))
"""


@dataclass(frozen=True, slots=True)
class Beat:
    """What one session has to say at a flush."""

    tenant_id: TenantId
    instance_id: str
    epoch: int
    at: datetime  # of its last heartbeat; the end of a stream is no sign of life
    applied_generation: int
    cpu_percent: float | None
    memory_percent: float | None
    closed: bool


@dataclass(frozen=True, slots=True)
class Flushed:
    """A session that is still the instance's newest."""

    tenant_id: TenantId
    instance_id: str
    generation: int
    deleted: bool


@dataclass(frozen=True, slots=True)
class Edge:
    """An agent that fell silent or was heard of again."""

    tenant_id: TenantId
    id: UUID
    instance_id: str
    last_heartbeat_at: datetime


async def touch(
    conn: Conn, tenant_id: TenantId, instance_id: str, agent_id: UUID, now: datetime
) -> None:
    """Count a sign of life that came without a stream."""
    await conn.execute(TOUCH_SESSION, tenant_id, instance_id, agent_id, now)


async def hear(
    conn: Conn,
    tenant_id: TenantId,
    instance_id: str,
    agent_id: UUID,
    now: datetime,
    *,
    load: tuple[float | None, float | None] = (None, None),
    at_most_every: timedelta = timedelta(),
) -> None:
    """Count a sign of life that came without a stream.

    Args:
        conn: The connection.
        tenant_id: Whose instance it is.
        instance_id: The instance, which must be known.
        agent_id: Its agent.
        now: When.
        load: Percent of CPU and of memory in use.
        at_most_every: What is heard sooner after the last sign is not written.
    """
    await conn.execute(HEAR_SESSION, tenant_id, instance_id, agent_id, now, *load, at_most_every)


async def leave(conn: Conn, tenant_id: TenantId, instance_id: str, now: datetime) -> None:
    """Note that an instance left on purpose, said otherwise than by its stream."""
    await conn.execute(LEAVE_SESSION, tenant_id, instance_id, now)


async def open_session(
    conn: Conn,
    tenant_id: TenantId,
    instance_id: str,
    agent_id: UUID,
    *,
    session_id: UUID,
    server_id: str,
    applied_generation: int,
    now: datetime,
) -> int:
    """Give an instance a new session; answers its epoch, which fences all before."""
    epoch: int = await conn.fetchval(
        OPEN_SESSION,
        tenant_id,
        instance_id,
        agent_id,
        session_id,
        server_id,
        now,
        applied_generation,
    )
    return epoch


async def keep_collecting(
    conn: Conn, server_id: str, *, reconnect_within: timedelta, now: datetime
) -> None:
    """Record that a server stores heartbeats now; after a gap, that it does so again.

    Args:
        conn: The connection.
        server_id: The server.
        reconnect_within: How long after its last flush its agents may need to reach another server.
        now: When.
    """
    await conn.execute(KEEP_COLLECTING, now, server_id, reconnect_within)


async def flush(conn: Conn, beats: Sequence[Beat], now: datetime) -> list[Flushed]:
    """Write what sessions have to say; whoever is missing from the answer is fenced."""
    rows = await conn.fetch(
        FLUSH_HEARTBEATS,
        [b.tenant_id for b in beats],
        [b.instance_id for b in beats],
        [b.epoch for b in beats],
        [b.at for b in beats],
        [b.applied_generation for b in beats],
        [b.cpu_percent for b in beats],
        [b.memory_percent for b in beats],
        [b.closed for b in beats],
        now,
    )
    return [Flushed(**row) for row in rows]


async def say_goodbye(
    conn: Conn, tenant_id: TenantId, instance_id: str, epoch: int, now: datetime
) -> bool:
    """Note that an instance left on purpose; False when it has a newer session."""
    done = await conn.execute(SAY_GOODBYE, tenant_id, instance_id, epoch, now)
    return bool(done == "UPDATE 1")


async def mark_silent(conn: Conn, *, now: datetime, after: timedelta) -> list[Edge]:
    """Move agents whose primary has been silent for longer than ``after`` to offline."""
    return [Edge(**row) for row in await conn.fetch(MARK_SILENT, now, now - after)]


async def mark_heard(conn: Conn, *, now: datetime, after: timedelta) -> list[Edge]:
    """Move offline agents whose primary has been heard of within ``after`` to online."""
    return [Edge(**row) for row in await conn.fetch(MARK_HEARD, now, now - after)]


async def primary_silent(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, *, since: datetime
) -> bool:
    """Whether no primary has been heard of since; true when there is none."""
    heard: bool = await conn.fetchval(PRIMARY_HEARD, tenant_id, agent_id, since)
    return not heard
