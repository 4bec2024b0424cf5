"""The outbox read in commit order: nothing skipped, however late it commits."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

from spotplane_server import events
from spotplane_server.events import store
from spotplane_server.kernel.db.database import ALL_TENANTS, Database

from tests.support.eventually import eventually


async def append(conn: object, name: str) -> None:
    """Write an event called ``name``."""
    event = events.Event(name, "thing", {})
    await events.append(conn, event, datetime.now(UTC))  # type: ignore[arg-type]


async def read(db: Database, cursor: tuple[int, int] = (0, 0)) -> list[store.Row]:
    """What may be read after a cursor."""
    async with db.connection(ALL_TENANTS) as conn:
        return list(await store.list_after(conn, cursor, limit=1000))


async def shown(db: Database, wanted: list[str], after: tuple[int, int] = (0, 0)) -> None:
    """Wait until exactly these are shown; any writer of the cluster may hold them back a while."""

    async def same() -> bool:
        return [row.event_type for row in await read(db, after)] == wanted

    await eventually(same)


async def test_later_event_waits_for_an_earlier_one_that_is_not_committed(db: Database) -> None:
    """A reader that went ahead would skip the earlier one for good."""
    async with db.transaction(ALL_TENANTS) as early:
        await append(early, "early")
        async with db.transaction(ALL_TENANTS) as late:
            await append(late, "late")
        assert await read(db) == []

    await shown(db, ["early", "late"])


async def test_age_of_the_oldest_event_that_waits_is_known(db: Database) -> None:
    async with db.transaction(ALL_TENANTS) as early:
        await append(early, "early")
        async with db.transaction(ALL_TENANTS) as late:
            await append(late, "late")
        async with db.connection(ALL_TENANTS) as conn:
            assert await store.held_for(conn) > timedelta()

    async def none_waits() -> bool:
        async with db.connection(ALL_TENANTS) as conn:
            return await store.held_for(conn) == timedelta()

    await eventually(none_waits)


async def test_event_of_a_transaction_that_fails_never_was(db: Database) -> None:
    """Events are written in the transaction of their cause."""
    try:
        async with db.transaction(ALL_TENANTS) as conn:
            await append(conn, "lost")
            raise RuntimeError
    except RuntimeError:
        pass
    async with db.transaction(ALL_TENANTS) as conn:
        await append(conn, "kept")

    await shown(db, ["kept"])


async def test_events_of_one_transaction_keep_their_order(db: Database) -> None:
    """By the order of writing."""
    async with db.transaction(ALL_TENANTS) as conn:
        for number in range(5):
            await append(conn, f"e{number}")

    await shown(db, [f"e{n}" for n in range(5)])


async def test_reader_that_polls_sees_every_event_once_and_in_order(db: Database) -> None:
    """While writers of all lengths commit in any order."""
    chance = random.Random(7)
    wanted = {f"w{writer}-{n}" for writer in range(4) for n in range(25)}

    async def write(writer: int) -> None:
        for number in range(25):
            async with db.transaction(ALL_TENANTS) as conn:
                await append(conn, f"w{writer}-{number}")
                for _ in range(chance.randrange(4)):
                    await conn.fetchval("SELECT 1")

    writers = asyncio.gather(*(write(writer) for writer in range(4)))
    seen: list[store.Row] = []
    while not writers.done() or len(seen) < len(wanted):
        last = (seen[-1].txid, seen[-1].seq) if seen else (0, 0)
        # Anything that writes in the cluster, an autovacuum even, may hold the last ones back.
        seen += await read(db, last)
    await writers

    assert len(seen) == len(wanted)
    assert {row.event_type for row in seen} == wanted
    for writer in range(4):
        own = [row.event_type for row in seen if row.event_type.startswith(f"w{writer}-")]
        assert own == [f"w{writer}-{n}" for n in range(25)]


async def test_cursor_of_now_misses_nothing_that_is_under_way(db: Database) -> None:
    """An event whose transaction began before, and ends after, is shown."""
    async with db.transaction(ALL_TENANTS) as conn:
        await append(conn, "past")
    async with db.transaction(ALL_TENANTS) as conn:
        await append(conn, "under-way")
        async with db.connection(ALL_TENANTS) as other:
            cursor = await store.head(other)

    await shown(db, ["under-way"], after=cursor)
