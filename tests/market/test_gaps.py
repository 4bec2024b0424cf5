"""Gaps of the clean series: which are filled, with what, and how sure that is."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.jobs import daily
from spotplane_server.prices import gap_filling, rules
from spotplane_server.prices.gap_fill_job import GapFillJob
from spotplane_server.prices.gap_filling import Gap

from tests.market.conftest import Market, minutes, pool, price

START = datetime.fromisoformat("2026-03-01T00:00:00+00:00")
CENT = 10_000_000


def known(*prices: int | None) -> dict[datetime, int]:
    """Prices in cents bucket by bucket, None for a missing one."""
    return {
        START + number * rules.BUCKET: value * CENT
        for number, value in enumerate(prices)
        if value is not None
    }


def filled(
    prices: dict[datetime, int], *siblings: dict[datetime, int]
) -> list[tuple[float, float]]:
    """Price in cents and confidence of everything that is filled."""
    return [
        (one.price_nanousd / CENT, one.confidence)
        for gap in gap_filling.find(prices)
        for one in gap_filling.fill(gap, prices, siblings)
    ]


def test_one_or_two_missing_lie_on_a_line() -> None:
    """Between both ends."""
    assert filled(known(10, None, 20)) == [(15, 0.85)]
    assert filled(known(10, None, None, 40)) == [(20, 0.85), (30, 0.85)]


def test_three_to_six_missing_weigh_their_neighbours() -> None:
    """By inverse distance; of up to six within an hour."""
    (first, _), (middle, _), (last, _) = filled(known(10, None, None, None, 20))
    assert middle == 15
    assert first == pytest.approx((10 / 1 + 20 / 3) / (1 + 1 / 3), abs=1e-4)
    assert last == pytest.approx((10 / 3 + 20 / 1) / (1 + 1 / 3), abs=1e-4)
    assert {confidence for _, confidence in filled(known(1, *[None] * 6, 1))} == {0.75}


def test_only_the_six_nearest_within_an_hour_count() -> None:
    """What lies further off, or behind six nearer ones, changes nothing."""
    near = known(*[10] * 12, None, None, None, 20, 20, 20)
    far = {START - minutes(5): 900 * CENT, **near}

    assert filled(near) == filled(far)


def test_longer_gaps_follow_the_siblings() -> None:
    """The last price, changed as the median of the siblings since then."""
    alone = known(10, *[None] * 7, 99)
    assert filled(alone) == [(10, 0.70)] * 7

    doubled, tripled = known(*[100] + [200] * 8), known(*[10] + [30] * 8)
    halved = known(*[40] + [20] * 8)
    assert filled(alone, doubled) == [(20, 0.70)] * 7
    assert filled(alone, doubled, tripled) == [(25, 0.70)] * 7
    assert filled(alone, doubled, tripled, halved) == [(20, 0.70)] * 7


def test_what_is_too_long_or_open_stays_open() -> None:
    """25 missing buckets, or an end that is not known."""
    assert len(filled(known(10, *[None] * 24, 20))) == 24
    assert filled(known(10, *[None] * 25, 20)) == []
    assert filled(known(None, 10, None)) == []


@given(st.lists(st.none() | st.integers(1, 10_000), max_size=60))
def test_filled_prices_are_new_and_possible(prices: list[int | None]) -> None:
    """Nothing known is touched; what is filled lies between the ends of time and is above 0."""
    series = known(*prices)
    for gap in gap_filling.find(series):
        ends = {gap.before, gap.after}
        assert ends <= series.keys()
        for one in gap_filling.fill(gap, series, []):
            assert one.bucket_at not in series
            assert gap.before < one.bucket_at < gap.after
            assert rules.acceptable(one.price_nanousd)
            assert one.price_nanousd % gap_filling.MICRO == 0


def test_a_gap_knows_its_buckets() -> None:
    """Both ends excluded."""
    assert list(Gap(START, 2)) == [START + minutes(5), START + minutes(10)]


async def fill(market: Market, now: datetime) -> dict[tuple[str, datetime], tuple[float, str]]:
    """Run the job, and read what is clean: cents and source."""
    await GapFillJob(market.db).fill(now - timedelta(hours=24), now, now)
    return {place: (row[0] / CENT, row[1]) for place, row in (await market.clean()).items()}


async def test_job_fills_and_real_prices_replace(market: Market, now: datetime) -> None:
    """A price that comes late takes the place of what was worked out, and splits its gap."""
    start = now - minutes(60)
    await market.history("a", [10 * CENT, None, None, None, 50 * CENT], start)
    assert (await fill(market, now))[pool("a"), start + minutes(10)] == (30, "interpolated")

    late = price("a", 90 * CENT, start + minutes(10), "unknown")
    await market.tell([late], now)
    await market.pipeline.run_once(now)

    clean = await fill(market, now)
    assert [clean[pool("a"), start + minutes(m)] for m in (5, 10, 15)] == [
        (50, "interpolated"),
        (90, "unknown"),
        (70, "interpolated"),
    ]


async def test_job_does_nothing_twice(market: Market, now: datetime) -> None:
    """And its run leaves a row only when it did something."""
    await market.history("a", [CENT, None, CENT], now - minutes(15))
    job = GapFillJob(market.db)
    day = timedelta(hours=24)

    assert [await job.fill(now - day, now, now) for _ in range(2)] == [1, 0]

    async with market.db.connection(ALL_TENANTS) as conn:
        (row,) = await conn.fetch(
            "SELECT gaps_interpolated FROM pipeline_runs WHERE job = 'gap-fill'"
        )
    assert row["gaps_interpolated"] == 1


@pytest.mark.parametrize("seed", range(3))
async def test_windows_fill_what_all_at_once_would(
    market: Market, now: datetime, seed: int
) -> None:
    """Whatever the window, a gap across its edge is filled as the whole gap says."""
    draw = random.Random(seed)
    start = now - minutes(5 * 120)
    series = {
        zone: [draw.choice([None, None, draw.randint(1, 100) * CENT]) for _ in range(120)]
        for zone in "abc"
    }
    for zone, prices in series.items():
        await market.history(zone, prices, start)
    job, edge = GapFillJob(market.db), start + minutes(5 * draw.randint(30, 90))

    await job.fill(start, edge, now)
    await job.fill(edge, now, now)

    by_pool = {
        pool(zone): {
            start + n * rules.BUCKET: value for n, value in enumerate(prices) if value is not None
        }
        for zone, prices in series.items()
    }
    expected = {
        (name, one.bucket_at): one.price_nanousd
        for name, prices in by_pool.items()
        for gap in gap_filling.find(prices)
        for one in gap_filling.fill(
            gap, prices, [p for other, p in by_pool.items() if other != name]
        )
    }
    clean = await market.clean()
    assert {place: row[0] for place, row in clean.items() if row[1] == "interpolated"} == expected


async def test_old_gaps_are_filled_by_the_daily_pass(market: Market, now: datetime) -> None:
    """From three o'clock on, once a day; between, only the last day is looked at."""
    start = now - timedelta(days=10)
    await market.history("a", [CENT, None, CENT], start)
    job = GapFillJob(market.db)
    today = now.replace(hour=3, minute=0)
    async with market.db.transaction(ALL_TENANTS) as conn:
        await daily.mark_done(conn, "gap-fill-full", (today - timedelta(days=1)).date())

    before, at, again = today - minutes(1), today, today + minutes(5)
    assert [await job.run_once(when) for when in (before, at, again)] == [0, 1, 0]

    assert (await market.clean())[pool("a"), start + minutes(5)][1] == "interpolated"
