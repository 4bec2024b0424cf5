"""What models learn from: a row of features for every clean price that is surely true."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.prices import job_runs, rules
from spotplane_server.prices.job_runs import Counts

TRUSTED: Final = 0.95
HOUR: Final = 12 * rules.BUCKET
DAY: Final = 288 * rules.BUCKET
SIGMA_WINDOW: Final = 72 * rules.BUCKET
STEP: Final = timedelta(hours=6)
# Prices come up to a day late, so that a day and the period are computed again.
BACK: Final = timedelta(hours=30)

# Changes and deviations look back at whatever the clean series holds, gaps filled; the row itself
# stands on a price that was seen. `real` rounds 0.95 to a little less than it is.
PUT_FEATURES: Final = """
    WITH spread AS (
        SELECT pool_id, bucket_at, price_nanousd, confidence,
               CASE WHEN count(*) OVER frame >= 2
                    THEN stddev_pop(price_nanousd / 1e9::float8) OVER frame
               END AS sigma
          FROM clean_prices
         WHERE bucket_at >= $1::timestamptz - $3::interval
           AND bucket_at < $2
        WINDOW frame AS (PARTITION BY pool_id ORDER BY bucket_at
                         RANGE BETWEEN ($3::interval - $6::interval) PRECEDING AND CURRENT ROW)),
    ranked AS (
        SELECT s.pool_id, s.bucket_at, s.price_nanousd, s.confidence, s.sigma,
               rank() OVER (PARTITION BY p.region, p.instance_type, s.bucket_at
                            ORDER BY s.price_nanousd) AS place
          FROM spread s
          JOIN pools p ON p.id = s.pool_id
         WHERE s.bucket_at >= $1)
    INSERT INTO price_features AS f (pool_id, bucket_at, price_nanousd, hour, weekday, change_1h,
                                     change_24h, sigma_6h, price_rank)
    SELECT r.pool_id, r.bucket_at, r.price_nanousd,
           extract(hour FROM r.bucket_at AT TIME ZONE 'UTC'),
           extract(isodow FROM r.bucket_at AT TIME ZONE 'UTC') - 1,
           r.price_nanousd::float8 / h.price_nanousd - 1,
           r.price_nanousd::float8 / d.price_nanousd - 1,
           r.sigma, r.place
      FROM ranked r
      LEFT JOIN clean_prices h ON h.pool_id = r.pool_id AND h.bucket_at = r.bucket_at - $4::interval
      LEFT JOIN clean_prices d ON d.pool_id = r.pool_id AND d.bucket_at = r.bucket_at - $5::interval
     WHERE r.confidence >= $7::real
     ORDER BY 1, 2
    ON CONFLICT (pool_id, bucket_at) DO UPDATE
       SET price_nanousd = excluded.price_nanousd,
           change_1h = excluded.change_1h,
           change_24h = excluded.change_24h,
           sigma_6h = excluded.sigma_6h,
           price_rank = excluded.price_rank
     WHERE (f.price_nanousd, f.change_1h, f.change_24h, f.sigma_6h, f.price_rank)
           IS DISTINCT FROM (excluded.price_nanousd, excluded.change_1h, excluded.change_24h,
                             excluded.sigma_6h, excluded.price_rank)
"""


class FeaturesJob:
    """Computes features every six hours, six hours a statement; answers how many rows changed."""

    name = "ml-features"
    period = STEP
    singleton = True

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Compute what is new since the last run, and again what late prices may have changed."""
        async with job_runs.noting_failure(self._db, self.name, now):
            until = rules.bucket(now) + rules.BUCKET
            total, frm = 0, until - BACK
            while frm < until:
                total += await self._compute(frm, min(frm + STEP, until), now)
                frm += STEP
            return total

    async def _compute(self, frm: datetime, to: datetime, now: datetime) -> int:
        async with self._db.transaction(ALL_TENANTS) as conn:
            status: str = await conn.execute(
                PUT_FEATURES, frm, to, SIGMA_WINDOW, HOUR, DAY, rules.BUCKET, TRUSTED
            )
            done = int(status.rpartition(" ")[2])
            await job_runs.record(conn, self.name, Counts(done), started_at=now)
        return done
