"""Messages of one agent's stream that wait to be handled: in order, bounded, and at a bounded rate.

Each of them is at least one transaction. Heartbeats pass them by, so that a backlog delays none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from spotplane.v1 import agent_stream_pb2 as pb

from spotplane_server.agents import errors
from spotplane_server.kernel.ratelimit.token_bucket import TokenBucket

# Messages that wait. The SDK has at most 64 reports without an acknowledgement, and keeps 256 steps
# of commands, which are not acknowledged; more is a flood.
MAX_WAITING: Final = 512
# Bytes that wait before the stream is read on; a report of usage has up to 512 KiB, and the rest
# stays in the flow control window.
MAX_WAITING_BYTES: Final = 1 << 20
# Messages per second of one stream, and of a burst. After an outage the SDK sends up to 30,000
# spooled reports, which take five minutes; a notice then waits for at most 64 of them, 0.64 s.
RATE: Final = 100.0
BURST: Final = 500.0

Handle: TypeAlias = Callable[[pb.ConnectRequest], Awaitable[None]]


class Inbox:
    """Handles messages one after the other; to be used as a context manager.

    Args:
        handle: Handles one message.
        fail: Called with what `handle` raised; nothing is handled any more.
    """

    def __init__(self, handle: Handle, fail: Callable[[Exception], None]) -> None:
        self._handle = handle
        self._fail = fail
        self._waiting: deque[pb.ConnectRequest] = deque()
        self._bytes = 0
        self._room = asyncio.Event()
        self._bucket = TokenBucket(RATE, BURST, asyncio.get_running_loop().time())
        # Only while something waits: an idle agent costs no task.
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Inbox:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def put(self, message: pb.ConnectRequest) -> None:
        """Add a message; wait while too many bytes wait.

        Raises:
            TooFrequent: Too many messages wait.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise errors.TooFrequent
        self._waiting.append(message)
        self._bytes += message.ByteSize()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="inbox")
        while self._bytes > MAX_WAITING_BYTES:
            self._room.clear()
            await self._room.wait()

    async def drained(self) -> None:
        """Wait until everything has been handled."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                if (seconds := self._bucket.take(loop.time())) > 0:
                    await asyncio.sleep(seconds)
                await self._handle(self._waiting[0])
                self._bytes -= self._waiting.popleft().ByteSize()
                self._room.set()
        except Exception as err:  # noqa: BLE001 - it must end the stream, not hang it
            self._fail(err)
