"""Shared reads: concurrent requests share one database query."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final, Generic, TypeAlias, TypeVar

from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database

K = TypeVar("K")
V = TypeVar("V")

# Between reads while several requests wait for each: then one read in a millisecond costs a busy
# server less than one for every other request. A lone caller never waits for it.
GATHER_SECONDS: Final = 0.001

# Reads values for keys, in the order of the keys.
Read: TypeAlias = Callable[[Conn, Sequence[K]], Awaitable[Sequence[V]]]


class SharedReads(Generic[K, V]):
    """Reads one value for each request, one statement at a time for all that wait.

    A request joins only a read that starts after the request came, never one that is under way. So
    any number of requests uses one connection.

    Args:
        db: The database.
        read: The statement.
        seconds: Longest wait for a connection.
    """

    def __init__(self, db: Database, read: Read[K, V], seconds: float) -> None:
        self._db = db
        self._read = read
        self._seconds = seconds
        # One future for each request and not one for all: a request that is cancelled must not take
        # the others with it, and shielding costs more than a future.
        self._next: list[tuple[K, asyncio.Future[V]]] = []
        self._reading: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V:
        """The value of a key, read after this call began.

        Raises:
            Unavailable: The database is away.
        """
        waiting: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._next.append((key, waiting))
        if self._reading is None:
            self._reading = asyncio.create_task(self._run())
        try:
            return await waiting
        finally:
            # An error's traceback holds this frame, which must not hold the error.
            del waiting

    async def _run(self) -> None:
        while batch := self._take():
            try:
                # While requests keep coming the connection is kept, so that none waits for one.
                async with AsyncExitStack() as stack:
                    async with asyncio.timeout(self._seconds):
                        conn = await stack.enter_async_context(self._db.connection(ALL_TENANTS))
                    while batch:
                        values = await self._read(conn, [key for key, _ in batch])
                        for (_, waiting), value in zip(batch, values, strict=True):
                            if not waiting.done():
                                waiting.set_result(value)
                        if len(batch) > 1:
                            await asyncio.sleep(GATHER_SECONDS)
                        batch = self._take()
            except BaseException as err:
                # Those who came meanwhile would wait as long for the same.
                for _, waiting in (*batch, *self._take()):
                    if not waiting.done():
                        waiting.set_exception(err)
                        waiting.exception()  # retrieved: the request may have ended
            # As in `get`.
            batch, waiting = [], None  # type: ignore[assignment]
        self._reading = None

    def _take(self) -> list[tuple[K, asyncio.Future[V]]]:
        batch, self._next = self._next, []
        return batch
