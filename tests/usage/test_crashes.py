"""A crash between any two statements loses nothing and counts nothing twice."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import pytest
from spotplane_server.kernel.db import AWAY, Database
from spotplane_server.kernel.transactions import TransactionLost
from spotplane_server.usage import mending, totals
from spotplane_server.usage.ingest import ingest
from spotplane_server.usage.mending import Wrong
from spotplane_server.usage.windows import Window

from tests.support.crashes import crash_everywhere, crashing
from tests.support.eventually import eventually
from tests.usage.world import Owner, World, hour_of, record

NOW: Final = datetime.now(UTC)
MONTH: Final = Window(
    hour_of(NOW).replace(hour=0) - timedelta(days=30),
    hour_of(NOW).replace(hour=0) + timedelta(days=1),
)
MONTHS: Final = """
    SELECT inhrelid::regclass::text AS name
      FROM pg_inherits
     WHERE inhparent = 'usage_records'::regclass
"""
SPOIL: Final = "UPDATE usage_rollup_daily SET requests = requests + 1 WHERE tenant_id = $1"


def batch(count: int = 7) -> list[Any]:
    """Records of two hours, days and models."""
    return [
        record(
            f"r{n}",
            NOW - timedelta(hours=25 * (n % 2)),
            model=("llama-3-70b", "mistral-7b")[n % 2],
            latency_ms=n,
        )
        for n in range(count)
    ]


async def wrong(db: Database, owner: Owner) -> Wrong:
    async with db.transaction(owner.id, isolation="repeatable_read", readonly=True) as conn:
        return await mending.count_wrong(conn, owner.id, MONTH, NOW)


async def stored(world: World, owner: Owner) -> int:
    found: int = await world.conn.fetchval(
        "SELECT count(*) FROM usage_records WHERE tenant_id = $1", owner.id
    )
    return found


async def test_ingest_that_crashes_anywhere_can_be_sent_again(
    database_url: str, db: Database, world: World
) -> None:
    """All of it or nothing is there, sums equal records, and the resend makes it whole."""
    records = batch()
    owners: list[Owner] = [await world.tenant()]

    async def send(through: Database) -> None:
        await ingest(through, owners[-1].id, None, records, NOW)

    async def check() -> None:
        owner = owners[-1]
        assert await stored(world, owner) in {0, len(records)}
        assert await wrong(db, owner) == Wrong()
        again = await ingest(db, owner.id, None, records, NOW)
        assert (again.accepted + again.duplicates, again.rejected) == (len(records), 0)
        assert await stored(world, owner) == len(records)
        assert await wrong(db, owner) == Wrong()
        owners.append(await world.tenant())

    crashes = await crash_everywhere(database_url, send, check)
    assert crashes >= 10


async def test_mending_that_crashes_anywhere_can_be_done_again(
    database_url: str, db: Database, world: World
) -> None:
    """The sums are as wrong as they were, or right."""
    owner = await world.tenant()
    await ingest(db, owner.id, None, batch(), NOW)
    await world.conn.execute(SPOIL, owner.id)
    spoilt = await wrong(db, owner)

    async def mend(through: Database) -> None:
        async with through.transaction(owner.id, isolation="repeatable_read") as conn:
            await mending.mend(conn, owner.id, MONTH, NOW)

    async def check() -> None:
        if await wrong(db, owner) != spoilt:
            assert await wrong(db, owner) == Wrong()
            await world.conn.execute(SPOIL, owner.id)

    assert await crash_everywhere(database_url, mend, check) >= 6
    await mend(db)
    assert await wrong(db, owner) == Wrong()


async def test_kill_9_of_the_database_loses_nothing_acknowledged(
    database_url: str, world: World
) -> None:
    """PostgreSQL recovers from its log: what was answered is there, what was under way is not."""
    owner = await world.tenant()
    async with crashing(database_url, None) as (db, _):
        await ingest(db, owner.id, None, batch(3), NOW)
    witness = await asyncpg.connect(database_url)
    async with crashing(database_url, None) as (db, crash):
        with pytest.raises(TransactionLost):
            await _spoil(db, owner, crash.backend)

    # Until all were cut off a new connection may still be had, which dies with the others.
    await eventually(witness.is_closed)
    found: Any = await eventually(lambda: _connected(database_url), within=30)
    try:
        again = World(found)
        assert await stored(again, owner) == 3
        async with crashing(database_url, None) as (db, _):
            assert await wrong(db, owner) == Wrong()
            assert (await ingest(db, owner.id, None, batch(3), NOW)).duplicates == 3
    finally:
        await found.close()


async def _spoil(db: Database, owner: Owner, backend: int) -> None:
    """Kill the database between two statements of a transaction."""
    async with db.transaction(owner.id) as conn:
        await conn.execute(SPOIL, owner.id)
        os.kill(backend, signal.SIGKILL)
        await conn.execute(SPOIL, owner.id)


async def _connected(url: str) -> Any:
    try:
        return await asyncpg.connect(url)
    except (asyncpg.PostgresError, *AWAY):
        return None


async def test_sums_outlive_the_records(db: Database, world: World) -> None:
    """Dropping the months of raw records changes no answer that is made of sums."""
    owner = await world.tenant()
    await ingest(db, owner.id, None, batch(), NOW)
    window = Window(MONTH.start, MONTH.end)

    async def answer() -> list[Any]:
        async with db.transaction(owner.id, isolation="repeatable_read", readonly=True) as conn:
            found = await totals.sum_models(
                conn, owner.id, window, order="requests", latencies=True
            )
        return [(total.sums, total.latencies.tolist()) for total in found]

    before = await answer()
    for month in await world.conn.fetch(MONTHS):
        await world.conn.execute(f"DROP TABLE {month['name']}")
    assert await answer() == before
