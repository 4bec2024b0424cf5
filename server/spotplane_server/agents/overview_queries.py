"""Agents as pages and administrators see them: read only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# `i`: the instance that serves; of a deleted agent the last one that did.
LIST_OVERVIEWS: Final = """
    SELECT a.tenant_id, a.id, a.logical_agent_id, a.hostname, t.name AS tenant_name,
           i.id AS instance_id, i.instance_type, i.region, i.az,
           coalesce(i.mode, 'unknown') AS mode,
           i.pool_id, a.status, a.enabled, a.auto_switch_enabled, a.manual_replica_enabled,
           a.auto_terminate_enabled, a.terminate_wait_seconds, a.agent_version,
           s.last_heartbeat_at,
           (SELECT count(*)
              FROM instances c
             WHERE c.tenant_id = a.tenant_id AND c.agent_id = a.id
               AND c.status IN ('launching', 'running_primary', 'running_replica', 'promoting'))
               AS instance_count,
           a.created_at, a.updated_at, i.active_at AS installed_at, a.deleted_at AS terminated_at,
           count(*) OVER () AS total
      FROM agents a
      JOIN tenants t ON t.id = a.tenant_id
      LEFT JOIN LATERAL (SELECT i.id, i.instance_type, i.region, i.az, i.mode, i.pool_id,
                                i.active_at
                           FROM instances i
                          WHERE i.tenant_id = a.tenant_id AND i.agent_id = a.id
                            AND (i.status = 'running_primary'
                                 OR (a.deleted_at IS NOT NULL AND i.active_at IS NOT NULL))
                          ORDER BY i.status = 'running_primary' DESC, i.active_at DESC
                          LIMIT 1) i ON true
      LEFT JOIN LATERAL (SELECT max(s.last_heartbeat_at) AS last_heartbeat_at
                           FROM agent_sessions s
                          WHERE s.tenant_id = a.tenant_id AND s.agent_id = a.id
                            AND (i.id IS NULL OR s.instance_id = i.id)) s ON true
     WHERE ($1::uuid IS NULL OR a.tenant_id = $1)
       AND ($2::text IS NULL OR a.status = $2)
       AND (NOT $3 OR a.deleted_at IS NULL)
       AND ($4::text IS NULL
            OR strpos(lower(a.logical_agent_id), lower($4)) > 0
            OR strpos(lower(a.hostname), lower($4)) > 0
            OR strpos(lower(t.name), lower($4)) > 0
            OR strpos(lower(i.id), lower($4)) > 0)
     ORDER BY CASE WHEN $5 THEN CASE WHEN a.deleted_at IS NOT NULL THEN 2
                                     WHEN a.status IN ('online', 'switching') THEN 0
                                     ELSE 1 END
                   WHEN a.deleted_at IS NOT NULL THEN 2
                   ELSE 0 END,
              CASE WHEN NOT $5 THEN s.last_heartbeat_at END DESC NULLS LAST,
              a.created_at DESC, a.id
     LIMIT $6 OFFSET $7
"""

COUNT_HEALTH: Final = """
    WITH heard AS (
        SELECT a.tenant_id, a.id, a.status, a.deleted_at IS NOT NULL AS deleted,
               extract(epoch FROM $1 - max(s.last_heartbeat_at))::float8 AS age
          FROM agents a
          LEFT JOIN agent_sessions s ON s.tenant_id = a.tenant_id AND s.agent_id = a.id
         GROUP BY a.tenant_id, a.id)
    SELECT t.id AS tenant_id, t.name AS tenant_name,
           count(*) FILTER (WHERE NOT h.deleted) AS total,
           count(*) FILTER (WHERE h.status IN ('online', 'switching')) AS active,
           count(*) FILTER (WHERE NOT h.deleted AND h.age < $2) AS healthy,
           count(*) FILTER (WHERE NOT h.deleted AND h.age >= $2 AND h.age <= $3) AS warning,
           count(*) FILTER (WHERE h.deleted) AS deleted,
           coalesce(sum(h.age) FILTER (WHERE h.status IN ('online', 'switching')), 0)::float8
               AS active_age
      FROM heard h
      JOIN tenants t ON t.id = h.tenant_id
     WHERE t.status <> 'deleted'
     GROUP BY t.id, t.name
     ORDER BY lower(t.name), t.id
"""

LIST_OFFLINE: Final = """
    SELECT a.id, a.hostname, t.name AS tenant_name, s.last_heartbeat_at
      FROM agents a
      JOIN tenants t ON t.id = a.tenant_id AND t.status <> 'deleted'
      LEFT JOIN LATERAL (SELECT max(s.last_heartbeat_at) AS last_heartbeat_at
                           FROM agent_sessions s
                          WHERE s.tenant_id = a.tenant_id AND s.agent_id = a.id) s ON true
     WHERE a.status = 'offline'
     ORDER BY s.last_heartbeat_at DESC NULLS LAST, a.id
     LIMIT $1
"""

HEALTHY_WITHIN: Final = timedelta(minutes=5)
WARNING_WITHIN: Final = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Overview:
    """An agent with what pages show of it; ``total`` counts all that match."""

    tenant_id: TenantId
    id: UUID
    logical_agent_id: str
    hostname: str | None
    tenant_name: str
    instance_id: str | None
    instance_type: str | None
    region: str | None
    az: str | None
    mode: str
    pool_id: str | None
    status: str
    enabled: bool
    auto_switch_enabled: bool
    manual_replica_enabled: bool
    auto_terminate_enabled: bool
    terminate_wait_seconds: int
    agent_version: str | None
    last_heartbeat_at: datetime | None
    instance_count: int
    created_at: datetime
    updated_at: datetime
    installed_at: datetime | None
    terminated_at: datetime | None
    total: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which agents to list.

    Attributes:
        tenant_id: Only this tenant's; None for all in the connection's scope.
        status: Only in this state; None for any.
        hide_deleted: Whether deleted ones are left out.
        search: Part of a name; None for any.
        by_state: Online first and newest first, instead of by the last sign of life.
    """

    tenant_id: TenantId | None
    status: str | None = None
    hide_deleted: bool = False
    search: str | None = None
    by_state: bool = False


@dataclass(frozen=True, slots=True)
class TenantHealth:
    """A tenant's agents by how lately they were heard of; ``active_age`` sums seconds."""

    tenant_id: TenantId
    tenant_name: str
    total: int
    active: int
    healthy: int
    warning: int
    deleted: int
    active_age: float


@dataclass(frozen=True, slots=True)
class Offline:
    """An agent that is offline."""

    id: UUID
    hostname: str | None
    tenant_name: str
    last_heartbeat_at: datetime | None


async def list_overviews(conn: Conn, wanted: Wanted, *, limit: int, offset: int) -> list[Overview]:
    """Agents with what pages show of them, at most ``limit``."""
    rows = await conn.fetch(
        LIST_OVERVIEWS,
        wanted.tenant_id,
        wanted.status,
        wanted.hide_deleted,
        wanted.search,
        wanted.by_state,
        limit,
        offset,
    )
    return [Overview(**row) for row in rows]


async def count_health(conn: Conn, now: datetime) -> list[TenantHealth]:
    """Every tenant that has or had agents, by name."""
    rows = await conn.fetch(
        COUNT_HEALTH, now, HEALTHY_WITHIN.total_seconds(), WARNING_WITHIN.total_seconds()
    )
    return [TenantHealth(**row) for row in rows]


async def list_offline(conn: Conn, limit: int) -> list[Offline]:
    """Agents that are offline, the one that was heard of last first."""
    return [Offline(**row) for row in await conn.fetch(LIST_OFFLINE, limit)]
