"""Making raw prices clean: one statement a batch, and the numbers that put writers in order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from spotplane_server.kernel.db.database import Conn
from spotplane_server.prices import rules
from spotplane_server.prices.job_runs import Counts

# Holds the row until the transaction ends, so writers take turns and revisions commit in order.
NEXT_REVISION: Final = """
    UPDATE clean_revision
       SET revision = revision + 1
    RETURNING revision
"""

HAS_PENDING: Final = "SELECT EXISTS (SELECT FROM raw_prices WHERE pending)"

# 1. A batch of what has not been taken, oldest first, is taken.
# 2. A submission that was taken before, or that is in the batch twice, counts once.
# 3. Of each pool and bucket the best is left: who is believed more, then who saw it first.
# 4. It becomes clean if the bucket is empty, interpolated, or held by a lesser one.
# `OFFSET 0` keeps the look-ups at one index probe a row: a batch is small, the tables are not.
TAKE: Final = """
    WITH sources AS (
        SELECT source, priority, confidence
          FROM unnest($3::text[], $4::int[], $5::real[]) AS s (source, priority, confidence)),
    batch AS MATERIALIZED (
        SELECT received_at, id, pool_id, price_nanousd, observed_at, source, submission_id,
               date_bin($6, observed_at, '1970-01-01Z') AS bucket_at
          FROM raw_prices
         WHERE pending
         ORDER BY received_at, id
         LIMIT $1),
    taken AS (
        UPDATE raw_prices r
           SET pending = false
          FROM batch b
         WHERE r.pending
           AND r.received_at = b.received_at
           AND r.id = b.id
           AND r.received_at BETWEEN (SELECT min(received_at) FROM batch)
                                 AND (SELECT max(received_at) FROM batch)),
    once AS (
        SELECT DISTINCT ON (b.submission_id, b.pool_id)
               b.pool_id, b.bucket_at, b.price_nanousd, b.observed_at, b.received_at, b.source,
               b.submission_id, s.priority, s.confidence
          FROM batch b
          JOIN sources s USING (source)
         WHERE NOT EXISTS (SELECT
                             FROM raw_prices e
                            WHERE e.submission_id = b.submission_id
                              AND e.pool_id = b.pool_id
                              AND NOT e.pending
                           OFFSET 0)
         ORDER BY b.submission_id, b.pool_id, b.received_at, b.id),
    best AS (
        SELECT DISTINCT ON (pool_id, bucket_at)
               pool_id, bucket_at, price_nanousd, observed_at, received_at, source, submission_id,
               priority, confidence
          FROM once
         ORDER BY pool_id, bucket_at, priority DESC, observed_at, submission_id),
    judged AS MATERIALIZED (
        SELECT b.pool_id, b.bucket_at, b.price_nanousd, b.observed_at, b.received_at, b.source,
               b.submission_id, b.confidence, c.price_nanousd AS held_nanousd,
               coalesce(c.source = 'interpolated'
                        OR b.priority > s.priority
                        OR b.priority = s.priority
                           AND (b.observed_at, b.submission_id) < (c.observed_at, c.submission_id),
                        true) AS wins,
               coalesce(c.source <> 'interpolated', false) AS was_real
          FROM best b
          LEFT JOIN LATERAL
               (SELECT price_nanousd, source, observed_at, submission_id
                  FROM clean_prices
                 WHERE pool_id = b.pool_id
                   AND bucket_at = b.bucket_at
                OFFSET 0) AS c ON true
          LEFT JOIN sources s ON s.source = c.source),
    written AS (
        INSERT INTO clean_prices AS c (pool_id, bucket_at, price_nanousd, source, confidence,
                                       observed_at, submission_id, revision)
        SELECT pool_id, bucket_at, price_nanousd, source, confidence, observed_at, submission_id, $2
          FROM judged
         WHERE wins
        ON CONFLICT (pool_id, bucket_at) DO UPDATE
           SET price_nanousd = excluded.price_nanousd,
               source = excluded.source,
               confidence = excluded.confidence,
               observed_at = excluded.observed_at,
               submission_id = excluded.submission_id,
               revision = excluded.revision),
    apart AS (
        SELECT o.pool_id, o.bucket_at, o.price_nanousd AS told,
               CASE WHEN j.wins THEN j.price_nanousd ELSE j.held_nanousd END AS kept
          FROM once o
          JOIN judged j USING (pool_id, bucket_at)
         UNION
        SELECT pool_id, bucket_at, held_nanousd, price_nanousd
          FROM judged
         WHERE wins AND was_real)
    SELECT (SELECT count(*) FROM batch) AS processed,
           (SELECT min(received_at) FROM batch) AS oldest_at,
           (SELECT count(*) FROM batch) - (SELECT count(*) FROM once) AS duplicates,
           (SELECT count(*) FROM judged WHERE wins) AS written,
           (SELECT count(*)
              FROM judged
             WHERE wins AND NOT was_real AND received_at >= bucket_at + 2 * $6) AS backfills,
           coalesce((SELECT jsonb_agg(jsonb_build_array(pool_id, bucket_at, kept, told))
                       FROM (SELECT pool_id, bucket_at, kept, told
                               FROM apart
                              WHERE abs(told - kept) > $7::float8 * kept
                              ORDER BY pool_id, bucket_at, told
                              LIMIT 100) AS shown), '[]') AS disagreements
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of a batch of raw prices.

    Attributes:
        oldest_at: When the first of them was received; None for an empty batch.
        written: Clean prices made or replaced.
        disagreements: ``[pool, bucket, kept, told]`` of prices over a tenth apart, at most 100.
    """

    processed: int
    oldest_at: datetime | None
    duplicates: int
    written: int
    backfills: int
    disagreements: list[Any]

    @property
    def counts(self) -> Counts:
        """For the row of the run."""
        return Counts(self.processed, self.duplicates, 0, self.backfills)


async def next_revision(conn: Conn) -> int:
    """Take a turn as the one writer of clean prices, until the transaction ends."""
    revision: int = await conn.fetchval(NEXT_REVISION)
    return revision


async def has_pending(conn: Conn) -> bool:
    """Whether raw prices wait."""
    waiting: bool = await conn.fetchval(HAS_PENDING)
    return waiting


async def take(conn: Conn, revision: int, *, limit: int) -> Batch:
    """Make up to ``limit`` raw prices clean, those received first.

    The result does not depend on the order or the batches in which prices come, nor on how often.
    """
    sources = list(rules.CONFIDENCE)
    row = await conn.fetchrow(
        TAKE,
        limit,
        revision,
        sources,
        [rules.PRIORITY[source] for source in sources],
        [rules.CONFIDENCE[source] for source in sources],
        rules.BUCKET,
        rules.DISAGREEMENT,
    )
    assert row is not None  # it selects numbers, from nothing
    return Batch(**row)
