"""Grouped usage: pages of usage by model, key, region, hour or day, from rollups or raw records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import asyncpg

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.usage import sketch
from spotplane_server.usage.time_windows import DAY, HOUR, Window

Grouping: TypeAlias = Literal["model", "api_key", "region", "hour", "day"]
GROUPINGS: Final[tuple[Grouping, ...]] = ("model", "api_key", "region", "hour", "day")
QUANTILES: Final = (0.5, 0.95, 0.99)
_NO_PERCENTILES: Final = (0.0, 0.0, 0.0)

# Stands for "no model, key or region" in the order and in page keys; sorts after every id.
NO_DIMENSION: Final = UUID(int=2**128 - 1)

# $2 rollup of hours; $3 rollup of days; $4 bounds; $5 grouping; $6..$8 filters; $9 limit;
# $10 offset; $11..$13 key of the last group before the page.
LIST_ROLLUP_GROUPS: Final = """
    WITH groups AS (
        SELECT CASE $5::text WHEN 'model' THEN model_id WHEN 'api_key' THEN api_key_id
                             WHEN 'region' THEN region_id END AS group_id,
               CASE $5::text WHEN 'hour' THEN starts_at
                             WHEN 'day' THEN date_trunc('day', starts_at, 'UTC') END AS period,
               sum(requests)::bigint AS requests, sum(successes)::bigint AS successes,
               sum(prompt_tokens)::bigint AS prompt_tokens,
               sum(completion_tokens)::bigint AS completion_tokens,
               sum(total_tokens)::bigint AS total_tokens,
               sum(cached_tokens)::bigint AS cached_tokens,
               sum(cost_nanos)::bigint AS cost_nanos,
               sum(latency_count)::bigint AS latency_count,
               sum(latency_sum)::bigint AS latency_sum,
               min(latency_min) AS latency_min, max(latency_max) AS latency_max
          FROM usage_rollups_between($1, NULL, $2, $3, $4::timestamptz[])
         WHERE ($6::uuid IS NULL OR model_id = $6)
           AND ($7::uuid IS NULL OR api_key_id = $7)
           AND ($8::uuid IS NULL OR region_id = $8)
         GROUP BY 1, 2),
    page AS (
        SELECT group_id, period, requests, successes, prompt_tokens, completion_tokens,
               total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum, latency_min,
               latency_max,
               coalesce(group_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS ordinal
          FROM groups
         WHERE $12::bigint IS NULL
            OR CASE WHEN period IS NULL
                    THEN (-total_tokens, coalesce(group_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
                         > (-$12, $13::uuid)
                    ELSE period > $11::timestamptz
               END
         ORDER BY period, total_tokens DESC, ordinal
         LIMIT $9 OFFSET $10)
    SELECT t.total, p.ordinal, p.group_id, p.period, p.requests, p.successes, p.prompt_tokens,
           p.completion_tokens, p.total_tokens, p.cached_tokens, p.cost_nanos, p.latency_count,
           p.latency_sum, p.latency_min, p.latency_max
      FROM (SELECT count(*) AS total FROM groups) t
      LEFT JOIN page p ON true
     ORDER BY p.period, p.total_tokens DESC, p.ordinal
"""

# $1..$8 as above; $9 the ids of the page's groups.
MERGE_SKETCHES: Final = """
    SELECT g.ordinal, g.period, numeric_send(sum(g.latencies)) AS latencies
      FROM (SELECT coalesce(CASE $5::text WHEN 'model' THEN model_id WHEN 'api_key' THEN api_key_id
                                          WHEN 'region' THEN region_id END,
                            'ffffffff-ffff-ffff-ffff-ffffffffffff') AS ordinal,
                   CASE $5::text WHEN 'hour' THEN starts_at
                                 WHEN 'day' THEN date_trunc('day', starts_at, 'UTC') END AS period,
                   latencies
              FROM usage_rollups_between($1, NULL, $2, $3, $4::timestamptz[])
             WHERE ($6::uuid IS NULL OR model_id = $6)
               AND ($7::uuid IS NULL OR api_key_id = $7)
               AND ($8::uuid IS NULL OR region_id = $8)) AS g
     WHERE g.ordinal = ANY($9::uuid[])
     GROUP BY 1, 2
"""

# $4 grouping; $5..$7 filters; $8 limit; $9 offset; $10..$12 key of the last group before the page.
LIST_RAW_GROUPS: Final = """
    WITH groups AS (
        SELECT CASE $4::text WHEN 'model' THEN model_id WHEN 'api_key' THEN api_key_id
                             WHEN 'region' THEN region_id END AS group_id,
               CASE $4::text WHEN 'hour' THEN date_trunc('hour', "timestamp", 'UTC')
                             WHEN 'day' THEN date_trunc('day', "timestamp", 'UTC') END AS period,
               count(*) AS requests, count(*) FILTER (WHERE outcome = 'success') AS successes,
               sum(prompt_tokens)::bigint AS prompt_tokens,
               sum(completion_tokens)::bigint AS completion_tokens,
               sum(total_tokens)::bigint AS total_tokens,
               sum(cached_tokens)::bigint AS cached_tokens,
               sum(cost_nanos)::bigint AS cost_nanos,
               count(latency_ms) AS latency_count,
               coalesce(sum(latency_ms), 0)::bigint AS latency_sum,
               min(latency_ms) AS latency_min, max(latency_ms) AS latency_max,
               percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms)
                   AS percentiles
          FROM usage_records
         WHERE tenant_id = $1 AND "timestamp" >= $2 AND "timestamp" < $3
           AND ($5::uuid IS NULL OR model_id = $5)
           AND ($6::uuid IS NULL OR api_key_id = $6)
           AND ($7::uuid IS NULL OR region_id = $7)
         GROUP BY 1, 2),
    page AS (
        SELECT group_id, period, requests, successes, prompt_tokens, completion_tokens,
               total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum, latency_min,
               latency_max, percentiles,
               coalesce(group_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS ordinal
          FROM groups
         WHERE $11::bigint IS NULL
            OR CASE WHEN period IS NULL
                    THEN (-total_tokens, coalesce(group_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
                         > (-$11, $12::uuid)
                    ELSE period > $10::timestamptz
               END
         ORDER BY period, total_tokens DESC, ordinal
         LIMIT $8 OFFSET $9)
    SELECT t.total, p.ordinal, p.group_id, p.period, p.requests, p.successes, p.prompt_tokens,
           p.completion_tokens, p.total_tokens, p.cached_tokens, p.cost_nanos, p.latency_count,
           p.latency_sum, p.latency_min, p.latency_max, p.percentiles
      FROM (SELECT count(*) AS total FROM groups) t
      LEFT JOIN page p ON true
     ORDER BY p.period, p.total_tokens DESC, p.ordinal
"""

FIND_MODEL_NAMES: Final = """
    SELECT id, name AS model_name, family, type FROM models WHERE id = ANY($1::uuid[])
"""

FIND_API_KEY_NAMES: Final = """
    SELECT id, name AS api_key_name, key_prefix
      FROM api_keys
     WHERE id = ANY($1::uuid[]) AND tenant_id = $2
"""

FIND_REGION_NAMES: Final = """
    SELECT id, name AS region_name, code AS region_code FROM regions WHERE id = ANY($1::uuid[])
"""

_FIND_NAMES: Final = {
    "model": FIND_MODEL_NAMES,
    "api_key": FIND_API_KEY_NAMES,
    "region": FIND_REGION_NAMES,
}


@dataclass(frozen=True, slots=True)
class GroupQuery:
    """A query for the usage of a tenant by groups.

    Attributes:
        window: Whole hours, unless ``exact``.
        exact: Read raw records instead of rollups.
    """

    tenant_id: TenantId
    window: Window
    group_by: Grouping
    model_id: UUID | None
    api_key_id: UUID | None
    region_id: UUID | None
    exact: bool

    @property
    def filters(self) -> tuple[UUID | None, UUID | None, UUID | None]:
        """The only model, key and region; None where all are included."""
        return self.model_id, self.api_key_id, self.region_id

    @property
    def rollups(self) -> tuple[str, str | None]:
        """The coarsest rollups of hours and of days that have the needed dimensions."""
        named = zip(("model", "api_key", "region"), self.filters, strict=True)
        needed = [name for name, only in named if only or name == self.group_by]
        hours = "_".join(("hour", *needed)) if len(needed) < 2 else "hour_all"
        days = "_".join(("day", *needed)) if len(needed) < 3 else None
        return hours, None if self.group_by == "hour" else days

    def arguments(self, window: Window) -> tuple[Any, ...]:
        """Return ``$1`` to ``$8`` of the statements over rollups."""
        hours, days = self.rollups
        bounds = window.bounds if days else window.hourly_bounds
        return self.tenant_id, hours, days, bounds, self.group_by, *self.filters


@dataclass(frozen=True, slots=True)
class Group:
    """Usage of one group.

    Attributes:
        row: Sums.
        percentiles: p50, p95 and p99 of latency in milliseconds; 0 when none is known.
        names: Names of the model, key or region by column; empty for periods and for groups
            without one.
    """

    row: asyncpg.Record
    percentiles: Sequence[float]
    names: Sequence[tuple[str, str | None]]


async def list_groups(
    conn: Conn, query: GroupQuery, page: Page, after: Sequence[Any]
) -> Slice[Group]:
    """Read a page of groups and one more, by a constant number of statements.

    Args:
        conn: In a repeatable-read transaction.
        query: Which groups.
        page: Which part of them.
        after: Period, tokens and id of the last group before the page; empty at the start.
    """
    period, tokens, ordinal = after or (None, None, None)
    source = (
        (query.tenant_id, query.window.start, query.window.end, query.group_by, *query.filters)
        if query.exact
        else query.arguments(query.window)
    )
    rows = await conn.fetch(
        LIST_RAW_GROUPS if query.exact else LIST_ROLLUP_GROUPS,
        *source,
        page.limit + 1,
        page.offset,
        datetime.fromisoformat(period) if period else None,
        tokens,
        ordinal,
    )
    total = rows[0]["total"]
    # Without any group there is one row of nulls that carries the total.
    rows = [row for row in rows if row["ordinal"] is not None]
    percentiles = await _percentiles(conn, query, rows)
    names = await _find_names(conn, query, rows)
    groups = [
        Group(row, of, names.get(row["group_id"], ()))
        for row, of in zip(rows, percentiles, strict=True)
    ]
    return Slice(groups, total)


async def _percentiles(
    conn: Conn, query: GroupQuery, rows: Sequence[asyncpg.Record]
) -> Sequence[Sequence[float]]:
    if query.exact:
        return [row["percentiles"] or _NO_PERCENTILES for row in rows]
    ordinals = list({row["ordinal"] for row in rows})
    merged = await conn.fetch(MERGE_SKETCHES, *query.arguments(_around(query, rows)), ordinals)
    sketches = sketch.from_numerics([row["latencies"] for row in merged])
    found = {(row["ordinal"], row["period"]): of for row, of in zip(merged, sketches, strict=True)}
    empty = sketch.empty()
    return sketch.percentiles(
        [found.get((row["ordinal"], row["period"]), empty) for row in rows], QUANTILES
    )


def _around(query: GroupQuery, rows: Sequence[asyncpg.Record]) -> Window:
    """Return the part of the window that contains the periods of a page."""
    periods = [row["period"] for row in rows if row["period"] is not None]
    if not periods:
        return query.window
    end = max(periods) + (HOUR if query.group_by == "hour" else DAY)
    return Window(max(min(periods), query.window.start), min(end, query.window.end))


async def _find_names(
    conn: Conn, query: GroupQuery, rows: Sequence[asyncpg.Record]
) -> dict[UUID, list[tuple[str, str | None]]]:
    ids = [row["group_id"] for row in rows if row["group_id"] is not None]
    if not ids:
        return {}
    tenant = (query.tenant_id,) if query.group_by == "api_key" else ()
    found = await conn.fetch(_FIND_NAMES[query.group_by], ids, *tenant)
    return {row["id"]: [(key, of) for key, of in row.items() if key != "id"] for row in found}
