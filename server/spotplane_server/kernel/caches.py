"""Bounded TTL caches and single-flight loading."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# What an entry takes besides its value: key, times and places in tables.
ENTRY_BYTES: Final = 400


class TTLCache:
    """Values by key, for a lifetime; those unused longest go when all together are too large.

    Args:
        max_bytes: Of all entries; with 0 nothing is kept.
        lifetime: Of one value.
    """

    def __init__(self, max_bytes: int, lifetime: timedelta) -> None:
        self._max = max_bytes
        self._lifetime = lifetime
        self._entries: OrderedDict[bytes, tuple[bytes, datetime]] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: datetime) -> bytes | None:
        """The value, None when there is none or its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, until = entry
        if now >= until:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: bytes, value: bytes, now: datetime) -> None:
        """Keep a value; one that is larger than all that may be kept is not."""
        self._drop(key)
        if len(value) + ENTRY_BYTES > self._max:
            return
        self._entries[key] = (value, now + self._lifetime)
        self.size += len(value) + ENTRY_BYTES
        while self.size > self._max:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= len(entry[0]) + ENTRY_BYTES


@dataclass(slots=True, eq=False)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0


class SingleFlight(Generic[T]):
    """Work under way, by key: whoever comes meanwhile waits for it instead of doing it again.

    The work belongs to all who wait for it: it goes on when one of them leaves, and ends when the
    last one does.
    """

    def __init__(self) -> None:
        self._flights: dict[bytes, _Flight[T]] = {}

    def under_way(self, key: bytes) -> bool:
        """Whether somebody works on it already."""
        return key in self._flights

    async def once(self, key: bytes, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work, or wait for whoever does.

        Raises:
            Exception: What the work raised, to all who wait.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(_run(work)))
            flight.task.add_done_callback(partial(self._land, key, flight))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                # Nobody may join what is being cancelled.
                self._forget(key, flight)
                flight.task.cancel()

    def _land(self, key: bytes, flight: _Flight[T], task: asyncio.Task[T]) -> None:
        self._forget(key, flight)
        if not task.cancelled():
            task.exception()  # retrieved: whoever waited may have gone

    def _forget(self, key: bytes, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


async def _run(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
