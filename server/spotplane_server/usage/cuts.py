"""Reading sums by one dimension: hours at the edges of a window, days inside.

A cut has every sum of one dimension only, so an answer over months reads hundreds of rows, where
the hourly sums of every combination would be hundreds of thousands.
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
from spotplane_server.kernel.paging import Page
from spotplane_server.usage import sketch_numbers
from spotplane_server.usage.sketch import Counts
from spotplane_server.usage.windows import DAY, HOUR, Window

Dimension: TypeAlias = Literal["model", "api_key", "region"]

# $4 grouping; $5 the only group of the cut; $6 cut of hours; $7 cut of days, `day_model` being the
# daily sums; $8 limit; $9 offset; $10..$12 key of the last group before the page; $13 and $14 the
# days within.
LIST_CUT_GROUPS: Final = """
    WITH groups AS (
        SELECT CASE WHEN $4::text IN ('model', 'api_key', 'region') THEN group_id END AS group_id,
               CASE $4::text WHEN 'hour' THEN starts_at
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
          FROM (SELECT starts_at, group_id, requests, successes, prompt_tokens, completion_tokens,
                       total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
                       latency_min, latency_max
                  FROM usage_rollup_cuts
                 WHERE tenant_id = $1 AND cut = $6
                   AND (starts_at >= $2 AND starts_at < $13 OR starts_at >= $14 AND starts_at < $3)
                   AND ($5::uuid IS NULL OR group_id = $5)
                UNION ALL
                SELECT starts_at, group_id, requests, successes, prompt_tokens, completion_tokens,
                       total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
                       latency_min, latency_max
                  FROM usage_rollup_cuts
                 WHERE tenant_id = $1 AND cut = $7 AND starts_at >= $13 AND starts_at < $14
                   AND ($5::uuid IS NULL OR group_id = $5)
                UNION ALL
                SELECT day, model_id, requests, successes, prompt_tokens, completion_tokens,
                       total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
                       latency_min, latency_max
                  FROM usage_rollup_daily
                 WHERE $7::text = 'day_model' AND tenant_id = $1 AND day >= $13 AND day < $14
                   AND ($5::uuid IS NULL OR model_id = $5)) AS sums
         GROUP BY 1, 2),
    page AS (
        SELECT group_id, period, requests, successes, prompt_tokens, completion_tokens,
               total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum, latency_min,
               latency_max,
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
           p.latency_sum, p.latency_min, p.latency_max,
           m.name AS model_name, m.family, m.type,
           k.name AS api_key_name, k.key_prefix, r.name AS region_name, r.code AS region_code
      FROM (SELECT count(*) AS total FROM groups) t
      LEFT JOIN page p ON true
      LEFT JOIN models m ON $4::text = 'model' AND m.id = p.group_id
      LEFT JOIN api_keys k ON $4::text = 'api_key' AND k.tenant_id = $1 AND k.id = p.group_id
      LEFT JOIN regions r ON $4::text = 'region' AND r.id = p.group_id
     ORDER BY p.period, p.total_tokens DESC, p.ordinal
"""

# As above, of the groups whose ids are $8; $9 and $10 the days within. What a server of an older
# version added to a day is in `latency_sketch`.
MERGE_CUTS: Final = """
    SELECT ordinal, period, numeric_send(sum(latencies)) AS latencies
      FROM (SELECT coalesce(CASE WHEN $4::text IN ('model', 'api_key', 'region') THEN group_id END,
                            'ffffffff-ffff-ffff-ffff-ffffffffffff') AS ordinal,
                   CASE $4::text WHEN 'hour' THEN starts_at
                                 WHEN 'day' THEN date_trunc('day', starts_at, 'UTC') END AS period,
                   latencies
              FROM (SELECT starts_at, group_id, latencies
                      FROM usage_rollup_cuts
                     WHERE tenant_id = $1 AND cut = $6
                       AND (starts_at >= $2 AND starts_at < $9
                            OR starts_at >= $10 AND starts_at < $3)
                       AND ($5::uuid IS NULL OR group_id = $5)
                    UNION ALL
                    SELECT starts_at, group_id, latencies
                      FROM usage_rollup_cuts
                     WHERE tenant_id = $1 AND cut = $7 AND starts_at >= $9 AND starts_at < $10
                       AND ($5::uuid IS NULL OR group_id = $5)
                    UNION ALL
                    SELECT day, model_id,
                           CASE WHEN latency_sketch = '{}' THEN latencies
                                ELSE latencies + sketch_number(latency_sketch) END
                      FROM usage_rollup_daily
                     WHERE $7::text = 'day_model' AND tenant_id = $1 AND day >= $9 AND day < $10
                       AND ($5::uuid IS NULL OR model_id = $5)) AS parts) AS sums
     WHERE ordinal = ANY($8::uuid[])
     GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Cut:
    """What is asked of one cut.

    Attributes:
        window: Whole hours.
        group_by: A dimension, `hour` or `day`.
        dimension: What tells its rows apart; None for all of a tenant's usage.
        group_id: The only one; None for all.
    """

    tenant_id: TenantId
    window: Window
    group_by: str
    dimension: Dimension | None
    group_id: UUID | None

    def arguments(self, window: Window) -> tuple[Any, ...]:
        """``$1`` to ``$7`` of the statements."""
        of = f"_{self.dimension}" if self.dimension else ""
        return (
            self.tenant_id,
            window.start,
            window.end,
            self.group_by,
            self.group_id,
            f"hour{of}",
            f"day{of}",
        )

    def days(self, window: Window) -> tuple[datetime, datetime]:
        """The days within a window; none where hours are told apart."""
        if self.group_by == "hour":
            return window.end, window.end
        return window.inner_days.start, window.inner_days.end


async def list_groups(
    conn: Conn, cut: Cut, page: Page, after: Sequence[Any]
) -> list[asyncpg.Record]:
    """Read a page of groups and one more; without any, one row of nulls says how many there are."""
    period, tokens, ordinal = after or (None, None, None)
    return await conn.fetch(
        LIST_CUT_GROUPS,
        *cut.arguments(cut.window),
        page.limit + 1,
        page.offset,
        datetime.fromisoformat(period) if period else None,
        tokens,
        ordinal,
        *cut.days(cut.window),
    )


async def merge_sketches(
    conn: Conn, cut: Cut, rows: Sequence[asyncpg.Record]
) -> dict[tuple[UUID, datetime | None], Counts]:
    """Add up the sketches of some groups: counts by bucket for each."""
    window = _around(cut, rows)
    merged = await conn.fetch(
        MERGE_CUTS,
        *cut.arguments(window),
        list({row["ordinal"] for row in rows}),
        *cut.days(window),
    )
    counts = sketch_numbers.counts([row["latencies"] for row in merged])
    return {(row["ordinal"], row["period"]): of for row, of in zip(merged, counts, strict=True)}


def _around(cut: Cut, rows: Sequence[asyncpg.Record]) -> Window:
    """The part of the window that the groups lie in."""
    periods = [row["period"] for row in rows if row["period"] is not None]
    if not periods:
        return cut.window
    end = max(periods) + (HOUR if cut.group_by == "hour" else DAY)
    return Window(max(min(periods), cut.window.start), min(end, cut.window.end))
