"""What the market's answers need to know of agents and instances."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.instances.rules import Status
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# The agent's instance of that name, or the serving one when none is named; and beside it the region
# of the serving one, for a report that names a machine the plane does not know.
FIND_REPORTER: Final = """
    SELECT a.tenant_id, i.id AS instance_id, i.instance_type, i.pool_id, i.status,
           r.type AS replica, coalesce(i.region, p.region) AS region
      FROM agents a
      LEFT JOIN instances p
        ON p.tenant_id = a.tenant_id AND p.agent_id = a.id AND p.status = 'running_primary'
      LEFT JOIN instances i
        ON i.tenant_id = a.tenant_id AND i.agent_id = a.id AND i.id = coalesce($2, p.id)
      LEFT JOIN replicas r
        ON r.tenant_id = i.tenant_id AND r.instance_id = i.id
     WHERE a.id = $1
       AND a.deleted_at IS NULL
"""

# The named agent, or the one heard of last, those online first; and its serving instance, or the
# one that served last.
FIND_AGENTS_PLACE: Final = """
    WITH agent AS (
        SELECT a.tenant_id, a.id
          FROM agents a
          LEFT JOIN LATERAL
               (SELECT max(s.last_heartbeat_at) AS heard_at
                  FROM agent_sessions s
                 WHERE s.tenant_id = a.tenant_id AND s.agent_id = a.id) AS s ON true
         WHERE a.deleted_at IS NULL
           AND ($1::uuid IS NULL OR a.id = $1)
           AND ($2::uuid IS NULL OR a.tenant_id = $2)
         ORDER BY (a.status IN ('online', 'switching')) DESC, s.heard_at DESC NULLS LAST, a.id
         LIMIT 1)
    SELECT a.id AS agent_id, i.instance_type, i.region
      FROM agent a
     CROSS JOIN LATERAL
           (SELECT instance_type, region
              FROM instances
             WHERE tenant_id = a.tenant_id AND agent_id = a.id
             ORDER BY (status = 'running_primary') DESC, updated_at DESC
             LIMIT 1) AS i
"""

COUNT_ACTIVE: Final = """
    SELECT region, az, instance_type, count(*) AS instances
      FROM instances
     WHERE status IN ('launching', 'running_primary', 'running_replica', 'promoting')
     GROUP BY region, az, instance_type
     ORDER BY region, az, instance_type
"""

# Hours that instances ran in each pool within a window, in days: what a rate of interruptions is
# measured against. Counted over all tenants and never attributed to one.
SUM_INSTANCE_DAYS: Final = """
    SELECT s.pool_id,
           sum(extract(epoch FROM least(coalesce(s.ended_at, $3), $3) - greatest(s.started_at, $2))
               / 86400)::float8 AS instance_days
      FROM instance_spans s
     WHERE s.pool_id = ANY($1)
       AND s.mode = 'spot'
       AND s.started_at < $3
       AND (s.ended_at IS NULL OR s.ended_at > $2)
     GROUP BY s.pool_id
"""

READ_MANUAL_DOWNTIME: Final = """
    SELECT avg(downtime_seconds)::float8
      FROM switches
     WHERE tenant_id = $1
       AND agent_id = $2
       AND trigger = 'MANUAL'
       AND success
"""


@dataclass(frozen=True, slots=True)
class Reporting:
    """Who reports prices.

    Attributes:
        instance_id: The instance that was named, or the serving one; None when unknown.
        replica: Type of the replica that the instance is or was.
        region: Of that instance, or of the serving one.
    """

    tenant_id: TenantId
    instance_id: str | None
    instance_type: str | None
    pool_id: str | None
    status: Status | None
    replica: str | None
    region: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where an agent serves."""

    agent_id: UUID
    instance_type: str
    region: str


@dataclass(frozen=True, slots=True)
class Active:
    """How many instances of a type are active in a zone."""

    region: str
    az: str
    instance_type: str
    instances: int


async def find_reporter(conn: Conn, agent_id: UUID, instance_id: str | None) -> Reporting | None:
    """Who reports for an agent; None when the scope has no such agent."""
    row = await conn.fetchrow(FIND_REPORTER, agent_id, instance_id)
    return Reporting(**row) if row else None


async def find_agents_place(
    conn: Conn, agent_id: UUID | None, tenant_id: TenantId | None
) -> Place | None:
    """Where an agent serves, or the one heard of last; None without one."""
    row = await conn.fetchrow(FIND_AGENTS_PLACE, agent_id, tenant_id)
    return Place(**row) if row else None


async def count_active(conn: Conn) -> list[Active]:
    """Active instances of the scope by region, zone and type."""
    return [Active(**row) for row in await conn.fetch(COUNT_ACTIVE)]


async def sum_instance_days(
    conn: Conn, pool_ids: list[str], frm: datetime, to: datetime
) -> dict[str, float]:
    """Days that instances ran in each pool between two instants; pools without any are absent."""
    rows = await conn.fetch(SUM_INSTANCE_DAYS, pool_ids, frm, to)
    return {row["pool_id"]: row["instance_days"] for row in rows}


async def read_manual_downtime(conn: Conn, tenant_id: TenantId, agent_id: UUID) -> float | None:
    """Mean seconds that the agent's manual switches took it down; None without one."""
    seconds: float | None = await conn.fetchval(READ_MANUAL_DOWNTIME, tenant_id, agent_id)
    return seconds
