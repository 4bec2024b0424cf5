"""Waiting for hints: who waits for a key hears when somebody, in whatever process, rings for it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from spotplane_server.kernel.jobs.notify import Notifier


class Bells:
    """Bells of one topic. A hint may be lost, so whoever waits looks for itself now and then."""

    def __init__(self, wakeups: Notifier, topic: str) -> None:
        self._wakeups = wakeups
        self._topic = topic
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        wakeups.listen(topic, self._rung)

    def ring(self, key: object) -> None:
        """Wake whoever waits for the key. Call it after the commit."""
        self._wakeups.signal(self._topic, str(key))

    @contextmanager
    def hearing(self, keys: Iterable[object]) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of the keys is rung for within the block."""
        names, heard = [str(key) for key in keys], asyncio.Event()
        for name in names:
            self._waiting[name].add(heard)
        try:
            yield heard
        finally:
            for name in names:
                self._waiting[name].discard(heard)
                if not self._waiting[name]:
                    del self._waiting[name]

    def _rung(self, key: str) -> None:
        for heard in self._waiting.get(key, ()):
            heard.set()


async def wait(heard: asyncio.Event, seconds: float) -> None:
    """Wait until it rings, at most so long, and be ready to hear the next."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await heard.wait()
    heard.clear()
