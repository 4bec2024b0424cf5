"""Whose batch is stored next: tenants in turn, so that none waits for another's backlog.

A stream reads a few chunks ahead and then waits for its turn, so flow control holds its sender
back: nothing piles up in the server. Batches of one tenant would wait for each other in the
database anyway, since they add to the same sums, and each would hold a connection meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

from spotplane_server.kernel import metrics

# One is prepared or committed while the other is being stored.
MAX_OF_ONE: Final = 2

_Waiting: TypeAlias = "OrderedDict[str, deque[asyncio.Future[None]]]"


class Turns:
    """At most ``slots`` batches are stored at once, and of one owner at most ``MAX_OF_ONE``.

    Args:
        slots: At least 1; below the number of connections, so that answers find one.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._running: Counter[str] = Counter()
        # Owners in the order in which it is their turn.
        self._waiting: _Waiting = OrderedDict()

    @asynccontextmanager
    async def take(self, owner: str) -> AsyncIterator[None]:
        """Wait for a turn of ``owner`` and hold it for the block."""
        if self._may_run(owner):
            self._running[owner] += 1
        else:
            await self._wait(owner)
        try:
            yield
        finally:
            self._leave(owner)

    def _may_run(self, owner: str) -> bool:
        return self._running.total() < self._slots and self._running[owner] < MAX_OF_ONE

    async def _wait(self, owner: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        metrics.USAGE_WAITING.inc()
        try:
            await turn
        except asyncio.CancelledError:
            # It may have been given its turn just before.
            if turn.done() and not turn.cancelled():
                self._leave(owner)
            raise
        finally:
            metrics.USAGE_WAITING.dec()

    def _leave(self, owner: str) -> None:
        self._running[owner] -= 1
        if not self._running[owner]:
            del self._running[owner]
        while (following := self._next()) is not None:
            following.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        """The turn to give now, counted as running; None when there is no room or nobody waits."""
        for owner in list(self._waiting):
            if not self._may_run(owner):
                continue
            queue = self._waiting.pop(owner)
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    self._running[owner] += 1
                    if queue:
                        self._waiting[owner] = queue  # at the end: now it is the others' turn
                    return turn
        return None
