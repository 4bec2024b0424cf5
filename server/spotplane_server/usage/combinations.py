"""Reading sums of several dimensions: hours of every combination, and days of two where those do.

The hours of all combinations over months are tens of thousands of rows. Days of two dimensions, one
of them a filter, are hundreds; then the hours are needed at the edges of the window only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.db import Conn
from spotplane_server.kernel.paging import Page
from spotplane_server.usage import sketch, sketch_numbers
from spotplane_server.usage.cuts import Dimension
from spotplane_server.usage.sketch import Counts
from spotplane_server.usage.windows import Window

# $4 grouping; $5..$7 filters; $8 and $9 the days that are read as such, $10 their cut, of which $11
# and $12 are the only ids; $13 limit; $14 offset; $15..$17 key of the last group before the page.
LIST_GROUPS: Final = """
    WITH groups AS (
        SELECT CASE $4::text WHEN 'model' THEN model_id WHEN 'api_key' THEN api_key_id
                             WHEN 'region' THEN region_id END AS group_id,
               CASE $4::text WHEN 'hour' THEN at
                             WHEN 'day' THEN date_trunc('day', at, 'UTC') END AS period,
               sum(requests)::bigint AS requests, sum(successes)::bigint AS successes,
               sum(prompt_tokens)::bigint AS prompt_tokens,
               sum(completion_tokens)::bigint AS completion_tokens,
               sum(total_tokens)::bigint AS total_tokens,
               sum(cached_tokens)::bigint AS cached_tokens,
               sum(cost_nanos)::bigint AS cost_nanos,
               sum(latency_count)::bigint AS latency_count,
               sum(latency_sum)::bigint AS latency_sum,
               min(latency_min) AS latency_min, max(latency_max) AS latency_max
          FROM (SELECT hour AS at, model_id, api_key_id, region_id, requests, successes,
                       prompt_tokens, completion_tokens, total_tokens, cached_tokens, cost_nanos,
                       latency_count, latency_sum, latency_min, latency_max
                  FROM usage_rollup_hourly
                 WHERE tenant_id = $1
                   AND (hour >= $2 AND hour < $8 OR hour >= $9 AND hour < $3)
                   AND ($5::uuid IS NULL OR model_id = $5)
                   AND ($6::uuid IS NULL OR api_key_id = $6)
                   AND ($7::uuid IS NULL OR region_id = $7)
                UNION ALL
                SELECT starts_at,
                       CASE WHEN $10::text LIKE 'day_model%' THEN group_id END,
                       CASE $10::text WHEN 'day_model_api_key' THEN other_id
                                      WHEN 'day_api_key_region' THEN group_id END,
                       CASE WHEN $10::text LIKE '%region' THEN other_id END,
                       requests, successes, prompt_tokens, completion_tokens, total_tokens,
                       cached_tokens, cost_nanos, latency_count, latency_sum, latency_min,
                       latency_max
                  FROM usage_rollup_cuts
                 WHERE tenant_id = $1 AND cut = $10 AND starts_at >= $8 AND starts_at < $9
                   AND ($11::uuid IS NULL OR group_id = $11)
                   AND ($12::uuid IS NULL OR other_id = $12)) AS sums
         GROUP BY 1, 2),
    page AS (
        SELECT group_id, period, requests, successes, prompt_tokens, completion_tokens,
               total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum, latency_min,
               latency_max,
               coalesce(group_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS ordinal
          FROM groups
         WHERE $16::bigint IS NULL
            OR CASE WHEN period IS NULL
                    THEN (-total_tokens, coalesce(group_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
                         > (-$16, $17::uuid)
                    ELSE period > $15::timestamptz
               END
         ORDER BY period, total_tokens DESC, ordinal
         LIMIT $13 OFFSET $14)
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

# The sketches of hours, for the groups of one page only; see `sketch.merge`. $10 their ids, $11
# their periods.
MERGE_HOURS: Final = """
    SELECT g.ordinal, g.period, string_agg(substring(array_send(g.latency_sketch) FROM 21), '')
           AS parts
      FROM (SELECT coalesce(CASE $4::text WHEN 'model' THEN model_id
                                          WHEN 'api_key' THEN api_key_id
                                          WHEN 'region' THEN region_id END,
                            'ffffffff-ffff-ffff-ffff-ffffffffffff') AS ordinal,
                   CASE $4::text WHEN 'hour' THEN hour
                                 WHEN 'day' THEN date_trunc('day', hour, 'UTC') END AS period,
                   latency_sketch
              FROM usage_rollup_hourly
             WHERE tenant_id = $1
               AND (hour >= $2 AND hour < $8 OR hour >= $9 AND hour < $3)
               AND ($5::uuid IS NULL OR model_id = $5)
               AND ($6::uuid IS NULL OR api_key_id = $6)
               AND ($7::uuid IS NULL OR region_id = $7)) AS g
     WHERE g.ordinal = ANY($10::uuid[])
       AND (g.period IS NULL OR g.period = ANY($11::timestamptz[]))
     GROUP BY 1, 2
"""

# The same of days, which are numbers. $2 whether groups are told apart by the cut's `first` id, by
# its `second` or by `day`; $3 and $4 the days; $5 cut; $6 and $7 its only ids; $8 ids, $9 periods.
MERGE_DAYS: Final = """
    SELECT s.ordinal, s.period, numeric_send(sum(s.latencies)) AS latencies
      FROM (SELECT coalesce(CASE $2::text WHEN 'first' THEN group_id WHEN 'second' THEN other_id
                            END, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS ordinal,
                   CASE WHEN $2::text = 'day' THEN starts_at END AS period, latencies
              FROM usage_rollup_cuts
             WHERE tenant_id = $1 AND starts_at >= $3 AND starts_at < $4 AND cut = $5
               AND ($6::uuid IS NULL OR group_id = $6)
               AND ($7::uuid IS NULL OR other_id = $7)) AS s
     WHERE s.ordinal = ANY($8::uuid[])
       AND (s.period IS NULL OR s.period = ANY($9::timestamptz[]))
     GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Combination:
    """What is asked of several dimensions.

    Attributes:
        window: Whole hours.
        group_by: A dimension, `hour` or `day`.
        filters: The only model, key and region.
        needed: The dimensions that matter, in the order of ``filters``.
    """

    tenant_id: TenantId
    window: Window
    group_by: str
    filters: dict[Dimension, UUID | None]
    needed: Sequence[Dimension]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """``$1`` to ``$9`` of the statements."""
        window, days = self.window, self.days
        only = self.filters.values()
        return self.tenant_id, window.start, window.end, self.group_by, *only, days.start, days.end

    @property
    def days(self) -> Window:
        """The days within, as far as days of two dimensions do; none otherwise."""
        if len(self.needed) > 2 or self.group_by == "hour":
            return Window(self.window.end, self.window.end)
        return self.window.inner_days

    @property
    def cut(self) -> str:
        """The cut of those days."""
        return "_".join(("day", *self.needed))

    @property
    def ids(self) -> list[UUID | None]:
        """The only ids of that cut."""
        return [self.filters[dimension] for dimension in self.needed[:2]]

    @property
    def told_apart_by(self) -> str:
        """Which id of that cut, or that it is days that groups are told apart by."""
        if self.group_by not in self.needed:
            return "day"
        return "first" if self.needed[0] == self.group_by else "second"


async def list_groups(
    conn: Conn, asked: Combination, page: Page, after: Sequence[Any]
) -> list[asyncpg.Record]:
    """Read a page of groups and one more; without any, one row of nulls says how many there are."""
    period, tokens, ordinal = after or (None, None, None)
    return await conn.fetch(
        LIST_GROUPS,
        *asked.arguments,
        asked.cut,
        *asked.ids,
        page.limit + 1,
        page.offset,
        datetime.fromisoformat(period) if period else None,
        tokens,
        ordinal,
    )


async def merge_sketches(
    conn: Conn, asked: Combination, rows: Sequence[asyncpg.Record]
) -> dict[tuple[UUID, datetime | None], Counts]:
    """Add up the sketches of some groups: counts by bucket for each."""
    ordinals = list({row["ordinal"] for row in rows})
    periods = [row["period"] for row in rows if row["period"] is not None]
    of_hours = await conn.fetch(MERGE_HOURS, *asked.arguments, ordinals, periods)
    days = asked.days
    of_days = await conn.fetch(
        MERGE_DAYS,
        asked.tenant_id,
        asked.told_apart_by,
        days.start,
        days.end,
        asked.cut,
        *asked.ids,
        ordinals,
        periods,
    )
    read = sketch_numbers.counts([row["latencies"] for row in of_days])
    merged = {
        (row["ordinal"], row["period"]): counts for row, counts in zip(of_days, read, strict=True)
    }
    for row in of_hours:
        counts = merged.setdefault((row["ordinal"], row["period"]), sketch.nothing())
        counts += sketch.merge(row["parts"])
    return merged
