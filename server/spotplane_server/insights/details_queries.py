"""Figures of one instance and of one agent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# Prices that nobody told are 0, except on demand, whose last resort is fixed.
FIND_INSTANCE: Final = """
    SELECT i.tenant_id, i.id, i.instance_type, i.mode, i.pool_id,
           coalesce(p.price_nanousd, 0) AS spot_nanousd,
           coalesce(o.price_nanousd, i.baseline_price_nanousd, 41600000) AS on_demand_nanousd,
           coalesce(i.baseline_price_nanousd, o.price_nanousd, 41600000) AS baseline_nanousd,
           s.uptime_seconds, w.switched_at, coalesce(s.first_at, i.launched_at) AS first_at,
           CASE WHEN i.status = 'terminated' THEN coalesce(i.terminated_at, i.updated_at) END
               AS ended_at,
           w.total AS switches, w.week AS switches_7_days, w.month AS switches_30_days
      FROM instances i
      LEFT JOIN pools p ON p.id = i.pool_id
      LEFT JOIN on_demand_prices o ON o.region = i.region AND o.instance_type = i.instance_type
     CROSS JOIN LATERAL (SELECT coalesce(sum(extract(epoch FROM greatest(
                                    coalesce(ended_at, $3), started_at) - started_at)), 0)::float8
                                    AS uptime_seconds,
                                min(started_at) AS first_at
                           FROM instance_spans
                          WHERE tenant_id = i.tenant_id AND instance_id = i.id) s
     CROSS JOIN LATERAL (SELECT max(created_at) FILTER (WHERE new_instance_id = i.id)
                                    AS switched_at,
                                count(*) AS total,
                                count(*) FILTER (WHERE created_at > $4) AS week,
                                count(*) FILTER (WHERE created_at > $5) AS month
                           FROM switches
                          WHERE tenant_id = i.tenant_id AND success
                            AND (old_instance_id = i.id OR new_instance_id = i.id)) w
     WHERE i.id = $2 AND ($1::uuid IS NULL OR i.tenant_id = $1)
     ORDER BY i.updated_at DESC
     LIMIT 1
"""

SUM_INSTANCE: Final = """
    WITH running AS MATERIALIZED (
        SELECT bucket_at, baseline_nanousd - actual_nanousd - replica_nanousd - overlap_nanousd
                   AS savings
          FROM running_savings($1, $3)
         WHERE instance_id = $2)
    SELECT (coalesce((SELECT sum(baseline_nanousd - actual_nanousd - replica_nanousd
                                 - overlap_nanousd)
                        FROM savings_days
                       WHERE tenant_id = $1 AND instance_id = $2 AND day_at >= $4), 0)
            + coalesce((SELECT sum(savings) FROM running WHERE bucket_at >= $4), 0))::bigint
               AS recent_nanousd,
           (coalesce((SELECT sum(baseline_nanousd - actual_nanousd - replica_nanousd
                                 - overlap_nanousd)
                        FROM savings_months
                       WHERE tenant_id = $1 AND instance_id = $2), 0)
            + coalesce((SELECT sum(savings) FROM running), 0))::bigint AS total_nanousd
"""

AGENT_STATISTICS: Final = """
    SELECT d.total AS decisions, d.recommended, d.confidence, d.last_at AS last_decision_at,
           s.successful, s.failed, s.automatic, s.manual, s.emergency, s.downtime,
           (coalesce((SELECT sum(baseline_nanousd - actual_nanousd - replica_nanousd
                                 - overlap_nanousd)
                        FROM savings_months WHERE tenant_id = $1 AND agent_id = $2), 0)
            + coalesce((SELECT sum(baseline_nanousd - actual_nanousd - replica_nanousd
                                   - overlap_nanousd)
                          FROM running_savings($1, $3) WHERE agent_id = $2), 0))::bigint
               AS savings_nanousd
      FROM (SELECT count(*) AS total, count(*) FILTER (WHERE action <> 'stay') AS recommended,
                   coalesce(avg(confidence), 0)::float8 AS confidence, max(decided_at) AS last_at
              FROM decisions WHERE tenant_id = $1 AND agent_id = $2) d,
           (SELECT count(*) FILTER (WHERE success) AS successful,
                   count(*) FILTER (WHERE NOT success) AS failed,
                   count(*) FILTER (WHERE trigger = 'AUTOMATIC') AS automatic,
                   count(*) FILTER (WHERE trigger = 'MANUAL') AS manual,
                   count(*) FILTER (WHERE trigger = 'EMERGENCY') AS emergency,
                   coalesce(avg(downtime_seconds) FILTER (WHERE success), 0)::float8 AS downtime
              FROM switches WHERE tenant_id = $1 AND agent_id = $2) s
"""

WEEK: Final = timedelta(days=7)
MONTH: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """An instance, its prices an hour, its uptime, and its successful switches."""

    tenant_id: TenantId
    id: str
    instance_type: str
    mode: str
    pool_id: str | None
    spot_nanousd: int
    on_demand_nanousd: int
    baseline_nanousd: int
    uptime_seconds: float
    switched_at: datetime | None
    first_at: datetime
    ended_at: datetime | None
    switches: int
    switches_7_days: int
    switches_30_days: int


@dataclass(frozen=True, slots=True)
class InstanceSavings:
    """The ledger's sums of an instance: of the last days, and of all."""

    recent_nanousd: int
    total_nanousd: int


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """An agent's decisions and switches."""

    decisions: int
    recommended: int
    confidence: float
    last_decision_at: datetime | None
    successful: int
    failed: int
    automatic: int
    manual: int
    emergency: int
    downtime: float
    savings_nanousd: int


async def find_instance(
    conn: Conn, tenant_id: TenantId | None, instance_id: str, *, now: datetime
) -> InstanceFacts | None:
    """One instance, of any tenant for None; None when there is no such one."""
    row = await conn.fetchrow(FIND_INSTANCE, tenant_id, instance_id, now, now - WEEK, now - MONTH)
    return InstanceFacts(**row) if row else None


async def sum_instance(
    conn: Conn, tenant_id: TenantId, instance_id: str, *, since: datetime, now: datetime
) -> InstanceSavings:
    """The ledger's sums of an instance, with what is running."""
    row = await conn.fetchrow(SUM_INSTANCE, tenant_id, instance_id, now, since)
    assert row is not None  # scalar sums are one row
    return InstanceSavings(**row)


async def agent_statistics(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, *, now: datetime
) -> AgentFacts:
    """Sum up an agent's decisions, switches and savings; zeros before there were any."""
    row = await conn.fetchrow(AGENT_STATISTICS, tenant_id, agent_id, now)
    assert row is not None  # aggregates are one row
    return AgentFacts(**row)
