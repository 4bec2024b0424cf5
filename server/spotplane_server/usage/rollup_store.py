"""Writes rollups: two statements per batch, in the transaction that stores the records."""

from __future__ import annotations

from typing import Final

from spotplane_server.kernel.db.database import Conn
from spotplane_server.usage.rollup_builder import RollupRows

ADD_TO_ROLLUPS: Final = """
    INSERT INTO usage_rollups AS r (
           tenant_id, rollup, starts_at, environment_id, model_id, api_key_id, region_id, requests,
           successes, failures, prompt_tokens, completion_tokens, total_tokens, cached_tokens,
           cost_nanos, latency_count, latency_sum, latency_min, latency_max, latencies, first_at,
           last_at)
    SELECT d.tenant_id, d.rollup, from_micros(d.starts_at), d.environment_id, d.model_id,
           d.api_key_id, d.region_id, d.requests, d.successes, d.requests - d.successes,
           d.prompt_tokens, d.completion_tokens, d.prompt_tokens + d.completion_tokens,
           d.cached_tokens, d.cost_nanos, d.latency_count, d.latency_sum, d.latency_min,
           d.latency_max, d.latencies, from_micros(d.first_at), from_micros(d.last_at)
      FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::uuid[], $5::uuid[], $6::uuid[],
                  $7::uuid[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
                  $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::int[],
                  $17::int[], $18::bigint[], $19::bigint[], $20::text::numeric[])
           AS d(tenant_id, rollup, starts_at, environment_id, model_id, api_key_id, region_id,
                requests, successes, prompt_tokens, completion_tokens, cached_tokens, cost_nanos,
                latency_count, latency_sum, latency_min, latency_max, first_at, last_at, latencies)
    ON CONFLICT ON CONSTRAINT usage_rollups_key DO UPDATE
       SET requests = r.requests + excluded.requests,
           successes = r.successes + excluded.successes,
           failures = r.failures + excluded.failures,
           prompt_tokens = r.prompt_tokens + excluded.prompt_tokens,
           completion_tokens = r.completion_tokens + excluded.completion_tokens,
           total_tokens = r.total_tokens + excluded.total_tokens,
           cached_tokens = r.cached_tokens + excluded.cached_tokens,
           cost_nanos = r.cost_nanos + excluded.cost_nanos,
           latency_count = r.latency_count + excluded.latency_count,
           latency_sum = r.latency_sum + excluded.latency_sum,
           latency_min = least(r.latency_min, excluded.latency_min),
           latency_max = greatest(r.latency_max, excluded.latency_max),
           latencies = r.latencies + excluded.latencies,
           first_at = least(r.first_at, excluded.first_at),
           last_at = greatest(r.last_at, excluded.last_at)
"""

# $1 and $2 name the minutes that were just added to. The rows of their hours are locked by then, so
# no other writer's part of such a minute is uncommitted. The requests of a minute only grow, so the
# busiest minute of an hour is only ever replaced by a busier one.
RAISE_PEAKS: Final = """
    INSERT INTO usage_rollup_peaks AS p (tenant_id, hour, minute, requests)
    SELECT DISTINCT ON (m.tenant_id, m.hour) m.tenant_id, m.hour, m.minute, m.requests
      FROM (SELECT u.tenant_id, date_trunc('hour', u.starts_at, 'UTC') AS hour,
                   u.starts_at AS minute, sum(u.requests)::bigint AS requests
              FROM (SELECT DISTINCT d.tenant_id, from_micros(d.minute) AS minute
                      FROM unnest($1::uuid[], $2::bigint[]) AS d(tenant_id, minute)) AS t
              JOIN usage_rollups u ON u.tenant_id = t.tenant_id AND u.rollup = 'minute_model'
                                  AND u.starts_at = t.minute
             GROUP BY u.tenant_id, u.starts_at) AS m
     ORDER BY m.tenant_id, m.hour, m.requests DESC, m.minute
    ON CONFLICT ON CONSTRAINT usage_rollup_peaks_pkey DO UPDATE
       SET minute = excluded.minute, requests = excluded.requests
     WHERE (excluded.requests, p.minute) > (p.requests, excluded.minute)
"""


async def add_to_rollups(conn: Conn, rows: RollupRows) -> None:
    """Add a batch; rows are locked in the same order by every writer, so two never deadlock."""
    of = rows.dimensions
    await conn.execute(
        ADD_TO_ROLLUPS,
        [row.tenant_id for row in of],
        rows.rollups,
        rows.starts,
        [row.environment_id for row in of],
        [row.model_id for row in of],
        [row.api_key_id for row in of],
        [row.region_id for row in of],
        *rows.measures,
        rows.latency_min,
        rows.latency_max,
        rows.first_at,
        rows.last_at,
        "{" + ",".join(rows.latencies) + "}",
    )
    minutes = [
        (row.tenant_id, start)
        for row, start, name in zip(of, rows.starts, rows.rollups, strict=True)
        if name == "minute_model"
    ]
    await conn.execute(RAISE_PEAKS, [tenant for tenant, _ in minutes], [at for _, at in minutes])
