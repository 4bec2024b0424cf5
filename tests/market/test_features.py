"""What models learn from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.prices import rules
from spotplane_server.prices.features import FeaturesJob

from tests.market.conftest import Market, minutes, pool, price

LIST = """
    SELECT pool_id, bucket_at, price_nanousd, hour, weekday, change_1h, change_24h, sigma_6h,
           price_rank
      FROM price_features
     ORDER BY pool_id, bucket_at
"""


@pytest.fixture
def now() -> datetime:
    """A few minutes into a bucket."""
    return rules.bucket(datetime.now(UTC)) + minutes(2)


async def test_row_looks_back_an_hour_and_a_day(market: Market, now: datetime) -> None:
    """And ranks the pool among its siblings in the same bucket."""
    at = rules.bucket(now)
    told = [
        price("a", 2_000_000_000, at - timedelta(hours=24)),
        price("a", 1_000_000_000, at - timedelta(hours=1)),
        price("a", 3_000_000_000, at),
        price("b", 1_500_000_000, at),
    ]
    await market.tell(told, now)
    await market.pipeline.run_once(now)

    await FeaturesJob(market.db).run_once(now)

    async with market.db.connection(ALL_TENANTS) as conn:
        rows = {(row["pool_id"], row["bucket_at"]): row for row in await conn.fetch(LIST)}
    assert len(rows) == 4
    row = rows[pool("a"), at]
    assert (row["hour"], row["weekday"]) == (at.hour, at.weekday())
    assert (row["change_1h"], row["change_24h"]) == (2.0, 0.5)
    assert row["sigma_6h"] == pytest.approx(1.0)
    assert (row["price_rank"], rows[pool("b"), at]["price_rank"]) == (2, 1)
    alone = rows[pool("b"), at]
    assert (alone["change_1h"], alone["change_24h"], alone["sigma_6h"]) == (None, None, None)


async def test_only_trusted_prices_are_learned_from(market: Market, now: datetime) -> None:
    """0.95 is enough, 0.5 is not; a second run changes nothing."""
    at = rules.bucket(now)
    await market.tell([price("a", 100, at, "unknown"), price("b", 100, at, "replica-manual")], now)
    await market.pipeline.run_once(now)
    job = FeaturesJob(market.db)

    assert [await job.run_once(now) for _ in range(2)] == [1, 0]


async def test_late_price_changes_what_was_computed(market: Market, now: datetime) -> None:
    """Within the day that prices may be late."""
    at = rules.bucket(now)
    await market.tell([price("a", 200, at)], now)
    await market.pipeline.run_once(now)
    job = FeaturesJob(market.db)
    await job.run_once(now)
    await market.tell([price("a", 100, at - timedelta(hours=1))], now)
    await market.pipeline.run_once(now)

    assert await job.run_once(now) == 2

    async with market.db.connection(ALL_TENANTS) as conn:
        rows = await conn.fetch(LIST)
    assert [row["change_1h"] for row in rows] == [None, 1.0]
