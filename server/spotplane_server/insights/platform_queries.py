"""Figures of the whole plane."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from spotplane_server.kernel.db.database import Conn

FLEET_STATS: Final = """
    SELECT (SELECT count(*) FROM tenants WHERE deleted_at IS NULL) AS tenants,
           a.online AS agents_online, a.total AS agents_total,
           (SELECT count(*) FROM pools p
             WHERE EXISTS (SELECT FROM clean_prices c
                            WHERE c.pool_id = p.id AND c.bucket_at > $2 AND c.bucket_at <= $1)
           ) AS pools_covered,
           l.savings::bigint AS savings_nanousd,
           s.total AS switches, s.manual, s.automatic, s.emergency,
           s.downtime::bigint AS downtime_seconds,
           (SELECT NOT active_fallback FROM engine_state) AS engine_loaded,
           EXISTS (SELECT FROM engine_sessions WHERE role = 'live' AND kind = 'model')
               AS model_live
      FROM (SELECT count(*) FILTER (WHERE status IN ('online', 'switching')) AS online,
                   count(*) AS total
              FROM agents WHERE deleted_at IS NULL) a,
           (SELECT count(*) AS total,
                   count(*) FILTER (WHERE trigger = 'MANUAL') AS manual,
                   count(*) FILTER (WHERE trigger = 'AUTOMATIC') AS automatic,
                   count(*) FILTER (WHERE trigger = 'EMERGENCY') AS emergency,
                   coalesce(sum(downtime_seconds), 0) AS downtime
              FROM switches WHERE success) s,
           (SELECT coalesce(sum(baseline_nanousd - actual_nanousd - replica_nanousd
                                - overlap_nanousd), 0) AS savings
              FROM (SELECT baseline_nanousd, actual_nanousd, replica_nanousd, overlap_nanousd
                      FROM savings_months
                     UNION ALL
                    SELECT baseline_nanousd, actual_nanousd, replica_nanousd, overlap_nanousd
                      FROM running_savings(NULL, $1)) p) l
"""

TENANT_GROWTH: Final = """
    WITH born AS (
        SELECT date_trunc('day', created_at, 'UTC') AS day_at, count(*) AS count
          FROM tenants GROUP BY 1),
    gone AS (
        SELECT date_trunc('day', deleted_at, 'UTC') AS day_at, count(*) AS count
          FROM tenants WHERE deleted_at IS NOT NULL GROUP BY 1)
    SELECT d.day_at,
           (coalesce((SELECT sum(count) FROM born WHERE day_at < $1), 0)
            - coalesce((SELECT sum(count) FROM gone WHERE day_at < $1), 0)
            + sum(coalesce(b.count, 0) - coalesce(g.count, 0)) OVER (ORDER BY d.day_at))::bigint
               AS total,
           coalesce(b.count, 0) AS new,
           (SELECT count(*) FROM tenant_activity_days t WHERE t.day_at = d.day_at) AS active
      FROM generate_series($1::timestamptz, $2::timestamptz, interval '24 hours') AS d (day_at)
      LEFT JOIN born b ON b.day_at = d.day_at
      LEFT JOIN gone g ON g.day_at = d.day_at
     ORDER BY d.day_at
"""

OPERATIONS: Final = """
    SELECT a.total AS agents_total, a.online AS agents_online,
           s.mean AS downtime_mean, s.deviation AS downtime_stddev, s.p95 AS downtime_p95,
           l.savings::bigint AS savings_nanousd, l.baseline::bigint AS baseline_nanousd,
           f.total AS emergencies, f.rebalances, f.terminations, f.silences,
           r.duplicates::bigint AS duplicates, r.gaps::bigint AS gaps,
           r.backfills::bigint AS backfills, r.last_run_at
      FROM (SELECT count(*) FILTER (WHERE status IN ('online', 'switching')) AS online,
                   count(*) AS total
              FROM agents WHERE deleted_at IS NULL) a,
           (SELECT coalesce(avg(downtime_seconds), 0)::float8 AS mean,
                   coalesce(stddev_pop(downtime_seconds), 0)::float8 AS deviation,
                   coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY downtime_seconds), 0)
                       AS p95
              FROM switches WHERE success AND created_at > $2 AND created_at <= $1) s,
           (SELECT coalesce(sum(baseline_nanousd - actual_nanousd - replica_nanousd
                                - overlap_nanousd), 0) AS savings,
                   coalesce(sum(baseline_nanousd), 0) AS baseline
              FROM (SELECT baseline_nanousd, actual_nanousd, replica_nanousd, overlap_nanousd
                      FROM savings_months
                     UNION ALL
                    SELECT baseline_nanousd, actual_nanousd, replica_nanousd, overlap_nanousd
                      FROM running_savings(NULL, $1)) p) l,
           (SELECT count(*) FILTER (WHERE kind <> 'silence') AS total,
                   count(*) FILTER (WHERE kind = 'rebalance') AS rebalances,
                   count(*) FILTER (WHERE kind = 'termination') AS terminations,
                   count(*) FILTER (WHERE kind = 'silence') AS silences
              FROM failovers WHERE detected_at >= $3 AND kind <> 'drain') f,
           (SELECT coalesce(sum(duplicates_removed), 0) AS duplicates,
                   coalesce(sum(gaps_interpolated), 0) AS gaps,
                   coalesce(sum(backfills_added), 0) AS backfills,
                   max(started_at) AS last_run_at
              FROM pipeline_runs WHERE started_at > $4) r
"""

NOTE_ACTIVITY: Final = """
    INSERT INTO tenant_activity_days (tenant_id, day_at)
    SELECT DISTINCT s.tenant_id, date_trunc('day', v.at, 'UTC')
      FROM agent_sessions s
     CROSS JOIN LATERAL (VALUES (s.connected_at), (s.last_heartbeat_at)) AS v (at)
     WHERE v.at >= $1
    ON CONFLICT DO NOTHING
"""

DAY: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class FleetStats:
    """Counts over all tenants; switches are those that succeeded."""

    tenants: int
    agents_online: int
    agents_total: int
    pools_covered: int
    savings_nanousd: int
    switches: int
    manual: int
    automatic: int
    emergency: int
    downtime_seconds: int
    engine_loaded: bool
    model_live: bool


@dataclass(frozen=True, slots=True)
class GrowthDay:
    """Tenants of a UTC day."""

    day_at: datetime
    total: int
    new: int
    active: int


@dataclass(frozen=True, slots=True)
class Operations:
    """How the plane does its work."""

    agents_total: int
    agents_online: int
    downtime_mean: float
    downtime_stddev: float
    downtime_p95: float
    savings_nanousd: int
    baseline_nanousd: int
    emergencies: int
    rebalances: int
    terminations: int
    silences: int
    duplicates: int
    gaps: int
    backfills: int
    last_run_at: datetime | None


async def fleet_stats(conn: Conn, *, now: datetime) -> FleetStats:
    """Count the whole fleet."""
    row = await conn.fetchrow(FLEET_STATS, now, now - DAY)
    assert row is not None  # aggregates are one row
    return FleetStats(**row)


async def tenant_growth(conn: Conn, *, first: datetime, last: datetime) -> list[GrowthDay]:
    """Tenants of each day from one to another, none left out."""
    return [GrowthDay(**row) for row in await conn.fetch(TENANT_GROWTH, first, last)]


async def operations(conn: Conn, *, now: datetime, today: datetime) -> Operations:
    """Measure 24 hours of downtime, today's emergencies and 7 days of price cleaning."""
    row = await conn.fetchrow(OPERATIONS, now, now - DAY, today, now - 7 * DAY)
    assert row is not None  # aggregates are one row
    return Operations(**row)


async def note_activity(conn: Conn, *, since: datetime) -> int:
    """Remember of which tenants was heard since, day by day; how many days are new."""
    done = await conn.execute(NOTE_ACTIVITY, since)
    return int(done.split()[-1])
