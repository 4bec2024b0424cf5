"""Reads request bodies, bounded in size, values, time and memory.

The server verifies the credential of a request before more than `SMALL_BYTES` of its body are read,
and before more than `INLINE_VALUES` JSON values of it are converted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from aiohttp import HttpVersion11, web
from google.protobuf.message import Message

from spotplane_bridge.body_limits import SMALL_BYTES
from spotplane_bridge.body_memory import MemoryBudget
from spotplane_bridge.credential_check import CallerVerifier
from spotplane_bridge.errors import Failure
from spotplane_bridge.headers import Metadata
from spotplane_bridge.middleware import RequestContext

T = TypeVar("T")

# JSON values of one body. The longest list of the API has 1,000 items; this leaves 65 values to
# each. orjson needs at most 0.11 us per value, and holds the interpreter lock meanwhile: 8 ms.
MAX_VALUES: Final = 65_536
# JSON values that are converted on the event loop, at about 2 us each: 1 ms, the most that a
# request without a valid credential can cost.
INLINE_VALUES: Final = 500
# Longest time for the first `SMALL_BYTES`, which are a few packets.
SMALL_SECONDS: Final = 10.0
# Memory of a streamed upload: a chunk of 256 KiB in each of the buffers that it passes through.
STREAM_BYTES: Final = 1024 * 1024


class Bodies:
    """Reads and converts the bodies of all requests of a process.

    One thread converts large bodies. Python code releases the interpreter lock every 5 ms, so that
    the event loop continues, and at most one conversion competes with it. Each caller has at most
    one conversion in the thread's queue, so that callers take turns.

    Args:
        verifier: Verifies credentials.
        max_bytes: Largest body of any route, other than an upload.
        memory_bytes: Of all large bodies at one time.
        seconds: Longest time for a whole body.
    """

    def __init__(
        self, verifier: CallerVerifier, max_bytes: int, memory_bytes: int, seconds: float
    ) -> None:
        self._verifier = verifier
        self._max_bytes = max_bytes
        self._memory = MemoryBudget(memory_bytes)
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bodies")
        self._turns: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    async def read(
        self, exchange: RequestContext, limit: int, metadata: Callable[[], Metadata]
    ) -> bytes:
        """Read a whole body; empty when the request has none.

        Args:
            exchange: The request, which holds the memory of a large body until its end.
            limit: Largest body of the route.
            metadata: Returns the metadata of the request's call.

        Raises:
            Failure: The body is too large, too slow or compressed; the credential is not valid;
                too many large bodies are being processed.
        """
        request = exchange.request
        if not request.body_exists:
            return b""
        limit = min(limit, self._max_bytes)
        length = request.content_length or 0
        if length > limit:
            raise _too_large(limit)
        _check_encoding(request)
        chunks: list[bytes] = []
        if length <= SMALL_BYTES:
            await _continue(request)
            seconds = min(self._seconds, SMALL_SECONDS)
            if await _receive(request, chunks, min(limit, SMALL_BYTES), seconds):
                return b"".join(chunks)
            if limit <= SMALL_BYTES:
                raise _too_large(limit)
        await self._admit(exchange, metadata(), length or limit)
        await _continue(request)
        if not await _receive(request, chunks, limit, self._seconds):
            raise _too_large(limit)
        return b"".join(chunks)

    async def begin_upload(
        self, exchange: RequestContext, limit: int, metadata: Callable[[], Metadata]
    ) -> None:
        """Admit a request with a body that its endpoint will read in chunks.

        Raises:
            Failure: As `read` does.
        """
        if (exchange.request.content_length or 0) > limit:
            raise _too_large(limit)
        _check_encoding(exchange.request)
        await self._admit(exchange, metadata(), STREAM_BYTES)
        await _continue(exchange.request)

    async def parse(
        self, data: bytes, parse: Callable[[bytes], T], metadata: Callable[[], Metadata]
    ) -> T:
        """Parse JSON into Python values: on the event loop when the body is small.

        Raises:
            Failure: The body has too many values, the credential of a large one is not valid, or
                what `parse` raises.
        """
        if len(data) <= SMALL_BYTES:
            return parse(data)
        return await self._in_thread(data, lambda: parse(data), metadata)

    async def convert(
        self, data: bytes, convert: Callable[[], Message], metadata: Callable[[], Metadata]
    ) -> Message | bytes:
        """Convert a body into a message: on the event loop when it has few values.

        Returns:
            The message, or its bytes when it is large.

        Raises:
            Failure: As `parse` does.
        """
        if len(data) <= SMALL_BYTES and count_values(data) <= INLINE_VALUES:
            return convert()
        return await self._in_thread(data, lambda: convert().SerializeToString(), metadata)

    async def _in_thread(
        self, data: bytes, convert: Callable[[], T], metadata: Callable[[], Metadata]
    ) -> T:
        caller = await self._verifier.verify(metadata())

        def bounded() -> T:
            if count_values(data) > MAX_VALUES:
                raise Failure(
                    413, "PAYLOAD_TOO_LARGE", f"a body may have at most {MAX_VALUES} values"
                )
            return convert()

        turn = self._turns.setdefault(caller, asyncio.Lock())
        async with turn:
            return await asyncio.get_running_loop().run_in_executor(self._thread, bounded)

    def close(self) -> None:
        """Stop the thread; no request may be open."""
        self._thread.shutdown()

    async def _admit(self, exchange: RequestContext, metadata: Metadata, size: int) -> None:
        caller = await self._verifier.verify(metadata)
        exchange.at_end.append(await self._memory.reserve(caller, size))


def count_values(data: bytes) -> int:
    """Return an upper bound of the number of values in a JSON text."""
    return data.count(b",") + data.count(b"{") + data.count(b"[") + 1


def _check_encoding(request: web.Request) -> None:
    """Reject compressed bodies: a few KiB of them can become gigabytes.

    Raises:
        Failure: 415.
    """
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
        raise Failure(415, "UNSUPPORTED_MEDIA_TYPE", "the body must not be compressed")


async def _continue(request: web.Request) -> None:
    """Send `100 Continue` to a client that waits for it."""
    waits = request.headers.get("Expect", "").lower() == "100-continue"
    if waits and request.version == HttpVersion11 and not request.content.total_bytes:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # aiohttp counts the bytes of the response from here.
        request.writer.output_size = 0


async def _receive(request: web.Request, chunks: list[bytes], limit: int, seconds: float) -> bool:
    """Read until the end of the body, or until it is longer than the limit.

    Returns:
        Whether the end was reached.

    Raises:
        Failure: 408.
    """
    size = sum(map(len, chunks))
    try:
        async with asyncio.timeout(seconds):
            while size <= limit:
                chunk = await request.content.readany()
                if not chunk:
                    return True
                chunks.append(chunk)
                size += len(chunk)
    except TimeoutError as err:
        raise Failure(408, "DEADLINE_EXCEEDED", "the body came in too slowly") from err
    return False


def _too_large(limit: int) -> Failure:
    return Failure(413, "PAYLOAD_TOO_LARGE", f"a body may have at most {limit} bytes")
