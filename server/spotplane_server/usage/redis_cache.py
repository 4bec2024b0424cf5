"""Cache of usage results that all servers share, in Redis; every failure is a miss."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from spotplane_server.kernel.ratelimit.redis_client import AWAY, Client

# After a failure Redis is not used for this long, so that not every query waits for a timeout.
PAUSE_SECONDS: Final = 5.0
# Larger results cost more to transfer than to compute.
MAX_BYTES: Final = 1024 * 1024


class RedisCache:
    """Stores and finds serialized results.

    Args:
        client: The Redis client.
        namespace: Separates installations that share a Redis.
    """

    def __init__(self, client: Client, namespace: bytes) -> None:
        self._client = client
        self._prefix = b"spotplane:usage:" + namespace + b":"
        self._paused_until = 0.0

    async def get(self, key: bytes) -> bytes | None:
        """Return a result; None if there is none or Redis does not respond."""
        if self._paused():
            return None
        try:
            found = await self._client.get(self._prefix + key)
        except AWAY:
            self._pause()
            return None
        return found if isinstance(found, bytes) else None

    async def put(self, key: bytes, value: bytes, lifetime: timedelta) -> None:
        """Store a result."""
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
