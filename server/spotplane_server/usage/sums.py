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

ADD_TO_DAYS: Final = """
    INSERT INTO usage_rollup_daily AS h (
           tenant_id, day, model_id, requests, successes, failures, prompt_tokens,
           completion_tokens, total_tokens, cached_tokens, cost_nanos, latency_count, latency_sum,
           latency_min, latency_max, latency_sketch, first_at, last_at)
    SELECT d.tenant_id, d.day, d.model_id, d.requests, d.successes, d.requests - d.successes,
           d.prompt_tokens, d.completion_tokens, d.prompt_tokens + d.completion_tokens,
           d.cached_tokens, d.cost_nanos, d.latency_count, d.latency_sum, d.latency_min,
           d.latency_max, ($1::bigint[])[d.sketch_from:d.sketch_to], d.first_at, d.last_at
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
           latency_sketch =
               CASE WHEN cardinality(h.latency_sketch) + cardinality(excluded.latency_sketch) <= 384
                    THEN h.latency_sketch || excluded.latency_sketch
                    ELSE compact_sketch(h.latency_sketch || excluded.latency_sketch)
               END,
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


async def add(conn: Conn, rollups: Rollups) -> None:
    """Add a batch to the sums, always in the same order, so that two never wait for each other."""
    for statement, sums, key in (
        (ADD_TO_HOURS, rollups.hours, _hour_key),
        (ADD_TO_DAYS, rollups.days, _model_key),
        (ADD_TO_MINUTES, rollups.minutes, _model_key),
    ):
        await conn.execute(
            statement,
            sums.sketch,
            *key(sums),
            *sums.measures,
            sums.latency_min,
            sums.latency_max,
            sums.sketch_from,
            sums.sketch_to,
            sums.first_at,
            sums.last_at,
        )


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
