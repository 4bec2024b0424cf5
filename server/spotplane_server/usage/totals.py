"""Totals of a window by model, key and period: minutes at its edges, then hours, days inside.

Every call is one statement, or three that must see one snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.db import Conn
from spotplane_server.usage import analytics, sketch, sketch_numbers
from spotplane_server.usage.sketch import Counts
from spotplane_server.usage.windows import MINUTE, Unit, Window

# $2..$7 are the six bounds of the window; $8 the name of a model.
SUM_MODELS: Final = """
    SELECT p.model_id, m.name AS model_name, m.family, m.type, sum(p.requests)::bigint AS requests,
           sum(p.successes)::bigint AS successes, sum(p.prompt_tokens)::bigint AS prompt_tokens,
           sum(p.completion_tokens)::bigint AS completion_tokens,
           sum(p.total_tokens)::bigint AS total_tokens,
           sum(p.cached_tokens)::bigint AS cached_tokens, sum(p.cost_nanos)::bigint AS cost_nanos,
           sum(p.latency_count)::bigint AS latency_count, sum(p.latency_sum)::bigint AS latency_sum
      FROM (SELECT model_id, requests, successes, prompt_tokens, completion_tokens, total_tokens,
                   cached_tokens, cost_nanos, latency_count, latency_sum
              FROM usage_rollup_minute
             WHERE tenant_id = $1
               AND (minute >= $2 AND minute < $3 OR minute >= $6 AND minute < $7)
            UNION ALL
            SELECT group_id, requests, successes, prompt_tokens, completion_tokens, total_tokens,
                   cached_tokens, cost_nanos, latency_count, latency_sum
              FROM usage_rollup_cuts
             WHERE tenant_id = $1 AND cut = 'hour_model'
               AND (starts_at >= $3 AND starts_at < $4 OR starts_at >= $5 AND starts_at < $6)
            UNION ALL
            SELECT model_id, requests, successes, prompt_tokens, completion_tokens, total_tokens,
                   cached_tokens, cost_nanos, latency_count, latency_sum
              FROM usage_rollup_daily
             WHERE tenant_id = $1 AND day >= $4 AND day < $5) AS p
      LEFT JOIN models m ON m.id = p.model_id
     WHERE $8::text IS NULL OR m.name = $8
     GROUP BY p.model_id, m.id
"""

# Those of minutes, which are of many parts, see `sketch.merge`.
MERGE_MINUTE_SKETCHES: Final = """
    SELECT p.model_id, string_agg(substring(array_send(p.latency_sketch) FROM 21), '') AS parts
      FROM usage_rollup_minute p
      LEFT JOIN models m ON m.id = p.model_id
     WHERE p.tenant_id = $1
       AND (p.minute >= $2 AND p.minute < $3 OR p.minute >= $4 AND p.minute < $5)
       AND ($6::text IS NULL OR m.name = $6)
     GROUP BY p.model_id
"""

# Those of hours and days, which are numbers. What a server of an older version added to a day is in
# `latency_sketch`.
MERGE_MODEL_SKETCHES: Final = """
    SELECT p.model_id, numeric_send(sum(p.latencies)) AS latencies
      FROM (SELECT group_id AS model_id, latencies
              FROM usage_rollup_cuts
             WHERE tenant_id = $1 AND cut = 'hour_model'
               AND (starts_at >= $2 AND starts_at < $3 OR starts_at >= $4 AND starts_at < $5)
            UNION ALL
            SELECT model_id, CASE WHEN latency_sketch = '{}' THEN latencies
                                  ELSE latencies + sketch_number(latency_sketch) END
              FROM usage_rollup_daily
             WHERE tenant_id = $1 AND day >= $3 AND day < $4) AS p
      LEFT JOIN models m ON m.id = p.model_id
     WHERE $6::text IS NULL OR m.name = $6
     GROUP BY p.model_id
"""

# $2..$5 are the bounds of hours and days.
SUM_KEYS: Final = """
    SELECT p.api_key_id, k.name AS key_name, k.key_prefix, p.requests, p.total_tokens, p.cost_nanos
      FROM (SELECT group_id AS api_key_id, sum(requests)::bigint AS requests,
                   sum(total_tokens)::bigint AS total_tokens, sum(cost_nanos)::bigint AS cost_nanos
              FROM usage_rollup_cuts
             WHERE tenant_id = $1
               AND (cut = 'hour_api_key'
                    AND (starts_at >= $2 AND starts_at < $3 OR starts_at >= $4 AND starts_at < $5)
                    OR cut = 'day_api_key' AND starts_at >= $3 AND starts_at < $4)
             GROUP BY group_id) AS p
      LEFT JOIN api_keys k ON k.tenant_id = $1 AND k.id = p.api_key_id
     ORDER BY p.total_tokens DESC, p.api_key_id
"""

# Of whole hours: $2..$5 are the bounds of hours and days. $6 is `hour` only when there are no days.
SUM_PERIODS: Final = """
    SELECT date_trunc($6, starts_at, 'UTC') AS period, sum(requests)::bigint AS requests,
           sum(prompt_tokens)::bigint AS prompt_tokens,
           sum(completion_tokens)::bigint AS completion_tokens,
           sum(cost_nanos)::bigint AS cost_nanos, sum(latency_count)::bigint AS latency_count,
           sum(latency_sum)::bigint AS latency_sum
      FROM usage_rollup_cuts
     WHERE tenant_id = $1
       AND (cut = 'hour'
            AND (starts_at >= $2 AND starts_at < $3 OR starts_at >= $4 AND starts_at < $5)
            OR cut = 'day' AND starts_at >= $3 AND starts_at < $4)
     GROUP BY 1
"""

SUM_MINUTES: Final = """
    SELECT minute, sum(requests)::bigint AS requests, sum(total_tokens)::bigint AS total_tokens
      FROM usage_rollup_minute
     WHERE tenant_id = $1 AND minute >= $2 AND minute < $3
     GROUP BY minute
"""

# Whole hours know their busiest minute: $3 and $4 are the first and the end of those.
FIND_PEAK: Final = """
    SELECT p.minute, p.requests
      FROM (SELECT minute, sum(requests)::bigint AS requests
              FROM usage_rollup_minute
             WHERE tenant_id = $1
               AND (minute >= $2 AND minute < $3 OR minute >= $4 AND minute < $5)
             GROUP BY minute
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
          FROM usage_rollup_cuts
         WHERE tenant_id = $1 AND cut = 'hour')
    SELECT t.total, p.hour, p.requests, p.total_tokens, p.cost_nanos
      FROM (SELECT count(*) AS total FROM hours) t
      LEFT JOIN (SELECT hour, requests, total_tokens, cost_nanos
                   FROM hours
                  WHERE $2::timestamptz IS NULL OR hour < $2
                  ORDER BY hour DESC
                  LIMIT $3) AS p ON true
     ORDER BY p.hour DESC
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
    """One model's totals, or those of several.

    Attributes:
        sums: By name.
        latencies: Counts by sketch bucket; all 0 when they were not read.
        row: The model's names; None of several.
    """

    sums: Mapping[str, int]
    latencies: Counts
    row: asyncpg.Record | None = None

    @property
    def percentiles(self) -> list[float]:
        """p50, p95 and p99 of latency in milliseconds; 0 when none is known."""
        (found,) = sketch.percentiles([self.latencies], analytics.QUANTILES)
        return found


def together(totals: Iterable[ModelTotal]) -> ModelTotal:
    """Add totals up."""
    sums = dict.fromkeys(_SUMMED, 0)
    latencies = sketch.nothing()
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
        conn: In a repeatable-read transaction when ``latencies``.
        tenant_id: Whose.
        window: Of whole minutes; with minutes at its edges not before these are kept.
        order: The sum of which the model with the most comes first.
        model: Name of the only one.
        latencies: Read sketches too.
    """
    arguments = (tenant_id, *window.bounds, model)
    rows = await conn.fetch(SUM_MODELS, *arguments)
    merged: dict[Any, Counts] = {}
    if latencies:
        merged = await _merge_sketches(conn, tenant_id, window, model)
    unknown = sketch.nothing()
    totals = [
        ModelTotal({name: row[name] for name in _SUMMED}, merged.get(row["model_id"], unknown), row)
        for row in rows
    ]
    return sorted(totals, key=lambda t: (-t.sums[order], *_place(t)))


async def _merge_sketches(
    conn: Conn, tenant_id: TenantId, window: Window, model: str | None
) -> dict[Any, Counts]:
    """Counts by bucket for each model: of hours and days, and of the minutes at the edges."""
    start, *inner, end = window.bounds
    rows = await conn.fetch(MERGE_MODEL_SKETCHES, tenant_id, *inner, model)
    read = sketch_numbers.counts([row["latencies"] for row in rows])
    merged = {row["model_id"]: counts for row, counts in zip(rows, read, strict=True)}
    edges = (start, inner[0], inner[-1], end)
    for row in await conn.fetch(MERGE_MINUTE_SKETCHES, tenant_id, *edges, model):
        counts = merged.setdefault(row["model_id"], sketch.nothing())
        counts += sketch.merge(row["parts"])
    return merged


async def sum_keys(conn: Conn, tenant_id: TenantId, window: Window) -> list[asyncpg.Record]:
    """Sum whole hours by key, most tokens first."""
    days = window.inner_days
    return await conn.fetch(SUM_KEYS, tenant_id, window.start, days.start, days.end, window.end)


async def sum_periods(
    conn: Conn, tenant_id: TenantId, window: Window, unit: Unit
) -> dict[datetime, asyncpg.Record]:
    """Sum whole hours by hour, day, week or month; those without traffic are absent."""
    days = window.inner_days
    if unit == "hour":
        days = Window(window.end, window.end)
    rows = await conn.fetch(
        SUM_PERIODS, tenant_id, window.start, days.start, days.end, window.end, unit
    )
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
) -> tuple[list[asyncpg.Record], int]:
    """Read hours with traffic, newest first, one beyond ``limit``; and how many there are."""
    rows = await conn.fetch(LIST_HOURS, tenant_id, before, limit + 1)
    return [row for row in rows if row["hour"] is not None], rows[0]["total"]


def _place(total: ModelTotal) -> tuple[bool, str]:
    """By model id, what has no model last."""
    model_id = total.row["model_id"] if total.row is not None else None
    return model_id is None, str(model_id)
