"""Writing sums: one statement a table, in the transaction that stores the records."""

from __future__ import annotations

from typing import Any, Final

from spotplane_server.kernel.db import Conn
from spotplane_server.usage import sketch_numbers
from spotplane_server.usage.rollup import CUTS, Rollups, Sums

# Sketches come as one array, cut by position, because arrays of arrays must be of one length.
# Appending is what makes this cheap; 384 parts are about as many as one hour's distinct buckets.
ADD_TO_HOURS: Final = """
    INSERT INTO usage_rollup_hourly AS h (
           tenant_id, hour, environment_id, model_id, api_key_id, region_id, requests, successes,
           failures, prompt_tokens, completion_tokens, total_tokens, cached_tokens, cost_nanos,
           latency_count, latency_sum, latency_min, latency_max, latency_sketch, first_at, last_at)
    SELECT d.tenant_id, from_micros(d.hour), d.environment_id, d.model_id, d.api_key_id,
           d.region_id, d.requests, d.successes, d.requests - d.successes, d.prompt_tokens,
           d.completion_tokens, d.prompt_tokens + d.completion_tokens, d.cached_tokens,
           d.cost_nanos, d.latency_count, d.latency_sum, d.latency_min, d.latency_max,
           ($21::bigint[])[d.sketch_from:d.sketch_to], from_micros(d.first_at),
           from_micros(d.last_at)
      FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[],
                  $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
                  $12::bigint[], $13::bigint[], $14::bigint[], $15::int[], $16::int[],
                  $17::bigint[], $18::bigint[], $19::int[], $20::int[])
           AS d(tenant_id, hour, environment_id, model_id, api_key_id, region_id, requests,
                successes, prompt_tokens, completion_tokens, cached_tokens, cost_nanos,
                latency_count, latency_sum, latency_min, latency_max, first_at, last_at,
                sketch_from, sketch_to)
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
    SELECT d.tenant_id, from_micros(d.day), d.model_id, d.requests, d.successes,
           d.requests - d.successes, d.prompt_tokens, d.completion_tokens,
           d.prompt_tokens + d.completion_tokens,
           d.cached_tokens, d.cost_nanos, d.latency_count, d.latency_sum, d.latency_min,
           d.latency_max,
           d.latencies,
           from_micros(d.first_at), from_micros(d.last_at)
      FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[], $5::bigint[],
                  $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[],
                  $11::bigint[], $12::int[], $13::int[], $14::bigint[], $15::bigint[],
                  $16::text::numeric[])
           AS d(tenant_id, day, model_id, requests, successes, prompt_tokens,
                completion_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
                latency_min, latency_max, first_at, last_at, latencies)
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
           tenant_id, cut, starts_at, group_id, other_id, requests, successes, failures,
           prompt_tokens, completion_tokens, total_tokens, cached_tokens, cost_nanos,
           latency_count, latency_sum, latency_min, latency_max, latencies, first_at, last_at)
    SELECT d.tenant_id, d.cut, from_micros(d.starts_at), d.group_id, d.other_id, d.requests,
           d.successes, d.requests - d.successes, d.prompt_tokens, d.completion_tokens,
           d.prompt_tokens + d.completion_tokens, d.cached_tokens, d.cost_nanos, d.latency_count,
           d.latency_sum, d.latency_min, d.latency_max, d.latencies, from_micros(d.first_at),
           from_micros(d.last_at)
      FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::uuid[], $5::uuid[], $6::bigint[],
                  $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
                  $12::bigint[], $13::bigint[], $14::int[], $15::int[], $16::bigint[],
                  $17::bigint[], $18::text::numeric[])
           AS d(tenant_id, cut, starts_at, group_id, other_id, requests, successes, prompt_tokens,
                completion_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
                latency_min, latency_max, first_at, last_at, latencies)
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
    SELECT d.tenant_id, from_micros(d.minute), d.model_id, d.requests, d.successes,
           d.requests - d.successes, d.prompt_tokens, d.completion_tokens,
           d.prompt_tokens + d.completion_tokens, d.cached_tokens, d.cost_nanos, d.latency_count,
           d.latency_sum, d.latency_min, d.latency_max,
           ($18::bigint[])[d.sketch_from:d.sketch_to], from_micros(d.first_at),
           from_micros(d.last_at)
      FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[], $5::bigint[],
                  $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[],
                  $11::bigint[], $12::int[], $13::int[], $14::bigint[], $15::bigint[],
                  $16::int[], $17::int[])
           AS d(tenant_id, minute, model_id, requests, successes, prompt_tokens,
                completion_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
                latency_min, latency_max, first_at, last_at, sketch_from, sketch_to)
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
              FROM (SELECT DISTINCT d.tenant_id, from_micros(d.minute) AS minute
                      FROM unnest($1::uuid[], $2::bigint[]) AS d(tenant_id, minute)) AS t
              JOIN usage_rollup_minute u USING (tenant_id, minute)
             GROUP BY u.tenant_id, u.minute) AS m
     ORDER BY m.tenant_id, m.hour, m.requests DESC, m.minute
    ON CONFLICT ON CONSTRAINT usage_rollup_peaks_pkey DO UPDATE
       SET minute = excluded.minute, requests = excluded.requests
     WHERE (excluded.requests, p.minute) > (p.requests, excluded.minute)
"""


async def add(conn: Conn, rollups: Rollups) -> None:
    """Add a batch to the sums, always in the same order, so that two never wait for each other."""
    hours, days, minutes = rollups.hours, rollups.days, rollups.minutes
    cuts, cut_keys = _cuts(rollups.cuts)
    of_minutes = _model_key(minutes)
    await conn.execute(ADD_TO_HOURS, *_hour_key(hours), *_sums(hours), *_sketches(hours))
    await conn.execute(ADD_TO_CUTS, *cut_keys, *_sums(cuts), _numbers(cuts))
    await conn.execute(ADD_TO_DAYS, *_model_key(days), *_sums(days), _numbers(days))
    await conn.execute(ADD_TO_MINUTES, *of_minutes, *_sums(minutes), *_sketches(minutes))
    tenants, starts, _ = of_minutes
    await conn.execute(RAISE_PEAKS, tenants, starts)


def _sums(sums: Sums) -> tuple[list[Any], ...]:
    return (*sums.measures, sums.latency_min, sums.latency_max, sums.first_at, sums.last_at)


def _sketches(sums: Sums) -> tuple[list[int], ...]:
    return sums.sketch_from, sums.sketch_to, sums.sketch


def _numbers(sums: Sums) -> str:
    numerals = sketch_numbers.numerals(sums.sketch, sums.sketch_from, sums.sketch_to)
    return "{" + ",".join(numerals) + "}"


def _cuts(cuts: dict[str, Sums]) -> tuple[Sums, tuple[list[Any], ...]]:
    """All cuts as rows of one table, and their keys."""
    rows = Sums.together(list(cuts.values()))
    names = [name for name, sums in cuts.items() for _ in sums.starts]
    ids = [
        _two([getattr(of, field) for field in CUTS[name][1]])
        for name, sums in cuts.items()
        for of in sums.dimensions
    ]
    groups, others = [first for first, _ in ids], [second for _, second in ids]
    return rows, ([of.tenant_id for of in rows.dimensions], names, rows.starts, groups, others)


def _two(ids: list[str | None]) -> tuple[str | None, str | None]:
    first, second, *_ = (*ids, None, None)
    return first, second


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
