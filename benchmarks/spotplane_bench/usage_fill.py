"""Fills months of raw records inside PostgreSQL, and their sums by the product's own functions.

Ingest takes records of the last 35 days only, and twenty million of them would take it long. The
records are uneven as those of `usage_world`; their request ids are claimed nowhere.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, Final
from uuid import UUID, uuid4

from spotplane_bench.usage_world import HABITS, Catalog, User, falling

DAYS: Final = 90
DAY: Final = timedelta(days=1)
MINUTE_DAYS: Final = 40

# $2 the day, $3 how many of its seconds are over, $4 records, $5 where the share of each key ends.
# Every subquery that draws names `n`, so that it is drawn anew for each record.
FILL_DAY: Final = """
    INSERT INTO usage_records (
           tenant_id, "timestamp", request_id, environment_id, api_key_id, model_id, region_id,
           node_id, prompt_tokens, completion_tokens, cached_tokens, total_tokens, latency_ms,
           status_code, outcome, price_input, price_cached, price_output, region_multiplier,
           cost_nanos, metadata, ingested_at)
    SELECT $1::uuid, r.at, 'req_' || r.at::date || '_' || r.n,
           ($6::uuid[])[1 + r.key % cardinality($6::uuid[])], ($7::uuid[])[1 + r.key],
           ($8::uuid[])[1 + (CASE WHEN r.of_model < $10 THEN r.key WHEN r.of_model < $11
                             THEN r.key + 1 ELSE r.any_model END) % cardinality($8::uuid[])],
           ($9::uuid[])[1 + (CASE WHEN r.of_region < $10 THEN r.key WHEN r.of_region < $11
                             THEN r.key + 1 ELSE r.any_region END) % cardinality($9::uuid[])],
           'node-' || r.n % 16, r.prompt, r.completion,
           CASE WHEN r.n % 10 < 3 THEN r.prompt / 2 ELSE 0 END, r.prompt + r.completion,
           CASE WHEN r.n % 50 > 0 THEN r.latency END,
           CASE WHEN r.n % 33 > 0 THEN 200 ELSE 500 END,
           CASE WHEN r.n % 33 > 0 THEN 'success' ELSE 'server_error' END,
           0.5, 0.1, 1.5, 1.0, r.prompt * 500 + r.completion * 1500, NULL, now()
      FROM (SELECT n, $2::timestamptz + make_interval(secs => $3 * random()) AS at,
                   width_bucket(random(), $5::float8[]) AS key,
                   random() AS of_model, floor(random() * 1000)::int AS any_model,
                   random() AS of_region, floor(random() * 1000)::int AS any_region,
                   least(exp(random_normal(6.5, 1.0)) + 1, 32000)::int AS prompt,
                   least(exp(random_normal(5.0, 1.0)), 8000)::int AS completion,
                   least(exp(random_normal(6.5, 0.8)), 600000)::int AS latency
              FROM generate_series(1, $4::int) AS n) AS r
"""

ADD_ENVIRONMENT: Final = """
    INSERT INTO environments (id, tenant_id, name, region_code, requests_per_minute,
                              created_at)
    VALUES ($1, $2, 'staging', 'us-east', 1000000000, now())
"""

ENSURE_MONTHS: Final = """
    SELECT ensure_partition(parent, starts_at, starts_at + interval '1 month')
      FROM unnest($1::text[]) AS parent,
           generate_series(date_trunc('month', $2::timestamptz, 'UTC'), now(),
                           interval '1 month') AS starts_at
"""
MONTHLY: Final = ("usage_records", "usage_rollups", "usage_rollup_peaks")

ROLLUPS: Final = """
    INSERT INTO usage_rollups
    SELECT * FROM usage_rollups_from_records($1, $2, $3) WHERE $4 OR rollup <> 'minute_model'
"""
PEAKS: Final = "INSERT INTO usage_rollup_peaks SELECT * FROM usage_peaks_by_records($1, $2, $3)"

INDEXES: Final = """
    SELECT c.relname AS name, pg_get_indexdef(c.oid) AS definition
      FROM pg_index i
      JOIN pg_class c ON c.oid = i.indexrelid
     WHERE i.indrelid = 'usage_records'::regclass
"""


async def fill(conn: Any, user: User, catalog: Catalog, records: int, *, days: int = DAYS) -> None:
    """Store so many records of a tenant over days until now, and all their sums.

    Args:
        conn: Of the owner.
        user: The tenant; it gets a second environment.
        catalog: Of what they are.
        records: How many, evenly over the days, the last of which is not over.
        days: How far they reach back.
    """
    now = datetime.now(UTC)
    first = (now - DAY * days).replace(hour=0, minute=0, second=0, microsecond=0)
    await conn.execute("SET jit = off; SET work_mem = '256MB'; SET statement_timeout = 0")
    await conn.fetch(ENSURE_MONTHS, list(MONTHLY), first)
    tenant = UUID(user.tenant.id)
    old = await conn.fetchval("SELECT id FROM environments WHERE tenant_id = $1", tenant)
    new = uuid4()
    await conn.execute(ADD_ENVIRONMENT, new, tenant)
    seconds = (now - first).total_seconds()
    # Without indexes, which are made at once afterwards.
    indexes = await conn.fetch(INDEXES)
    for index in indexes:
        await conn.execute(f"DROP INDEX {index['name']}")
    for number in range(days + 1):
        day = first + DAY * number
        over = min((now - day).total_seconds(), DAY.total_seconds())
        await conn.execute(
            FILL_DAY,
            tenant,
            day,
            over,
            max(int(records * over / seconds), 1),
            _ends(len(user.keys)),
            [old, new],
            list(user.keys),
            [UUID(model.id) for model in catalog.models],
            [UUID(region.id) for region in catalog.regions],
            HABITS[0],
            HABITS[0] + HABITS[1],
        )
    for index in indexes:
        await conn.execute(index["definition"])
    await conn.execute("ANALYZE usage_records")
    for number in range(days + 1):
        day = first + DAY * number
        with_minutes = day >= now - DAY * MINUTE_DAYS
        await conn.execute(ROLLUPS, tenant, day, day + DAY, with_minutes)
        if with_minutes:
            await conn.execute(PEAKS, tenant, day, day + DAY)
    await conn.execute("VACUUM ANALYZE")


def _ends(count: int) -> list[float]:
    """Where in [0, 1) the share of each but the last ends."""
    shares = falling(count)
    return [end / sum(shares) for end in accumulate(shares)][:-1]
