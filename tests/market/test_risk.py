"""risk-v1: interruptions of 30 days, and a price that rises."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.prices import risk, scores, store, volatility
from spotplane_server.prices.risk import Risk, risk_v1
from spotplane_server.prices.scores import PoolRiskJob

from tests.market.conftest import Market, minutes, pool


@pytest.mark.parametrize(
    ("interruptions", "prices", "expected"),
    [
        (0, [], 0.0),
        (0, [100], 0.0),
        (3, [100], 0.1),
        (0, [100, 150], 0.15),
        (0, [100, 50], 0.0),  # a falling price is no risk
        (0, [100, 500], 0.3),  # doubled or more is all that a price can add
        (15, [100, 90, 200], 0.8),
        (40, [100, 200], 1.0),
    ],
)
def test_risk(interruptions: int, prices: list[int], expected: float) -> None:
    """As the formula says it."""
    assert risk_v1(interruptions, prices).value == pytest.approx(expected)


@given(st.integers(0, 100), st.lists(st.integers(1, 10**11), max_size=10))
def test_risk_stays_within_0_and_1(interruptions: int, prices: list[int]) -> None:
    """And never falls with one more interruption."""
    found = risk_v1(interruptions, prices).value
    assert 0 <= found <= risk_v1(interruptions + 1, prices).value <= 1


async def test_risk_is_of_the_last_ten_clean_buckets_and_thirty_days(
    market: Market, now: datetime
) -> None:
    """Several pools at once; a pool that nobody knows has none."""
    start = now - 11 * minutes(5)
    await market.history("a", [1_000, *[100] * 9, 120], start)
    async with market.db.transaction(ALL_TENANTS) as conn:
        for number, age in enumerate((1, 29, 31)):
            await store.record_interruption(conn, pool("a"), f"i-{number}", now - timedelta(age))
        await store.record_interruption(conn, pool("a"), "i-0", now)

        found = await risk.assess(conn, [pool("a"), pool("x")], now=now)

    risen = found[pool("a")]
    assert risen.interruptions == 2
    assert risen.price_change == pytest.approx(0.2)
    assert risen.value == pytest.approx(2 / 30 + 0.06)
    assert found[pool("x")] == Risk(0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("pool_risk", "spread", "points", "name"),
    [
        (0.0, None, 100.0, "safe"),
        (0.0, 1.0, 70.0, "safe"),
        (0.1, 1.0, 63.0, "caution"),
        (0.5, 5.0, 35.0, "avoid"),
        (1.0, 1.0, 0.0, "avoid"),
    ],
)
def test_score(pool_risk: float, spread: float | None, points: float, name: str) -> None:
    """As the formula says it; 70 is safe and 40 is caution."""
    assert scores.score(pool_risk, spread) == pytest.approx(points)
    assert scores.class_of(round(points, 6)) == name
    assert scores.class_of(40.0) == "caution"


async def test_pools_are_scored_once_a_quarter(market: Market, now: datetime) -> None:
    """Twice in a quarter of an hour is once; each quarter is a row."""
    await market.history("a", [100, 300], now - minutes(10))
    job = PoolRiskJob(market.db)
    at = now.replace(minute=0)

    assert [await job.run_once(at + minutes(m)) for m in (0, 1, 15)] == [1, 0, 1]

    async with market.db.connection(ALL_TENANTS) as conn:
        rows = await conn.fetch("SELECT score, class, volatility FROM pool_scores")
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("spread", "name"),
    [
        (None, "unknown"),
        (0.0499, "very_low"),
        (0.05, "low"),
        (0.0999, "low"),
        (0.10, "medium"),
        (0.1999, "medium"),
        (0.20, "high"),
    ],
)
def test_volatility_has_names(spread: float | None, name: str) -> None:
    """Every bound is excluded."""
    assert volatility.category(spread) == name


async def test_spread_of_a_day_and_of_a_week(market: Market, now: datetime) -> None:
    """Population deviation over mean; one price says nothing."""
    await market.history("a", [200, 400], now - timedelta(days=3))
    await market.history("a", [100, 300], now - minutes(10))
    await market.history("b", [100], now - minutes(10))
    async with market.db.connection(ALL_TENANTS) as conn:
        found = await volatility.list_spreads(conn, [pool("a"), pool("b")], now=now)

    assert found[pool("a")].day == pytest.approx(0.5)
    assert found[pool("a")].week == pytest.approx(12_500**0.5 / 250)
    assert found[pool("a")].stability == pytest.approx(1 - 12_500**0.5 / 250)
    assert found[pool("b")] == volatility.Spread(None, None)


@pytest.mark.parametrize(
    ("interruptions", "days", "rate"), [(0, 0.0, 0.0), (1, 0.0, 1.0), (1, 4.0, 0.25), (9, 3.0, 1.0)]
)
def test_interruption_rate(interruptions: int, days: float, rate: float) -> None:
    """Per instance and day, never above 1."""
    assert volatility.interruption_rate(interruptions, days) == rate
