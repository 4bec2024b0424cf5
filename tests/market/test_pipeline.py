"""Raw prices become clean by the contract's table, in whatever order and however often told."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime

import asyncpg
import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.prices import clean, rules
from spotplane_server.prices.pipeline import PipelineJob
from structlog.testing import capture_logs

from tests.market import reference
from tests.market.conftest import Market, minutes, pool, price

LIST_RUNS = """
    SELECT status, records_processed, duplicates_removed, backfills_added
      FROM pipeline_runs
     ORDER BY started_at
"""


async def run_row(db: Database) -> tuple[int, int, int]:
    """What the one row of runs says: processed, duplicates, backfills."""
    async with db.connection(ALL_TENANTS) as conn:
        (row,) = await conn.fetch(LIST_RUNS)
    assert row["status"] == "completed"
    return row["records_processed"], row["duplicates_removed"], row["backfills_added"]


async def test_price_lands_in_its_five_minutes(market: Market, now: datetime) -> None:
    """The bucket is that of the time at which it was seen."""
    await market.tell([price("a", 300, now + minutes(4.9))], now + minutes(5))

    assert await market.pipeline.run_once(now) == 1

    assert await market.clean() == {(pool("a"), now): (300, "primary", 1.0)}


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ("primary", "replica-automatic", "primary"),
        ("replica-automatic", "primary", "primary"),
        ("replica-manual", "replica-automatic", "replica-automatic"),
        ("unknown", "replica-manual", "replica-manual"),
        ("unknown", "unknown", "unknown"),
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_who_is_believed_more_replaces(
    market: Market, now: datetime, first: rules.Source, second: rules.Source, kept: str,
    together: bool,
) -> None:  # fmt: skip
    """A higher priority replaces, an equal one leaves the first."""
    rows = [price("a", 300, now, first), price("a", 301, now + minutes(1), second, "later")]
    if together:
        await market.tell(rows, now)
    else:
        for row in rows:
            await market.tell([row], now)
            await market.pipeline.run_once(now)
    await market.pipeline.run_once(now)

    expected = 300 if kept == first else 301
    assert (await market.clean())[pool("a"), now][:2] == (expected, kept)


async def test_the_first_of_equals_is_who_saw_it_first(market: Market, now: datetime) -> None:
    """Not who was heard first: a report that was held up changes nothing of what is true."""
    for row in (price("a", 301, now + minutes(2)), price("a", 300, now + minutes(1))):
        await market.tell([row], now)
        await market.pipeline.run_once(now)

    assert (await market.clean())[pool("a"), now][0] == 300


async def test_same_submission_counts_once(market: Market, now: datetime) -> None:
    """Within a batch and after it; the row of the run says how many there were."""
    row = price("a", 300, now)
    await market.tell([row, row], now)
    await market.pipeline.run_once(now)
    await market.tell([row, price("b", 300, now)], now)
    await market.pipeline.run_once(now)

    assert len(await market.clean()) == 2
    assert await run_row(market.db) == (4, 2, 0)


async def test_late_price_finds_its_place(market: Market, now: datetime) -> None:
    """A bucket of yesterday is filled today, and counted as filled late."""
    await market.tell([price("a", 300, now - minutes(23 * 60))], now)

    await market.pipeline.run_once(now)

    assert await market.clean() == {
        (pool("a"), now - minutes(23 * 60)): (300, "primary", 1.0),
    }
    assert await run_row(market.db) == (1, 0, 1)


async def test_prices_far_apart_are_logged(market: Market, now: datetime) -> None:
    """More than a tenth, whichever is kept; a tenth is not more than a tenth."""
    await market.tell([price("a", 1000, now), price("a", 1101, now, "unknown")], now)
    await market.tell([price("b", 1000, now), price("b", 1100, now, "unknown")], now)
    with capture_logs() as logged:
        await market.pipeline.run_once(now)

    told = [line for line in logged if line["event"] == "prices_disagree"]
    assert [(t["pool_id"], t["kept_nanousd"], t["told_nanousd"]) for t in told] == [
        (pool("a"), 1000, 1101)
    ]


@pytest.mark.parametrize("seed", range(6))
async def test_any_order_and_repetition_gives_the_same_series(
    market: Market, now: datetime, seed: int
) -> None:
    """The series equals that of the contract's rules in plain Python, in whatever batches."""
    draw = random.Random(seed)
    told = [
        price(
            draw.choice("abc"),
            draw.randint(1, 10**9),
            now - minutes(draw.uniform(0, 45)),
            draw.choice(list(rules.CONFIDENCE)),
            f"s{number}",
        )
        for number in range(120)
    ]
    heard = told + draw.sample(told, 60)
    draw.shuffle(heard)
    job = PipelineJob(market.db, market.pipeline._wakeups, batch=draw.choice([1, 7, 50]))
    while heard:
        size = draw.randint(1, 30)
        await market.tell(heard[:size], now)
        heard = heard[size:]
        if draw.random() < 0.5:
            await job.run_once(now)
    await job.run_once(now)

    assert await market.clean() == reference.clean(told)


async def test_a_run_that_dies_has_done_nothing(market: Market, now: datetime) -> None:
    """Neither half a series nor a price that is lost: the next run finds all of it."""
    told = [price("a", 300, now), price("b", 310, now)]
    await market.tell(told, now)

    async def die() -> None:
        async with market.db.transaction(ALL_TENANTS) as conn:
            await clean.take(conn, await clean.next_revision(conn), limit=10)
            await conn.execute("SELECT 1 / 0")

    with pytest.raises(asyncpg.PostgresError):
        await die()
    assert await market.clean() == {}

    await market.pipeline.run_once(now)

    assert await market.clean() == reference.clean(told)


async def test_two_runs_at_once_take_each_price_once(market: Market, now: datetime) -> None:
    """As after a lease that ran out: neither a deadlock nor a price counted twice."""
    told = [price(zone, 300 + n, now + minutes(n)) for n in range(5) for zone in "abc"]
    await market.tell(told, now)

    done = await asyncio.gather(*(market.pipeline.run_once(now) for _ in range(3)))

    assert sum(done) == len(told)
    assert (await run_row(market.db))[:2] == (len(told), 0)
    assert await market.clean() == reference.clean(told)
