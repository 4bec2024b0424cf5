"""Reading usage: sums by default, raw records only when asked.

Every call is a constant number of statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import asyncpg

from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.db import Conn
from spotplane_server.kernel.paging import Page, Slice
from spotplane_server.usage import combinations, cuts, sketch
from spotplane_server.usage.combinations import Combination
from spotplane_server.usage.cuts import Cut, Dimension
from spotplane_server.usage.windows import Window

Grouping: TypeAlias = Literal["model", "api_key", "region", "hour", "day"]
GROUPINGS: Final[tuple[Grouping, ...]] = ("model", "api_key", "region", "hour", "day")
QUANTILES: Final = (0.5, 0.95, 0.99)
_ZEROS: Final = (0.0, 0.0, 0.0)

# Stands for "no model, key or region" in the order and in page keys; sorts after every id.
NOTHING: Final = UUID(int=2**128 - 1)

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
           p.latency_sum, p.latency_min, p.latency_max, p.percentiles,
           m.name AS model_name, m.family, m.type,
           k.name AS api_key_name, k.key_prefix, r.name AS region_name, r.code AS region_code
      FROM (SELECT count(*) AS total FROM groups) t
      LEFT JOIN page p ON true
      LEFT JOIN models m ON $4::text = 'model' AND m.id = p.group_id
      LEFT JOIN api_keys k ON $4::text = 'api_key' AND k.tenant_id = $1 AND k.id = p.group_id
      LEFT JOIN regions r ON $4::text = 'region' AND r.id = p.group_id
     ORDER BY p.period, p.total_tokens DESC, p.ordinal
"""

LIST_DEPLOYMENTS: Final = """
    WITH used AS (
        SELECT model_id, min(first_at) AS first_used, max(last_at) AS last_used,
               sum(total_tokens)::bigint AS total_tokens, sum(requests)::bigint AS requests,
               sum(cost_nanos)::bigint AS cost_nanos
          FROM (SELECT group_id AS model_id, first_at, last_at, total_tokens, requests, cost_nanos
                  FROM usage_rollup_cuts
                 WHERE tenant_id = $1 AND cut = 'hour_model'
                   AND (starts_at >= $2 AND starts_at < $8 OR starts_at >= $9 AND starts_at < $3)
                   AND group_id IS NOT NULL
                UNION ALL
                SELECT model_id, first_at, last_at, total_tokens, requests, cost_nanos
                  FROM usage_rollup_daily
                 WHERE tenant_id = $1 AND day >= $8 AND day < $9 AND model_id IS NOT NULL) AS sums
         GROUP BY model_id),
    page AS (
        SELECT model_id, first_used, last_used, total_tokens, requests, cost_nanos
          FROM used
         WHERE $6::bigint IS NULL OR (-requests, model_id) > (-$6, $7::uuid)
         ORDER BY requests DESC, model_id
         LIMIT $4 OFFSET $5)
    SELECT t.total, p.model_id, m.name AS model_name, m.family, m.type, p.first_used, p.last_used,
           p.total_tokens, p.requests, p.cost_nanos
      FROM (SELECT count(*) AS total FROM used) t
      LEFT JOIN page p ON true
      LEFT JOIN models m ON m.id = p.model_id
     ORDER BY p.requests DESC, p.model_id
"""


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of a tenant's usage.

    Attributes:
        window: Whole hours, unless ``exact``.
        exact: Read raw records.
    """

    tenant_id: TenantId
    window: Window
    group_by: Grouping
    model_id: UUID | None
    api_key_id: UUID | None
    region_id: UUID | None
    exact: bool

    @property
    def filters(self) -> dict[Dimension, UUID | None]:
        """The only model, key and region."""
        return {"model": self.model_id, "api_key": self.api_key_id, "region": self.region_id}

    @property
    def sums(self) -> Cut | Combination:
        """The sums that answer, unless raw records do."""
        needed = [name for name, only in self.filters.items() if only or name == self.group_by]
        if len(needed) > 1:
            return Combination(self.tenant_id, self.window, self.group_by, self.filters, needed)
        dimension = needed[0] if needed else None
        only = self.filters[dimension] if dimension else None
        return Cut(self.tenant_id, self.window, self.group_by, dimension, only)


@dataclass(frozen=True, slots=True)
class Group:
    """Sums of one group, and what it is called.

    Attributes:
        percentiles: p50, p95 and p99 of latency in milliseconds; 0 when none is known.
    """

    row: asyncpg.Record
    percentiles: Sequence[float]


async def list_groups(conn: Conn, query: Query, page: Page, after: Sequence[Any]) -> Slice[Group]:
    """Read a page of groups; a few statements that must see one snapshot.

    Args:
        conn: In a repeatable-read transaction.
        query: What is asked.
        page: Which part.
        after: Period, tokens and id of the last group before the page; empty at the start.
    """
    if query.exact:
        return await _list_raw(conn, query, page, after)
    sums = query.sums
    reader = cuts if isinstance(sums, Cut) else combinations
    rows = await reader.list_groups(conn, sums, page, after)
    total = rows[0]["total"]
    rows = [row for row in rows if row["ordinal"] is not None]
    latencies = await reader.merge_sketches(conn, sums, rows)
    unknown = sketch.nothing()
    sketches = [latencies.get((row["ordinal"], row["period"]), unknown) for row in rows]
    percentiles = sketch.percentiles(sketches, QUANTILES)
    return Slice([Group(*group) for group in zip(rows, percentiles, strict=True)], total)


async def _list_raw(conn: Conn, query: Query, page: Page, after: Sequence[Any]) -> Slice[Group]:
    period, tokens, ordinal = after or (None, None, None)
    rows = await conn.fetch(
        LIST_RAW_GROUPS,
        query.tenant_id,
        query.window.start,
        query.window.end,
        query.group_by,
        *query.filters.values(),
        page.limit + 1,
        page.offset,
        datetime.fromisoformat(period) if period else None,
        tokens,
        ordinal,
    )
    groups = [
        Group(row, row["percentiles"] or _ZEROS) for row in rows if row["ordinal"] is not None
    ]
    return Slice(groups, rows[0]["total"])


async def list_deployments(
    conn: Conn, tenant_id: TenantId, window: Window, page: Page, after: Sequence[Any]
) -> Slice[asyncpg.Record]:
    """Read a page of the models that a tenant used, most requests first."""
    requests, model_id = after or (None, None)
    rows = await conn.fetch(
        LIST_DEPLOYMENTS,
        tenant_id,
        window.start,
        window.end,
        page.limit + 1,
        page.offset,
        requests,
        model_id,
        window.inner_days.start,
        window.inner_days.end,
    )
    return Slice([row for row in rows if row["model_id"] is not None], rows[0]["total"])
