"""Reads ahead on a stream and returns the buffered messages as one batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from spotplane_server.kernel.background_task import task_scope

T = TypeVar("T")


@asynccontextmanager
async def read_ahead(source: AsyncIterator[T], most: int) -> AsyncIterator[AsyncIterator[list[T]]]:
    """Read a stream within the block, at most ``most`` items ahead of who takes them.

    Args:
        source: The stream; flow control holds back its sender while nobody takes what was read.
        most: Items handed over at once.

    Yields:
        Lists of 1..most items in their order, all that have come in by then. What the stream
        raises follows after the last of them.
    """
    items: deque[T] = deque()
    came, left = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        try:
            async for item in source:
                while len(items) >= most:
                    left.clear()
                    await left.wait()
                items.append(item)
                came.set()
        finally:
            came.set()

    async def hand_over(reading: asyncio.Task[None]) -> AsyncIterator[list[T]]:
        while True:
            await came.wait()
            came.clear()
            ended = reading.done()
            found = list(items)
            items.clear()
            left.set()
            if found:
                yield found
            if ended:
                return

    async with task_scope(read(), "gather") as reading:
        yield hand_over(reading)
