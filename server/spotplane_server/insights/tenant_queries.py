"""Figures of tenants."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# One statement for a page of tenants or for one of them; each figure is its own count over the
# tenant's rows.
LIST_FIGURES: Final = """
    WITH page AS MATERIALIZED (
        SELECT id, name, email, status, created_at
          FROM tenants
         WHERE deleted_at IS NULL
           AND ($1::uuid IS NULL OR id = $1)
           AND ($2::timestamptz IS NULL OR created_at < $2 OR (created_at = $2 AND id > $3))
         ORDER BY created_at DESC, id
         LIMIT $4),
    running AS MATERIALIZED (
        SELECT tenant_id, sum(baseline_nanousd - actual_nanousd - replica_nanousd
                              - overlap_nanousd) AS savings
          FROM running_savings($1, $5)
         GROUP BY tenant_id)
    SELECT t.id, t.name, t.email, t.status, t.created_at,
           a.online AS agents_online, a.total AS agents_total,
           i.active AS active_instances, i.spot AS spot_instances,
           (m.savings + coalesce(r.savings, 0))::bigint AS savings_nanousd,
           h.last_sync_at
      FROM page t
     CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE status IN ('online', 'switching')) AS online,
                                count(*) AS total
                           FROM agents WHERE tenant_id = t.id AND deleted_at IS NULL) a
     CROSS JOIN LATERAL (SELECT count(*) AS active,
                                count(*) FILTER (WHERE mode = 'spot') AS spot
                           FROM instances
                          WHERE tenant_id = t.id
                            AND status IN ('launching', 'running_primary', 'running_replica',
                                           'promoting')) i
     CROSS JOIN LATERAL (SELECT coalesce(sum(baseline_nanousd - actual_nanousd - replica_nanousd
                                             - overlap_nanousd), 0) AS savings
                           FROM savings_months WHERE tenant_id = t.id) m
     CROSS JOIN LATERAL (SELECT max(last_heartbeat_at) AS last_sync_at
                           FROM agent_sessions WHERE tenant_id = t.id) h
      LEFT JOIN running r ON r.tenant_id = t.id
     ORDER BY t.created_at DESC, t.id
"""

COUNT_TENANTS: Final = "SELECT count(*) FROM tenants WHERE deleted_at IS NULL"

SUM_SWITCHES: Final = """
    SELECT count(*) AS total,
           count(*) FILTER (WHERE created_at >= $2) AS today,
           coalesce(sum(downtime_seconds), 0)::bigint AS downtime_seconds,
           coalesce(avg(downtime_seconds), 0)::float8 AS average_downtime
      FROM switches
     WHERE tenant_id = $1 AND success
"""

SUM_MONTH: Final = """
    SELECT coalesce(sum(baseline_nanousd - actual_nanousd - replica_nanousd - overlap_nanousd),
                    0)::bigint
      FROM (SELECT baseline_nanousd, actual_nanousd, replica_nanousd, overlap_nanousd
              FROM savings_months WHERE tenant_id = $1 AND month_at = $2
             UNION ALL
            SELECT baseline_nanousd, actual_nanousd, replica_nanousd, overlap_nanousd
              FROM running_savings($1, $3) WHERE bucket_at >= $2) p
"""

RECENT_SWITCHES: Final = """
    SELECT id, old_instance_id, new_instance_id, old_mode, new_mode, savings_impact_nanousd,
           initiated_at
      FROM switches
     WHERE tenant_id = $1 AND success
     ORDER BY created_at DESC, id
     LIMIT 5
"""

ACTIVE_AGENTS: Final = """
    SELECT a.id, a.hostname, a.status, i.id AS instance_id, i.instance_type, i.region, i.mode
      FROM agents a
      LEFT JOIN instances i ON i.tenant_id = a.tenant_id AND i.agent_id = a.id
                           AND i.status = 'running_primary'
      LEFT JOIN agent_sessions s ON s.tenant_id = i.tenant_id AND s.instance_id = i.id
     WHERE a.tenant_id = $1 AND a.deleted_at IS NULL AND a.status <> 'offline'
     ORDER BY s.last_heartbeat_at DESC NULLS LAST, a.id
     LIMIT 100
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """A tenant and its figures."""

    id: UUID
    name: str
    email: str
    status: str
    created_at: datetime
    agents_online: int
    agents_total: int
    active_instances: int
    spot_instances: int
    savings_nanousd: int
    last_sync_at: datetime | None


@dataclass(frozen=True, slots=True)
class Switches:
    """A tenant's successful switches."""

    total: int
    today: int
    downtime_seconds: int
    average_downtime: float


@dataclass(frozen=True, slots=True)
class RecentSwitch:
    """One of a tenant's last switches."""

    id: UUID
    old_instance_id: str | None
    new_instance_id: str | None
    old_mode: str | None
    new_mode: str | None
    savings_impact_nanousd: int
    initiated_at: datetime


@dataclass(frozen=True, slots=True)
class ActiveAgent:
    """An agent with its primary, if it has one."""

    id: UUID
    hostname: str | None
    status: str
    instance_id: str | None
    instance_type: str | None
    region: str | None
    mode: str | None


async def list_figures(
    conn: Conn,
    *,
    after: tuple[datetime, UUID] | tuple[None, None] = (None, None),
    limit: int,
    now: datetime,
) -> list[Figures]:
    """Tenants that are not deleted, newest first, from a place in that order on."""
    rows = await conn.fetch(LIST_FIGURES, None, *after, limit, now)
    return [Figures(**row) for row in rows]


async def count_tenants(conn: Conn) -> int:
    """Tenants that are not deleted."""
    count: int = await conn.fetchval(COUNT_TENANTS)
    return count


async def find_figures(conn: Conn, tenant_id: TenantId, *, now: datetime) -> Figures | None:
    """One tenant, None when there is none or it is deleted."""
    row = await conn.fetchrow(LIST_FIGURES, tenant_id, None, None, 1, now)
    return Figures(**row) if row else None


async def sum_switches(conn: Conn, tenant_id: TenantId, *, today: datetime) -> Switches:
    """Sum up a tenant's successful switches."""
    row = await conn.fetchrow(SUM_SWITCHES, tenant_id, today)
    assert row is not None  # an aggregate is one row
    return Switches(**row)


async def sum_month(conn: Conn, tenant_id: TenantId, *, month: datetime, now: datetime) -> int:
    """Savings since the start of the current month, nano-USD."""
    savings: int = await conn.fetchval(SUM_MONTH, tenant_id, month, now)
    return savings


async def recent_switches(conn: Conn, tenant_id: TenantId) -> list[RecentSwitch]:
    """The last 5 successful switches, newest first."""
    return [RecentSwitch(**row) for row in await conn.fetch(RECENT_SWITCHES, tenant_id)]


async def active_agents(conn: Conn, tenant_id: TenantId) -> list[ActiveAgent]:
    """Up to 100 agents that are not offline, last heard of first."""
    return [ActiveAgent(**row) for row in await conn.fetch(ACTIVE_AGENTS, tenant_id)]
