"""The price pipeline: raw prices become clean, soon after each report."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import structlog

from spotplane_server.kernel import metrics
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.jobs.notify import Notifier
from spotplane_server.prices import clean, job_runs

log = structlog.get_logger(__name__)

# Hints, after the commit, that there are new clean prices: read them with prices.list_clean_since.
TOPIC: Final = "clean_prices"
BATCH: Final = 10_000


class PipelineJob:
    """Takes what has been reported, batch by batch, each in a transaction with its numbers."""

    name = "price-pipeline"
    # A server that dies holds its lease for two periods; the next one then is within 30 s of the
    # report all the same.
    period = timedelta(seconds=10)
    singleton = True

    def __init__(self, db: Database, wakeups: Notifier, *, batch: int = BATCH) -> None:
        self._db = db
        self._wakeups = wakeups
        self._batch = batch

    async def run_once(self, now: datetime) -> int:
        """Take all that waits; answer how many raw prices that were."""
        async with job_runs.noting_failure(self._db, self.name, now):
            return await self._take_all(now)

    async def _take_all(self, now: datetime) -> int:
        total = 0
        while True:
            async with self._db.connection(ALL_TENANTS) as conn:
                if not await clean.has_pending(conn):
                    return total
            total += await self._take(now)

    async def _take(self, now: datetime) -> int:
        async with self._db.transaction(ALL_TENANTS) as conn:
            revision = await clean.next_revision(conn)
            batch = await clean.take(conn, revision, limit=self._batch)
            await job_runs.record(conn, self.name, batch.counts, started_at=now)
        for pool_id, bucket_at, kept, told in batch.disagreements:
            log.warning(
                "prices_disagree",
                pool_id=pool_id,
                bucket_at=bucket_at,
                kept_nanousd=kept,
                told_nanousd=told,
            )
        if batch.oldest_at is not None:
            metrics.PRICE_LAG.set(max(0.0, (now - batch.oldest_at).total_seconds()))
        if batch.written:
            self._wakeups.signal(TOPIC, "")
        return batch.processed
