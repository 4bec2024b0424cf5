"""Reading the ledger, with what is running, and the record of switches."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.savings.rules import Range

SUM_DAYS: Final = """
    SELECT date_trunc($4, p.at, 'UTC') AS start_at,
           sum(p.baseline)::bigint AS on_demand_nanousd,
           sum(p.spent)::bigint AS actual_nanousd
      FROM (SELECT d.day_at AS at, d.baseline_nanousd AS baseline,
                   d.actual_nanousd + d.replica_nanousd + d.overlap_nanousd AS spent
              FROM savings_days d
             WHERE d.tenant_id = $1 AND d.day_at >= $3
             UNION ALL
            SELECT r.bucket_at, r.baseline_nanousd,
                   r.actual_nanousd + r.replica_nanousd + r.overlap_nanousd
              FROM running_savings($1, $2) r
             WHERE r.bucket_at >= $3) p
     GROUP BY 1
     ORDER BY 1
"""

SUM_MONTHS: Final = """
    SELECT date_trunc($4, p.at, 'UTC') AS start_at,
           sum(p.baseline)::bigint AS on_demand_nanousd,
           sum(p.spent)::bigint AS actual_nanousd
      FROM (SELECT m.month_at AS at, m.baseline_nanousd AS baseline,
                   m.actual_nanousd + m.replica_nanousd + m.overlap_nanousd AS spent
              FROM savings_months m
             WHERE m.tenant_id = $1 AND m.month_at >= $3
             UNION ALL
            SELECT r.bucket_at, r.baseline_nanousd,
                   r.actual_nanousd + r.replica_nanousd + r.overlap_nanousd
              FROM running_savings($1, $2) r
             WHERE r.bucket_at >= $3) p
     GROUP BY 1
     ORDER BY 1
"""

COUNT_MODES: Final = """
    SELECT mode, count(*) AS count
      FROM instances
     WHERE tenant_id = $1
       AND status IN ('launching', 'running_primary', 'running_replica', 'promoting')
     GROUP BY mode
     ORDER BY mode
"""

COUNT_SWITCHES: Final = """
    SELECT date_trunc('day', created_at, 'UTC') AS day_at, count(*) AS count
      FROM switches
     WHERE tenant_id = $1 AND created_at >= $2 AND success
     GROUP BY 1
"""

SUM_DOWNTIMES: Final = """
    SELECT count(*) AS switches,
           count(*) FILTER (WHERE success) AS successful,
           count(*) FILTER (WHERE success AND downtime_seconds > 0) AS interrupting,
           coalesce(sum(downtime_seconds) FILTER (WHERE success), 0)::bigint AS total_seconds,
           coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY downtime_seconds)
                    FILTER (WHERE success), 0) AS p95_seconds,
           coalesce(min(downtime_seconds) FILTER (WHERE success), 0) AS min_seconds,
           coalesce(max(downtime_seconds) FILTER (WHERE success), 0) AS max_seconds,
           count(*) FILTER (WHERE success AND trigger = 'AUTOMATIC') AS automatic,
           coalesce(sum(downtime_seconds) FILTER (WHERE success AND trigger = 'AUTOMATIC'),
                    0)::bigint AS automatic_seconds,
           count(*) FILTER (WHERE success AND trigger = 'MANUAL') AS manual,
           coalesce(sum(downtime_seconds) FILTER (WHERE success AND trigger = 'MANUAL'),
                    0)::bigint AS manual_seconds,
           count(*) FILTER (WHERE success AND trigger = 'EMERGENCY') AS emergency,
           coalesce(sum(downtime_seconds) FILTER (WHERE success AND trigger = 'EMERGENCY'),
                    0)::bigint AS emergency_seconds
      FROM switches
     WHERE tenant_id = $1 AND created_at >= $2 AND created_at < $3
"""

FIND_LONGEST: Final = """
    SELECT id, downtime_seconds, initiated_at, cause
      FROM switches
     WHERE tenant_id = $1 AND created_at >= $2 AND created_at < $3
       AND success AND downtime_seconds > 0
     ORDER BY downtime_seconds DESC, created_at DESC, id
     LIMIT 1
"""

_UNITS: Final[dict[Range, str]] = {
    "daily": "day",
    "weekly": "week",
    "monthly": "month",
    "yearly": "year",
}


@dataclass(frozen=True, slots=True)
class Sum:
    """The ledger's sum over a period."""

    start_at: datetime
    on_demand_nanousd: int
    actual_nanousd: int


@dataclass(frozen=True, slots=True)
class Count:
    """How many instances run in a mode."""

    mode: str
    count: int


@dataclass(frozen=True, slots=True)
class Downtimes:
    """Switches of a window and their downtime; all but the first count those that succeeded."""

    switches: int
    successful: int
    interrupting: int
    total_seconds: int
    p95_seconds: float
    min_seconds: int
    max_seconds: int
    automatic: int
    automatic_seconds: int
    manual: int
    manual_seconds: int
    emergency: int
    emergency_seconds: int

    @property
    def mean_seconds(self) -> float:
        """Mean over the switches that succeeded; 0 without any."""
        return mean(self.total_seconds, self.successful)


@dataclass(frozen=True, slots=True)
class Longest:
    """The switch with the longest downtime."""

    id: UUID
    downtime_seconds: int
    initiated_at: datetime
    cause: str


def mean(total: int, count: int) -> float:
    """A mean; 0 of nothing."""
    return total / count if count else 0.0


async def sums(
    conn: Conn, tenant_id: TenantId, span: Range, *, since: datetime, now: datetime
) -> list[Sum]:
    """Sums by period, oldest first, with what is running; periods without anything are left out."""
    statement = SUM_DAYS if span in ("daily", "weekly") else SUM_MONTHS
    rows = await conn.fetch(statement, tenant_id, now, since, _UNITS[span])
    return [Sum(**row) for row in rows]


async def count_modes(conn: Conn, tenant_id: TenantId) -> list[Count]:
    """Active instances by mode."""
    return [Count(**row) for row in await conn.fetch(COUNT_MODES, tenant_id)]


async def count_switches(
    conn: Conn, tenant_id: TenantId, *, since: datetime
) -> dict[datetime, int]:
    """Successful switches by UTC day; days without one are left out."""
    rows = await conn.fetch(COUNT_SWITCHES, tenant_id, since)
    return {row["day_at"]: row["count"] for row in rows}


async def downtimes(
    conn: Conn, tenant_id: TenantId, *, since: datetime, until: datetime
) -> Downtimes:
    """Sum up the switches of a window."""
    row = await conn.fetchrow(SUM_DOWNTIMES, tenant_id, since, until)
    assert row is not None  # an aggregate without GROUP BY is one row
    return Downtimes(**row)


async def find_longest(
    conn: Conn, tenant_id: TenantId, *, since: datetime, until: datetime
) -> Longest | None:
    """The switch of a window with the longest downtime, None when none had any."""
    row = await conn.fetchrow(FIND_LONGEST, tenant_id, since, until)
    return Longest(**row) if row else None
