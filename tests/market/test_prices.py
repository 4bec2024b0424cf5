"""Reading clean prices: the newest, at an instant, over time, ranks, and what is new."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.prices import clean, queries, raw_store, rules, store
from spotplane_server.prices.gap_fill_job import GapFillJob
from spotplane_server.prices.queries import Place
from spotplane_server.prices.raw_store import OnDemand

from tests.market.conftest import REGION, TYPE, Market, minutes, pool, price

DAY = timedelta(hours=24)


async def test_newest_price_has_its_age(market: Market, now: datetime) -> None:
    """Of buckets that are not older than asked; others are absent."""
    await market.history("a", [100, 110], now - minutes(10))
    await market.history("b", [100], now - minutes(90))
    async with market.db.connection(ALL_TENANTS) as conn:
        found = await queries.list_newest(
            conn, [pool("a"), pool("b"), pool("x")], now=now, within=minutes(60)
        )

    assert list(found) == [pool("a")]
    assert (found[pool("a")].price_nanousd, found[pool("a")].observed_at) == (
        110,
        now - minutes(5),
    )


async def test_price_at_an_instant_is_that_of_its_bucket_or_before(
    market: Market, now: datetime
) -> None:
    """Never a later one, and none older than a day."""
    await market.history("a", [100, 110, 120], now - minutes(15))

    async def at(when: datetime) -> int | None:
        async with market.db.connection(ALL_TENANTS) as conn:
            found = await queries.list_at(conn, [pool("a")], at=when)
        return found[pool("a")].price_nanousd if found else None

    assert await at(now - minutes(6)) == 110
    assert await at(now + minutes(60)) == 120
    assert await at(now - minutes(16)) is None
    assert await at(now + DAY) is None


async def test_book_carries_prices_for_a_day_and_on_demand_for_ever(
    market: Market, now: datetime
) -> None:
    """A missing bucket has the newest price before it; on demand holds until the next change."""
    start = now - timedelta(days=3)
    await market.history("a", [100, None, 120], start)
    kind = REGION, TYPE
    async with market.db.transaction(ALL_TENANTS) as conn:
        for told in (
            OnDemand(TYPE, start - timedelta(days=9), 900),
            OnDemand(TYPE, start, 900),  # no change: no row
            OnDemand(TYPE, start + minutes(7), 1000),
        ):
            await raw_store.append_on_demand(conn, REGION, [told])
        count = await conn.fetchval("SELECT count(*) FROM on_demand_price_history")
        book = await queries.book(conn, [pool("a"), pool("x")], [kind], start + minutes(5), now)

    assert count == 2
    assert book.spot(pool("a"), start + minutes(6)) == 100
    assert book.spot(pool("a"), start + minutes(11)) == 120
    assert book.spot(pool("a"), start + minutes(10) + DAY) == 120
    assert book.spot(pool("a"), start + minutes(16) + DAY) is None
    assert book.spot(pool("x"), start) is None
    assert book.on_demand(*kind, start + minutes(6)) == 900
    assert book.on_demand(*kind, now) == 1000
    assert book.on_demand(REGION, "none", now) is None


async def test_on_demand_price_falls_back(market: Market, now: datetime) -> None:
    """To 0.0416 dollars; an older observation changes nothing."""
    async with market.db.transaction(ALL_TENANTS) as conn:
        for at, told in ((now, 900), (now - minutes(5), 800)):
            await raw_store.append_on_demand(conn, REGION, [OnDemand(TYPE, at, told)])

        found = await queries.list_on_demand(conn, [(REGION, TYPE), (REGION, "none")])

    assert found == {(REGION, TYPE): 900, (REGION, "none"): 41_600_000}


async def test_rank_is_by_price_within_type_and_region(market: Market, now: datetime) -> None:
    """1 is the cheapest; equals share a place."""
    for zone, value in (("a", 200), ("b", 100), ("c", 200), ("d", 300)):
        await market.history(zone, [value], now - minutes(5))
    async with market.db.connection(ALL_TENANTS) as conn:
        found = await queries.list_ranks(conn, REGION, TYPE, now=now)

    assert found == {pool("a"): 2, pool("b"): 1, pool("c"): 2, pool("d"): 4}


async def test_candidates_come_with_clean_prices(market: Market, now: datetime) -> None:
    """Not with what was told last; a pool of which nothing is clean yet has what was told."""
    await market.history("a", [100], now)
    await market.tell([price("a", 999, now + minutes(1), "unknown")], now)
    await market.pipeline.run_once(now)
    await market.tell([price("b", 300, now)], now)
    async with market.db.connection(ALL_TENANTS) as conn:
        found = await store.list_pools(conn, REGION, TYPE, now=now)

    assert [(one.az, one.price_nanousd, one.price_observed_at) for one in found] == [
        ("a", 100, now),
        ("b", 300, now),
    ]


async def read_all(market: Market, after: Place, limit: int = 2) -> list[tuple[str, int]]:
    """Everything new after a place, by pages."""
    found: list[tuple[str, int]] = []
    async with market.db.connection(ALL_TENANTS) as conn:
        while page := await queries.list_clean_since(conn, after, limit):
            found += [(one.pool_id, one.price_nanousd) for one in page]
            after = page[-1].place
    return found


async def test_news_are_read_once_and_in_order(market: Market, now: datetime) -> None:
    """Interpolated prices are no news; a price that is replaced is news again."""
    await market.history("a", [100, None, 120], now - minutes(15))
    await GapFillJob(market.db).fill(now - DAY, now, now)
    assert await read_all(market, Place()) == [(pool("a"), 100), (pool("a"), 120)]
    async with market.db.connection(ALL_TENANTS) as conn:
        head = await queries.read_head(conn)
    assert await read_all(market, head) == []

    await market.history("b", [300, 310, 320], now - minutes(15), "unknown")
    await market.history("b", [301], now - minutes(15))

    assert await read_all(market, head) == [(pool("b"), 310), (pool("b"), 320), (pool("b"), 301)]


async def test_reader_never_skips_what_commits_late(market: Market, now: datetime) -> None:
    """Writers take turns, so nobody's place lies before that of a transaction still open."""
    await market.tell([price("a", 100, now)], now)
    async with market.db.transaction(ALL_TENANTS) as slow:
        await clean.take(slow, await clean.next_revision(slow), limit=10)
        await market.tell([price("b", 200, now)], now)
        quick = asyncio.create_task(market.pipeline.run_once(now))
        async with market.db.connection(ALL_TENANTS) as conn:
            head = await queries.read_head(conn)
            assert await queries.list_clean_since(conn, Place(), 10) == []
    await quick

    assert await read_all(market, head) == [(pool("a"), 100), (pool("b"), 200)]


def test_bucket_is_the_floor_to_five_minutes() -> None:
    """Of UTC, whatever the zone of the instant."""
    at = datetime.fromisoformat("2026-03-01T14:04:59.9+02:30")
    assert rules.bucket(at) == datetime.fromisoformat("2026-03-01T11:30:00+00:00")
