"""Fixtures of the tests of the market."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.jobs.notify import Notifier
from spotplane_server.prices import raw_store, rules, store
from spotplane_server.prices.pipeline import PipelineJob
from spotplane_server.prices.raw_store import Raw
from spotplane_server.prices.rules import Source

TYPE, REGION = "g5.xlarge", "us-east-1"
LIST_CLEAN = """
    SELECT pool_id, bucket_at, price_nanousd, source, confidence
      FROM clean_prices
"""


@pytest.fixture
def now() -> datetime:
    """The start of a bucket some seconds or minutes ago."""
    return rules.bucket(datetime.now(UTC))


class Market:
    """A market of one type and region, spoken to without agents."""

    def __init__(self, db: Database, database_url: str) -> None:
        self.db = db
        self.pipeline = PipelineJob(db, Notifier(database_url, "test"))

    async def tell(self, rows: Sequence[Raw], now: datetime) -> None:
        """Report prices, as one report."""
        async with self.db.transaction(ALL_TENANTS) as conn:
            await store.put_spot_prices(conn, REGION, rows, now=now)
            await raw_store.append(conn, rows, agent_id=None, now=now)

    async def clean(self) -> dict[tuple[str, datetime], tuple[int, str, float]]:
        """What is clean, by pool and bucket."""
        async with self.db.connection(ALL_TENANTS) as conn:
            rows = await conn.fetch(LIST_CLEAN)
        return {
            (row["pool_id"], row["bucket_at"]): (
                row["price_nanousd"],
                row["source"],
                round(row["confidence"], 4),
            )
            for row in rows
        }

    async def history(
        self, zone: str, prices: Sequence[int | None], start: datetime, source: Source = "primary"
    ) -> None:
        """Prices of a zone bucket by bucket, None for a missing one, all of them made clean."""
        rows = [
            price(zone, value, start + number * rules.BUCKET, source)
            for number, value in enumerate(prices)
            if value is not None
        ]
        await self.tell(rows, start + len(prices) * rules.BUCKET)
        await self.pipeline.run_once(start)


def price(
    zone: str,
    nanousd: int,
    at: datetime,
    source: Source = "primary",
    submission: str | None = None,
) -> Raw:
    """A raw price in a zone."""
    return Raw(
        f"{TYPE}.{zone}",
        TYPE,
        zone,
        nanousd,
        at,
        source,
        submission or f"{zone}-{at.timestamp()}-{source}-{nanousd}",
    )


def pool(zone: str) -> str:
    """A zone's pool."""
    return f"{TYPE}.{zone}"


def minutes(count: float) -> timedelta:
    """A span."""
    return timedelta(minutes=count)


@pytest.fixture
def market(db: Database, database_url: str) -> Market:
    """A market without agents."""
    return Market(db, database_url)
