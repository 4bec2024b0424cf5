"""What is kept stays within bounds, and work is done once for all who wait for it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from spotplane_server.kernel.caches import ENTRY_BYTES, SingleFlight, TTLCache

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
LIFETIME: Final = timedelta(seconds=30)


def test_the_longest_unused_goes_first() -> None:
    """A hit counts as use."""
    kept = TTLCache(3 * (ENTRY_BYTES + 10), LIFETIME)
    for key in (b"a", b"b", b"c"):
        kept.put(key, b"0123456789", NOW)
    kept.get(b"a", NOW)

    kept.put(b"d", b"0123456789", NOW)

    assert [key for key in (b"a", b"b", b"c", b"d") if kept.get(key, NOW)] == [b"a", b"c", b"d"]


def test_size_stays_within_bounds_whatever_comes() -> None:
    """Of equal keys, too, and without counting anything twice."""
    kept = TTLCache(10_000, LIFETIME)
    for n in range(2000):
        kept.put(b"%d" % (n % 50), b"x" * (n * 37 % 3000), NOW)
        assert kept.size <= 10_000
    for n in range(50):
        kept.get(b"%d" % n, NOW + LIFETIME)

    assert (len(kept), kept.size) == (0, 0)


def test_what_is_larger_than_all_is_not_kept() -> None:
    """And takes nothing else's place, but its own older value's."""
    kept = TTLCache(2 * ENTRY_BYTES, LIFETIME)
    kept.put(b"a", b"small", NOW)
    kept.put(b"b", b"small", NOW)

    kept.put(b"a", b"x" * 2 * ENTRY_BYTES, NOW)

    assert kept.get(b"a", NOW) is None
    assert kept.get(b"b", NOW) is not None


def test_nothing_is_told_after_its_lifetime() -> None:
    """To the instant."""
    kept = TTLCache(10_000, LIFETIME)
    kept.put(b"a", b"x", NOW)

    assert kept.get(b"a", NOW + LIFETIME - timedelta(microseconds=1)) == b"x"
    assert kept.get(b"a", NOW + LIFETIME) is None


class Work:
    """Work that ends when told to."""

    def __init__(self) -> None:
        self.started = 0
        self.broken_off = 0
        self.result: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.started += 1
        try:
            return await asyncio.shield(self.result)
        except asyncio.CancelledError:
            self.broken_off += 1
            raise


async def waiting(flights: SingleFlight[str], work: Work, count: int) -> list[asyncio.Task[str]]:
    """So many callers, all of whom have begun to wait."""
    tasks = [asyncio.create_task(flights.once(b"k", work)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_work_is_done_once_for_all_who_wait() -> None:
    """And again for whoever comes after it."""
    flights, work = SingleFlight[str](), Work()
    tasks = await waiting(flights, work, 5)
    work.result.set_result("done")

    assert await asyncio.gather(*tasks) == ["done"] * 5
    assert work.started == 1
    assert await flights.once(b"k", work) == "done"
    assert work.started == 2


async def test_one_who_leaves_takes_nothing_from_the_others() -> None:
    """Even the one for whom the work began."""
    flights, work = SingleFlight[str](), Work()
    first, *others = await waiting(flights, work, 3)

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.result.set_result("done")

    assert await asyncio.gather(*others) == ["done"] * 2
    assert (work.started, work.broken_off) == (1, 0)


async def test_work_ends_with_the_last_who_waits_and_begins_anew_for_the_next() -> None:
    """Nobody joins what is being cancelled."""
    flights, work = SingleFlight[str](), Work()
    tasks = await waiting(flights, work, 2)

    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    [again] = await waiting(flights, work, 1)
    work.result.set_result("done")

    assert await again == "done"
    assert (work.started, work.broken_off) == (2, 1)


async def test_all_who_wait_learn_of_a_failure_and_the_next_tries_again() -> None:
    """A failure is not kept."""
    flights, work = SingleFlight[str](), Work()
    tasks = await waiting(flights, work, 2)
    work.result.set_exception(ValueError("broken"))

    told = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(one) for one in told] == [ValueError] * 2
    assert not flights.under_way(b"k")
