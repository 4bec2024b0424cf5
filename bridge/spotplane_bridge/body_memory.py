"""Limits the memory that large request bodies use in this process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from spotplane_bridge.errors import Failure

# Share of the total that one caller may use, so that a caller that sends its bodies slowly leaves
# the rest to others.
CALLERS_SHARE: Final = 4
# Longest wait for memory that other requests use; clients retry after the response.
_WAIT_SECONDS: Final = 5.0
# A waiting request holds a connection and at most 128 KiB of its body.
_MAX_WAITING: Final = 128


@dataclass(eq=False, slots=True)
class _Request:
    caller: bytes
    size: int
    granted: asyncio.Future[None]


class MemoryBudget:
    """Limit on the bytes that large bodies use at one time, in total and per caller.

    Args:
        total: Bytes in total; a caller may use a quarter of them.
    """

    def __init__(self, total: int) -> None:
        self._free = total
        self._share = total // CALLERS_SHARE
        self._used: Counter[bytes] = Counter()
        self._waiting: list[_Request] = []

    async def reserve(self, caller: bytes, size: int) -> Callable[[], None]:
        """Reserve bytes for a body, and return the function that releases them.

        Raises:
            Failure: 413 when the body can never fit, 429 when the caller's own bodies use its
                share for too long, 503 when the bodies of others use all.
        """
        if size > self._share:
            raise Failure(413, "PAYLOAD_TOO_LARGE", f"a body may have at most {self._share} bytes")
        if self._fits(caller, size):
            self._take(caller, size)
        else:
            await self._wait(caller, size)
        return lambda: self._release(caller, size)

    async def _wait(self, caller: bytes, size: int) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            raise self._refusal(caller, size)
        request = _Request(caller, size, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        try:
            await asyncio.wait_for(asyncio.shield(request.granted), _WAIT_SECONDS)
        except (TimeoutError, asyncio.CancelledError) as err:
            if request.granted.done():
                self._release(caller, size)
            else:
                self._waiting.remove(request)
            if isinstance(err, TimeoutError):
                raise self._refusal(caller, size) from err
            raise

    def _fits(self, caller: bytes, size: int) -> bool:
        return size <= self._free and self._used[caller] + size <= self._share

    def _take(self, caller: bytes, size: int) -> None:
        self._free -= size
        self._used[caller] += size

    def _release(self, caller: bytes, size: int) -> None:
        self._free += size
        self._used[caller] -= size
        if not self._used[caller]:
            del self._used[caller]
        for request in list(self._waiting):
            if self._fits(request.caller, request.size):
                self._waiting.remove(request)
                self._take(request.caller, request.size)
                request.granted.set_result(None)

    def _refusal(self, caller: bytes, size: int) -> Failure:
        retry = {"Retry-After": "1"}
        if self._used[caller] + size > self._share:
            text = "too many large bodies of this caller at one time"
            return Failure(429, "CONCURRENCY_LIMIT", text, headers=retry)
        return Failure(503, "SERVICE_UNAVAILABLE", "too many large bodies; retry", headers=retry)
