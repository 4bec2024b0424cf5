"""Usage totals by model, key and period, and the busiest minute, from rollups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.usage import sketch
from spotplane_server.usage.group_queries import QUANTILES
from spotplane_server.usage.sketch import Counts
from spotplane_server.usage.time_windows import MINUTE, Unit, Window

# $2 bounds; $3 name of the only model; $4 whether sketches are wanted.
SUM_MODELS: Final = """
    SELECT u.model_id, m.name AS model_name, m.family, m.type, sum(u.requests)::bigint AS requests,
           sum(u.successes)::bigint AS successes, sum(u.prompt_tokens)::bigint AS prompt_tokens,
           sum(u.completion_tokens)::bigint AS completion_tokens,
           sum(u.total_tokens)::bigint AS total_tokens,
           sum(u.cached_tokens)::bigint AS cached_tokens, sum(u.cost_nanos)::bigint AS cost_nanos,
           sum(u.latency_count)::bigint AS latency_count, sum(u.latency_sum)::bigint AS latency_sum,
           numeric_send(sum(CASE WHEN $4::bool THEN u.latencies ELSE 0 END)) AS latencies
      FROM usage_rollups_between($1, 'minute_model', 'hour_model', 'day_model',
                                 $2::timestamptz[]) AS u
      LEFT JOIN models m ON m.id = u.model_id
     WHERE $3::text IS NULL OR m.name = $3
     GROUP BY u.model_id, m.id
"""

SUM_KEYS: Final = """
    SELECT u.api_key_id, k.name AS key_name, k.key_prefix, u.requests, u.total_tokens, u.cost_nanos
      FROM (SELECT api_key_id, sum(requests)::bigint AS requests,
                   sum(total_tokens)::bigint AS total_tokens, sum(cost_nanos)::bigint AS cost_nanos
              FROM usage_rollups_between($1, NULL, 'hour_api_key', 'day_api_key',
                                         $2::timestamptz[])
             GROUP BY api_key_id) AS u
      LEFT JOIN api_keys k ON k.tenant_id = $1 AND k.id = u.api_key_id
     ORDER BY u.total_tokens DESC, u.api_key_id
"""

# $2 bounds; $3 unit, `hour` only with bounds that contain no days.
SUM_PERIODS: Final = """
    SELECT date_trunc($3, starts_at, 'UTC') AS period, sum(requests)::bigint AS requests,
           sum(prompt_tokens)::bigint AS prompt_tokens,
           sum(completion_tokens)::bigint AS completion_tokens,
           sum(cost_nanos)::bigint AS cost_nanos, sum(latency_count)::bigint AS latency_count,
           sum(latency_sum)::bigint AS latency_sum
      FROM usage_rollups_between($1, NULL, 'hour', 'day', $2::timestamptz[])
     GROUP BY 1
"""

SUM_MINUTES: Final = """
    SELECT starts_at AS minute, sum(requests)::bigint AS requests,
           sum(total_tokens)::bigint AS total_tokens
      FROM usage_rollups
     WHERE tenant_id = $1 AND rollup = 'minute_model' AND starts_at >= $2 AND starts_at < $3
     GROUP BY starts_at
"""

# The busiest minute of each whole hour is stored; $3 and $4 bound those hours.
FIND_PEAK: Final = """
    SELECT p.minute, p.requests
      FROM (SELECT starts_at AS minute, sum(requests)::bigint AS requests
              FROM usage_rollups
             WHERE tenant_id = $1 AND rollup = 'minute_model'
               AND (starts_at >= $2 AND starts_at < $3 OR starts_at >= $4 AND starts_at < $5)
             GROUP BY starts_at
            UNION ALL
            SELECT minute, requests
              FROM usage_rollup_peaks
             WHERE tenant_id = $1 AND hour >= $3 AND hour < $4) AS p
     ORDER BY p.requests DESC, p.minute
     LIMIT 1
"""

# $2 the hour before which the page begins; $3 limit.
LIST_HOURS: Final = """
    WITH hours AS (
        SELECT starts_at AS hour, requests, total_tokens, cost_nanos
          FROM usage_rollups
         WHERE tenant_id = $1 AND rollup = 'hour')
    SELECT t.total, p.hour, p.requests, p.total_tokens, p.cost_nanos
      FROM (SELECT count(*) AS total FROM hours) t
      LEFT JOIN (SELECT hour, requests, total_tokens, cost_nanos
                   FROM hours
                  WHERE $2::timestamptz IS NULL OR hour < $2
                  ORDER BY hour DESC
                  LIMIT $3) AS p ON true
     ORDER BY p.hour DESC
"""

# $2 bounds; $3 limit; $4 offset; $5 and $6 key of the last model before the page.
LIST_DEPLOYMENTS: Final = """
    WITH used AS (
        SELECT model_id, min(first_at) AS first_used, max(last_at) AS last_used,
               sum(total_tokens)::bigint AS total_tokens, sum(requests)::bigint AS requests,
               sum(cost_nanos)::bigint AS cost_nanos
          FROM usage_rollups_between($1, NULL, 'hour_model', 'day_model', $2::timestamptz[])
         WHERE model_id IS NOT NULL
         GROUP BY model_id),
    page AS (
        SELECT model_id, first_used, last_used, total_tokens, requests, cost_nanos
          FROM used
         WHERE $5::bigint IS NULL OR (-requests, model_id) > (-$5, $6::uuid)
         ORDER BY requests DESC, model_id
         LIMIT $3 OFFSET $4)
    SELECT t.total, p.model_id, m.name AS model_name, m.family, m.type, p.first_used, p.last_used,
           p.total_tokens, p.requests, p.cost_nanos
      FROM (SELECT count(*) AS total FROM used) t
      LEFT JOIN page p ON true
      LEFT JOIN models m ON m.id = p.model_id
     ORDER BY p.requests DESC, p.model_id
"""

_SUMMED: Final = (
    "requests",
    "successes",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "cost_nanos",
    "latency_count",
    "latency_sum",
)


@dataclass(frozen=True, slots=True)
class ModelTotal:
    """Totals of one model or of several.

    Attributes:
        sums: By column.
        latencies: Counts by sketch bucket; all 0 when they were not read.
        row: The row with the model's names; None for several models.
    """

    sums: Mapping[str, int]
    latencies: Counts
    row: asyncpg.Record | None = None

    @property
    def percentiles(self) -> list[float]:
        """p50, p95 and p99 of latency in milliseconds; 0 when none is known."""
        (found,) = sketch.percentiles([self.latencies], QUANTILES)
        return found


def add_up(totals: Iterable[ModelTotal]) -> ModelTotal:
    """Return the total of several models."""
    sums = dict.fromkeys(_SUMMED, 0)
    latencies = sketch.empty()
    for total in totals:
        for name in _SUMMED:
            sums[name] += total.sums[name]
        latencies += total.latencies
    return ModelTotal(sums, latencies)


async def sum_models(
    conn: Conn,
    tenant_id: TenantId,
    window: Window,
    *,
    order: str,
    model: str | None = None,
    latencies: bool = False,
) -> list[ModelTotal]:
    """Sum whole minutes by model.

    Args:
        conn: A connection.
        tenant_id: The tenant.
        window: Whole minutes; minutes at its edges must be younger than their retention.
        order: The sum by which the models are sorted, largest first.
        model: Name of the only model.
        latencies: Read sketches too.
    """
    rows = await conn.fetch(SUM_MODELS, tenant_id, window.bounds, model, latencies)
    sketches = sketch.from_numerics([row["latencies"] for row in rows])
    totals = [
        ModelTotal({name: row[name] for name in _SUMMED}, counts, row)
        for row, counts in zip(rows, sketches, strict=True)
    ]
    return sorted(totals, key=lambda total: (-total.sums[order], *_tie_break(total)))


async def sum_keys(conn: Conn, tenant_id: TenantId, window: Window) -> list[asyncpg.Record]:
    """Sum whole hours by key, most tokens first."""
    return await conn.fetch(SUM_KEYS, tenant_id, window.bounds)


async def sum_periods(
    conn: Conn, tenant_id: TenantId, window: Window, unit: Unit
) -> dict[datetime, asyncpg.Record]:
    """Sum whole hours by hour, day, week or month; those without traffic are absent."""
    bounds = window.hourly_bounds if unit == "hour" else window.bounds
    rows = await conn.fetch(SUM_PERIODS, tenant_id, bounds, unit)
    return {row["period"]: row for row in rows}


async def sum_minutes(
    conn: Conn, tenant_id: TenantId, start: datetime, count: int
) -> dict[datetime, asyncpg.Record]:
    """Sum ``count`` minutes, each for itself; those without traffic are absent."""
    rows = await conn.fetch(SUM_MINUTES, tenant_id, start, start + MINUTE * count)
    return {row["minute"]: row for row in rows}


async def find_peak(conn: Conn, tenant_id: TenantId, window: Window) -> asyncpg.Record | None:
    """Find the first of the busiest minutes; None without traffic."""
    hours = window.inner_hours
    return await conn.fetchrow(
        FIND_PEAK, tenant_id, window.start, hours.start, hours.end, window.end
    )


async def list_hours(
    conn: Conn, tenant_id: TenantId, before: datetime | None, limit: int
) -> Slice[asyncpg.Record]:
    """Read hours with traffic, newest first, and one beyond ``limit``."""
    rows = await conn.fetch(LIST_HOURS, tenant_id, before, limit + 1)
    return Slice([row for row in rows if row["hour"] is not None], rows[0]["total"])


async def list_deployments(
    conn: Conn, tenant_id: TenantId, window: Window, page: Page, after: Sequence[Any]
) -> Slice[asyncpg.Record]:
    """Read a page of the models that a tenant used, most requests first."""
    requests, model_id = after or (None, None)
    rows = await conn.fetch(
        LIST_DEPLOYMENTS,
        tenant_id,
        window.bounds,
        page.limit + 1,
        page.offset,
        requests,
        model_id,
    )
    return Slice([row for row in rows if row["model_id"] is not None], rows[0]["total"])


def _tie_break(total: ModelTotal) -> tuple[bool, str]:
    """Sort by model id, usage without a model last."""
    model_id = total.row["model_id"] if total.row is not None else None
    return model_id is None, str(model_id)
