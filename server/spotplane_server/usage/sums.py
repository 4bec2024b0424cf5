"""Writing sums: one statement a table, in the transaction that stores the records."""

from __future__ import annotations

from typing import Any, Final

from spotplane_server.kernel.db import Conn
from spotplane_server.usage.rollup import Rollups, Sums

# Sketches come as one array, cut by position, because arrays of arrays must be of one length.
# Appending is what makes this cheap; 384 parts are about as many as one hour's distinct buckets.
ADD_TO_HOURS: Final = """
    INSERT INTO usage_rollup_hourly AS h (
           tenant_id, hour, environment_id, model_id, api_key_id, region_id, requests, successes,
           failures, prompt_tokens, completion_tokens, total_tokens, cached_tokens, cost_nanos,
           latency_count, latency_sum, latency_min, latency_max, latency_sketch, first_at, last_at)
    SELECT d.tenant_id, d.hour, d.environment_id, d.model_id, d.api_key_id, d.region_id,
           d.requests, d.successes, d.requests - d.successes, d.prompt_tokens,
           d.completion_tokens, d.prompt_tokens + d.completion_tokens, d.cached_tokens,
           d.cost_nanos, d.latency_count, d.latency_sum, d.latency_min, d.latency_max,
           ($1::bigint[])[d.sketch_from:d.sketch_to], d.first_at, d.last_at
      FROM unnest($2::uuid[], $3::timestamptz[], $4::uuid[], $5::uuid[], $6::uuid[], $7::uuid[],
                  $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
                  $13::bigint[], $14::bigint[], $15::bigint[], $16::int[], $17::int[], $18::int[],
                  $19::int[], $20::timestamptz[], $21::timestamptz[])
           AS d(tenant_id, hour, environment_id, model_id, api_key_id, region_id, requests,
                successes, prompt_tokens, completion_tokens, cached_tokens, cost_nanos,
                latency_count, latency_sum, latency_min, latency_max, sketch_from, sketch_to,
                first_at, last_at)
    ON CONFLICT ON CONSTRAINT usage_rollup_hourly_key DO UPDATE
       SET requests = h.requests + excluded.requests,
           successes = h.successes + excluded.successes,
           failures = h.failures + excluded.failures,
           prompt_tokens = h.prompt_tokens + excluded.prompt_tokens,
           completion_tokens = h.completion_tokens + excluded.completion_tokens,
           total_tokens = h.total_tokens + excluded.total_tokens,
           cached_tokens = h.cached_tokens + excluded.cached_tokens,
           cost_nanos = h.cost_nanos + excluded.cost_nanos,
           latency_count = h.latency_count + excluded.latency_count,
           latency_sum = h.latency_sum + excluded.latency_sum,
           latency_min = least(h.latency_min, excluded.latency_min),
           latency_max = greatest(h.latency_max, excluded.latency_max),
           latency_sketch =
               CASE WHEN cardinality(h.latency_sketch) + cardinality(excluded.latency_sketch) <= 384
                    THEN h.latency_sketch || excluded.latency_sketch
                    ELSE compact_sketch(h.latency_sketch || excluded.latency_sketch)
               END,
           first_at = least(h.first_at, excluded.first_at),
           last_at = greatest(h.last_at, excluded.last_at)
"""

# Sketches as numbers: see usage/sketch_numbers.py.
ADD_TO_DAYS: Final = """
    INSERT INTO usage_rollup_daily AS h (
           tenant_id, day, model_id, requests, successes, failures, prompt_tokens,
           completion_tokens, total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
           latency_min, latency_max, latencies, first_at, last_at)
    SELECT d.tenant_id, d.day, d.model_id, d.requests, d.successes, d.requests - d.successes,
           d.prompt_tokens, d.completion_tokens, d.prompt_tokens + d.completion_tokens,
           d.cached_tokens, d.cost_nanos, d.latency_count, d.latency_sum, d.latency_min,
           d.latency_max,
           (SELECT coalesce(sum(((part & 4294967295)::text || 'e' || 12 * (part >> 32))::numeric),
                            0)
              FROM unnest(($1::bigint[])[d.sketch_from:d.sketch_to]) AS part),
           d.first_at, d.last_at
      FROM unnest($2::uuid[], $3::timestamptz[], $4::uuid[], $5::bigint[], $6::bigint[],
                  $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
                  $12::bigint[], $13::int[], $14::int[], $15::int[], $16::int[],
                  $17::timestamptz[], $18::timestamptz[])
           AS d(tenant_id, day, model_id, requests, successes, prompt_tokens,
                completion_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
                latency_min, latency_max, sketch_from, sketch_to, first_at, last_at)
    ON CONFLICT ON CONSTRAINT usage_rollup_daily_key DO UPDATE
       SET requests = h.requests + excluded.requests,
           successes = h.successes + excluded.successes,
           failures = h.failures + excluded.failures,
           prompt_tokens = h.prompt_tokens + excluded.prompt_tokens,
           completion_tokens = h.completion_tokens + excluded.completion_tokens,
           total_tokens = h.total_tokens + excluded.total_tokens,
           cached_tokens = h.cached_tokens + excluded.cached_tokens,
           cost_nanos = h.cost_nanos + excluded.cost_nanos,
           latency_count = h.latency_count + excluded.latency_count,
           latency_sum = h.latency_sum + excluded.latency_sum,
           latency_min = least(h.latency_min, excluded.latency_min),
           latency_max = greatest(h.latency_max, excluded.latency_max),
           latencies = h.latencies + excluded.latencies,
           first_at = least(h.first_at, excluded.first_at),
           last_at = greatest(h.last_at, excluded.last_at)
"""

ADD_TO_CUTS: Final = """
    INSERT INTO usage_rollup_cuts AS h (
           tenant_id, cut, starts_at, group_id, requests, successes, failures, prompt_tokens,
           completion_tokens, total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
           latency_min, latency_max, latencies, first_at, last_at)
    SELECT d.tenant_id, d.cut, d.starts_at, d.group_id, d.requests, d.successes,
           d.requests - d.successes, d.prompt_tokens, d.completion_tokens,
           d.prompt_tokens + d.completion_tokens,
           d.cached_tokens, d.cost_nanos, d.latency_count, d.latency_sum, d.latency_min,
           d.latency_max,
           (SELECT coalesce(sum(((part & 4294967295)::text || 'e' || 12 * (part >> 32))::numeric),
                            0)
              FROM unnest(($1::bigint[])[d.sketch_from:d.sketch_to]) AS part),
           d.first_at, d.last_at
      FROM unnest($2::uuid[], $3::text[], $4::timestamptz[], $5::uuid[], $6::bigint[],
                  $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
                  $12::bigint[], $13::bigint[], $14::int[], $15::int[], $16::int[], $17::int[],
                  $18::timestamptz[], $19::timestamptz[])
           AS d(tenant_id, cut, starts_at, group_id, requests, successes, prompt_tokens,
                completion_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
                latency_min, latency_max, sketch_from, sketch_to, first_at, last_at)
    ON CONFLICT ON CONSTRAINT usage_rollup_cuts_key DO UPDATE
       SET requests = h.requests + excluded.requests,
           successes = h.successes + excluded.successes,
           failures = h.failures + excluded.failures,
           prompt_tokens = h.prompt_tokens + excluded.prompt_tokens,
           completion_tokens = h.completion_tokens + excluded.completion_tokens,
           total_tokens = h.total_tokens + excluded.total_tokens,
           cached_tokens = h.cached_tokens + excluded.cached_tokens,
           cost_nanos = h.cost_nanos + excluded.cost_nanos,
           latency_count = h.latency_count + excluded.latency_count,
           latency_sum = h.latency_sum + excluded.latency_sum,
           latency_min = least(h.latency_min, excluded.latency_min),
           latency_max = greatest(h.latency_max, excluded.latency_max),
           latencies = h.latencies + excluded.latencies,
           first_at = least(h.first_at, excluded.first_at),
           last_at = greatest(h.last_at, excluded.last_at)
"""

ADD_TO_MINUTES: Final = """
    INSERT INTO usage_rollup_minute AS h (
           tenant_id, minute, model_id, requests, successes, failures, prompt_tokens,
           completion_tokens, total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
           latency_min, latency_max, latency_sketch, first_at, last_at)
    SELECT d.tenant_id, d.minute, d.model_id, d.requests, d.successes, d.requests - d.successes,
           d.prompt_tokens, d.completion_tokens, d.prompt_tokens + d.completion_tokens,
           d.cached_tokens, d.cost_nanos, d.latency_count, d.latency_sum, d.latency_min,
           d.latency_max, ($1::bigint[])[d.sketch_from:d.sketch_to], d.first_at, d.last_at
      FROM unnest($2::uuid[], $3::timestamptz[], $4::uuid[], $5::bigint[], $6::bigint[],
                  $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
                  $12::bigint[], $13::int[], $14::int[], $15::int[], $16::int[],
                  $17::timestamptz[], $18::timestamptz[])
           AS d(tenant_id, minute, model_id, requests, successes, prompt_tokens,
                completion_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
                latency_min, latency_max, sketch_from, sketch_to, first_at, last_at)
    ON CONFLICT ON CONSTRAINT usage_rollup_minute_key DO UPDATE
       SET requests = h.requests + excluded.requests,
           successes = h.successes + excluded.successes,
           failures = h.failures + excluded.failures,
           prompt_tokens = h.prompt_tokens + excluded.prompt_tokens,
           completion_tokens = h.completion_tokens + excluded.completion_tokens,
           total_tokens = h.total_tokens + excluded.total_tokens,
           cached_tokens = h.cached_tokens + excluded.cached_tokens,
           cost_nanos = h.cost_nanos + excluded.cost_nanos,
           latency_count = h.latency_count + excluded.latency_count,
           latency_sum = h.latency_sum + excluded.latency_sum,
           latency_min = least(h.latency_min, excluded.latency_min),
           latency_max = greatest(h.latency_max, excluded.latency_max),
           latency_sketch =
               CASE WHEN cardinality(h.latency_sketch) + cardinality(excluded.latency_sketch) <= 384
                    THEN h.latency_sketch || excluded.latency_sketch
                    ELSE compact_sketch(h.latency_sketch || excluded.latency_sketch)
               END,
           first_at = least(h.first_at, excluded.first_at),
           last_at = greatest(h.last_at, excluded.last_at)
"""

# The minutes are those that were just added to. Their hours' rows in `usage_rollup_cuts` are locked
# by then, so no other writer's part of such a minute is waiting to be committed. The requests of a
# minute only grow, so the busiest one is only ever replaced by a busier one.
RAISE_PEAKS: Final = """
    INSERT INTO usage_rollup_peaks AS p (tenant_id, hour, minute, requests)
    SELECT DISTINCT ON (m.tenant_id, m.hour) m.tenant_id, m.hour, m.minute, m.requests
      FROM (SELECT u.tenant_id, date_trunc('hour', u.minute, 'UTC') AS hour, u.minute,
                   sum(u.requests)::bigint AS requests
              FROM (SELECT DISTINCT tenant_id, minute
                      FROM unnest($1::uuid[], $2::timestamptz[]) AS t(tenant_id, minute)) AS t
              JOIN usage_rollup_minute u USING (tenant_id, minute)
             GROUP BY u.tenant_id, u.minute) AS m
     ORDER BY m.tenant_id, m.hour, m.requests DESC, m.minute
    ON CONFLICT ON CONSTRAINT usage_rollup_peaks_pkey DO UPDATE
       SET minute = excluded.minute, requests = excluded.requests
     WHERE (excluded.requests, p.minute) > (p.requests, excluded.minute)
"""


async def add(conn: Conn, rollups: Rollups) -> None:
    """Add a batch to the sums, always in the same order, so that two never wait for each other."""
    for statement, sums, keys in (
        (ADD_TO_HOURS, rollups.hours, _hour_key(rollups.hours)),
        (ADD_TO_CUTS, *_cuts(rollups.cuts)),
        (ADD_TO_DAYS, rollups.days, _model_key(rollups.days)),
        (ADD_TO_MINUTES, rollups.minutes, _model_key(rollups.minutes)),
    ):
        await conn.execute(
            statement,
            sums.sketch,
            *keys,
            *sums.measures,
            sums.latency_min,
            sums.latency_max,
            sums.sketch_from,
            sums.sketch_to,
            sums.first_at,
            sums.last_at,
        )
    tenants, minutes, _ = _model_key(rollups.minutes)
    await conn.execute(RAISE_PEAKS, tenants, minutes)


def _cuts(cuts: dict[str, Sums]) -> tuple[Sums, tuple[list[Any], ...]]:
    """All cuts as rows of one table, and their keys."""
    rows = Sums.together(list(cuts.values()))
    names = [name for name, sums in cuts.items() for _ in sums.starts]
    groups = [of.model_id or of.api_key_id or of.region_id for of in rows.dimensions]
    return rows, ([of.tenant_id for of in rows.dimensions], names, rows.starts, groups)


def _hour_key(sums: Sums) -> tuple[list[Any], ...]:
    rows = sums.dimensions
    return (
        [of.tenant_id for of in rows],
        sums.starts,
        [of.environment_id for of in rows],
        [of.model_id for of in rows],
        [of.api_key_id for of in rows],
        [of.region_id for of in rows],
    )


def _model_key(sums: Sums) -> tuple[list[Any], ...]:
    rows = sums.dimensions
    return [of.tenant_id for of in rows], sums.starts, [of.model_id for of in rows]
