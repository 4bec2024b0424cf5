"""The job that fills gaps of the clean series."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import Final

from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.jobs import daily
from spotplane_server.prices import clean, gap_filling, job_runs, rules
from spotplane_server.prices.gap_filling import Filled, Known
from spotplane_server.prices.job_runs import Counts

WINDOW: Final = timedelta(hours=24)
# Daily, everything that raw prices could still explain.
FULL_AT: Final = time(3, 0)
FULL_WINDOW: Final = timedelta(days=90)
FULL_NAME: Final = "gap-fill-full"

# Types and regions of which a pool has a gap that may be filled.
LIST_WITH_GAPS: Final = """
    SELECT DISTINCT p.region, p.instance_type
      FROM (SELECT pool_id,
                   bucket_at - lag(bucket_at) OVER (PARTITION BY pool_id ORDER BY bucket_at) AS step
              FROM clean_prices
             WHERE bucket_at >= $1
               AND bucket_at < $2
               AND source <> 'interpolated') AS c
      JOIN pools p ON p.id = c.pool_id
     WHERE c.step > $3
       AND c.step <= $4
     ORDER BY 1, 2
"""

LIST_REAL: Final = """
    SELECT c.pool_id, c.bucket_at, c.price_nanousd
      FROM pools p
      JOIN clean_prices c ON c.pool_id = p.id
     WHERE p.region = $1
       AND p.instance_type = $2
       AND c.bucket_at >= $3
       AND c.bucket_at < $4
       AND c.source <> 'interpolated'
"""

# A real price that came meanwhile stays.
PUT_FILLED: Final = """
    INSERT INTO clean_prices AS c (pool_id, bucket_at, price_nanousd, source, confidence,
                                   observed_at, submission_id, revision)
    SELECT f.pool_id, f.bucket_at, f.price, 'interpolated', f.confidence, f.bucket_at, '', $1
      FROM unnest($2::text[], $3::timestamptz[], $4::bigint[], $5::real[])
           AS f (pool_id, bucket_at, price, confidence)
     ORDER BY 1, 2
    ON CONFLICT (pool_id, bucket_at) DO UPDATE
       SET price_nanousd = excluded.price_nanousd,
           confidence = excluded.confidence,
           revision = excluded.revision
     WHERE c.source = 'interpolated'
       AND (c.price_nanousd, c.confidence) <> (excluded.price_nanousd, excluded.confidence)
"""


class GapFillJob:
    """Fills the gaps of the last day every five minutes, and older ones once a day at 03:00 UTC."""

    name = "gap-fill"
    period = timedelta(minutes=5)
    singleton = True

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Fill what can be filled; answer how many prices were worked out or corrected."""
        async with job_runs.noting_failure(self._db, self.name, now):
            async with self._db.connection(ALL_TENANTS) as conn:
                day = await daily.due(conn, FULL_NAME, FULL_AT, now)
            if day is None:
                return await self.fill(now - WINDOW, now, now)
            done = await self.fill_all(now)
            async with self._db.connection(ALL_TENANTS) as conn:
                await daily.mark_done(conn, FULL_NAME, day)
            return done

    async def fill_all(self, now: datetime) -> int:
        """Fill the gaps of the last 90 days, a day at a time."""
        days = range(FULL_WINDOW // WINDOW, 0, -1)
        return sum(
            [await self.fill(now - day * WINDOW, now - (day - 1) * WINDOW, now) for day in days]
        )

    async def fill(self, frm: datetime, to: datetime, now: datetime) -> int:
        """Fill the gaps that reach into [frm, to)."""
        since, until = (
            rules.bucket(frm) - gap_filling.CONTEXT,
            rules.bucket(to) + gap_filling.CONTEXT,
        )
        async with self._db.connection(ALL_TENANTS) as conn:
            kinds = await conn.fetch(
                LIST_WITH_GAPS,
                since,
                until,
                rules.BUCKET,
                (gap_filling.CARRIED + 1) * rules.BUCKET,
            )
        done = 0
        for kind in kinds:
            async with self._db.connection(ALL_TENANTS) as conn:
                known = await _known(conn, kind["region"], kind["instance_type"], since, until)
            done += await self._put(_filled(known, rules.bucket(frm), to), now)
        return done

    async def _put(self, filled: Sequence[tuple[str, Filled]], now: datetime) -> int:
        if not filled:
            return 0
        async with self._db.transaction(ALL_TENANTS) as conn:
            status: str = await conn.execute(
                PUT_FILLED,
                await clean.next_revision(conn),
                [pool_id for pool_id, _ in filled],
                [one.bucket_at for _, one in filled],
                [one.price_nanousd for _, one in filled],
                [one.confidence for _, one in filled],
            )
            done = int(status.rpartition(" ")[2])
            counts = Counts(processed=len(filled), gaps=done) if done else Counts()
            await job_runs.record(conn, self.name, counts, started_at=now)
        return done


async def _known(
    conn: Conn, region: str, instance_type: str, since: datetime, until: datetime
) -> dict[str, Known]:
    known: dict[str, dict[datetime, int]] = defaultdict(dict)
    for row in await conn.fetch(LIST_REAL, region, instance_type, since, until):
        known[row["pool_id"]][row["bucket_at"]] = row["price_nanousd"]
    return dict(known)


def _filled(known: dict[str, Known], frm: datetime, to: datetime) -> list[tuple[str, Filled]]:
    """What all gaps of one type and region hold within [frm, to)."""
    return [
        (pool_id, one)
        for pool_id, prices in known.items()
        for gap in gap_filling.find(prices)
        if gap.after > frm and gap.before < to
        for one in gap_filling.fill(
            gap, prices, [other for name, other in known.items() if name != pool_id]
        )
        if frm <= one.bucket_at < to
    ]
