"""Answers about usage that all servers keep together, in Redis; whatever fails there is a miss."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from spotplane_server.kernel.redis import AWAY, Client

# Without an answer it is left alone for so long, so that not every question waits in vain.
PAUSE_SECONDS: Final = 5.0
# A larger one costs more on its way than it saves.
MAX_BYTES: Final = 1024 * 1024


class SharedAnswers:
    """Keeps and finds answers.

    Args:
        client: Of the Redis.
        plane: Tells planes apart that share one.
    """

    def __init__(self, client: Client, plane: bytes) -> None:
        self._client = client
        self._prefix = b"spotplane:usage:" + plane + b":"
        self._paused_until = 0.0

    async def get(self, key: bytes) -> bytes | None:
        """An answer, None when there is none or nobody answers."""
        if self._paused():
            return None
        try:
            found = await self._client.get(self._prefix + key)
        except AWAY:
            self._pause()
            return None
        return found if isinstance(found, bytes) else None

    async def put(self, key: bytes, value: bytes, lifetime: timedelta) -> None:
        """Keep an answer."""
        if self._paused() or len(value) > MAX_BYTES:
            return
        try:
            await self._client.set(self._prefix + key, value, px=lifetime)
        except AWAY:
            self._pause()

    def _paused(self) -> bool:
        return asyncio.get_running_loop().time() < self._paused_until

    def _pause(self) -> None:
        self._paused_until = asyncio.get_running_loop().time() + PAUSE_SECONDS
