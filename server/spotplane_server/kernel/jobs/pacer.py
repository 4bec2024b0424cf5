"""Batches notifications so that not every one starts a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spotplane_server.kernel.db.unit_of_work import after_commit


class Pacer:
    """Begins something when hinted, and no sooner than so many seconds after the last time.

    Args:
        begin: What to begin; quick.
        seconds: Between two beginnings.
    """

    def __init__(self, begin: Callable[[], None], seconds: float) -> None:
        self._begin = begin
        self._seconds = seconds
        self._hinted = asyncio.Event()

    def hint(self, _key: str = "") -> None:
        """Something may have changed."""
        after_commit(self._hinted.set)

    async def run(self) -> None:
        """Pass hints on until cancelled."""
        while True:
            await self._hinted.wait()
            self._hinted.clear()
            self._begin()
            await asyncio.sleep(self._seconds)
