"""Tenants are stored in turn."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

from spotplane_server.usage.fair_semaphore import MAX_PER_OWNER, FairSemaphore


class Work:
    """Batches that hold their turn until they are told to end; ``order`` is who got one when."""

    def __init__(self, slots: int) -> None:
        self.turns = FairSemaphore(slots)
        self.order: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def send(self, *names: str) -> None:
        """Start batches; a name's first letter is its owner."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._run(name))
        await settled()

    async def end(self, name: str) -> None:
        """Let a batch end."""
        self._ends[name].set()
        await self._tasks[name]
        await settled()

    async def cancel(self, name: str) -> None:
        """Cut a batch off."""
        self._tasks[name].cancel()
        with suppress(asyncio.CancelledError):
            await self._tasks[name]
        await settled()

    async def _run(self, name: str) -> None:
        async with self.turns.acquire(name[0]):
            self.order.append(name)
            await self._ends[name].wait()


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_tenants_backlog_leaves_room_for_another() -> None:
    """However much it sends, it holds no more than its part."""
    work = Work(slots=4)
    await work.send("a1", "a2", "a3", "a4", "b1")
    assert work.order == ["a1", "a2", "b1"]
    assert MAX_PER_OWNER == 2


async def test_tenants_take_turns() -> None:
    """A free slot goes to the tenant that had none for longest, not to the backlog."""
    work = Work(slots=1)
    await work.send("a1", "a2", "a3", "b1", "b2", "c1")
    for name in ("a1", "a2", "b1", "c1", "a3"):
        await work.end(name)
    assert work.order == ["a1", "a2", "b1", "c1", "a3", "b2"]


async def test_a_batch_that_was_cut_off_gives_its_turn_back() -> None:
    """Whether it ran or waited."""
    work = Work(slots=1)
    await work.send("a1", "b1", "c1", "d1")
    await work.cancel("b1")
    await work.cancel("a1")
    assert work.order == ["a1", "c1"]
    await work.end("c1")
    assert work.order == ["a1", "c1", "d1"]


async def test_a_turn_given_to_one_that_is_cancelled_goes_on() -> None:
    """The turn and the cancellation may come in the same moment."""
    turns = FairSemaphore(1)
    async with AsyncExitStack() as first:
        await first.enter_async_context(turns.acquire("a"))
        waiting = asyncio.create_task(_hold(turns, "b"))
        last = asyncio.create_task(_hold(turns, "c"))
        await settled()
        waiting.get_loop().call_soon(waiting.cancel)
    await asyncio.wait_for(last, 5)


async def _hold(turns: FairSemaphore, owner: str) -> None:
    async with turns.acquire(owner):
        pass
