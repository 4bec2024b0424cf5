"""What came in meanwhile is handed over together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from spotplane_server.kernel.rpc.read_ahead import read_ahead

from tests.support.eventually import eventually


class Sender:
    """A stream of numbers that notes how far it was read; it fails after the last, if told to."""

    def __init__(self, count: int, failure: Exception | None = None) -> None:
        self.count = count
        self.failure = failure
        self.sent = 0

    async def stream(self) -> AsyncIterator[int]:
        """One number after the other."""
        for number in range(self.count):
            self.sent += 1
            yield number
        if self.failure is not None:
            raise self.failure


async def test_all_are_handed_over_once_and_in_order() -> None:
    """However fast they are taken."""
    taken = []
    async with read_ahead(Sender(100).stream(), 4) as batches:
        async for batch in batches:
            assert 1 <= len(batch) <= 4
            taken += batch
            await asyncio.sleep(0)
    assert taken == list(range(100))


async def test_nothing_is_handed_over_of_nothing() -> None:
    """An empty stream ends at once."""
    async with read_ahead(Sender(0).stream(), 4) as batches:
        assert [batch async for batch in batches] == []


async def test_what_came_meanwhile_comes_together_and_the_rest_waits() -> None:
    """One more than may wait is read, which flow control then holds back behind it."""
    sender = Sender(100)
    async with read_ahead(sender.stream(), 4) as batches:
        await eventually(lambda: sender.sent == 5)
        await asyncio.sleep(0.05)
        assert sender.sent == 5
        assert await anext(batches) == [0, 1, 2, 3]
        await eventually(lambda: sender.sent == 9)


async def test_failure_of_the_stream_follows_its_last_item() -> None:
    """Nothing that came before it is lost."""
    taken = []

    async def take() -> None:
        async with read_ahead(Sender(3, ValueError("broken")).stream(), 4) as batches:
            async for batch in batches:
                taken.extend(batch)

    with pytest.raises(ValueError, match="broken"):
        await take()
    assert taken == [0, 1, 2]


async def test_leaving_ends_the_reading() -> None:
    """Whoever has enough leaves nothing running."""
    before = asyncio.all_tasks()
    async with read_ahead(Sender(100).stream(), 2) as batches:
        await anext(batches)
    assert asyncio.all_tasks() == before
