"""A semaphore that serves owners round-robin, so that no tenant waits for another's backlog.

A stream reads a few chunks ahead and then waits here, so HTTP/2 flow control slows its sender down
and nothing accumulates in the server. Batches of one tenant would wait for each other in the
database anyway, because they update the same rollups, and each would hold a connection meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

from spotplane_server.kernel import metrics

# While one batch is stored, another one is prepared or committed.
MAX_PER_OWNER: Final = 2

_Waiting: TypeAlias = "OrderedDict[str, deque[asyncio.Future[None]]]"


class FairSemaphore:
    """Admits at most ``slots`` holders, and at most ``MAX_PER_OWNER`` of one owner.

    Args:
        slots: At least 1; below the size of the connection pool, so that queries find a connection.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._running: Counter[str] = Counter()
        # Owners in the order in which they are served next.
        self._waiting: _Waiting = OrderedDict()

    @asynccontextmanager
    async def acquire(self, owner: str) -> AsyncIterator[None]:
        """Wait for a slot for ``owner`` and hold it for the block."""
        if self._has_room(owner):
            self._running[owner] += 1
        else:
            await self._wait(owner)
        try:
            yield
        finally:
            self._release(owner)

    def _has_room(self, owner: str) -> bool:
        return self._running.total() < self._slots and self._running[owner] < MAX_PER_OWNER

    async def _wait(self, owner: str) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(waiter)
        metrics.USAGE_WAITING.inc()
        try:
            await waiter
        except asyncio.CancelledError:
            # It may have been given its slot just before.
            if waiter.done() and not waiter.cancelled():
                self._release(owner)
            raise
        finally:
            metrics.USAGE_WAITING.dec()

    def _release(self, owner: str) -> None:
        self._running[owner] -= 1
        if not self._running[owner]:
            del self._running[owner]
        while (waiter := self._next_waiter()) is not None:
            waiter.set_result(None)

    def _next_waiter(self) -> asyncio.Future[None] | None:
        """Return the waiter to serve now, already counted as running; None without room."""
        for owner in list(self._waiting):
            if not self._has_room(owner):
                continue
            queue = self._waiting.pop(owner)
            while queue:
                waiter = queue.popleft()
                if not waiter.done():
                    self._running[owner] += 1
                    if queue:
                        self._waiting[owner] = queue  # at the end: other owners are served first
                    return waiter
        return None
