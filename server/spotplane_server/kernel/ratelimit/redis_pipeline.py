"""Redis connection that pipelines all commands and matches replies by order.

A pool lends a connection until the answer is there, so what is sent by one task may overtake what
another sent before. Here a command that was sent has been sent: whoever is told of it afterwards,
also by another server, finds it done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import hiredis
import structlog

from spotplane_server.kernel.ratelimit import redis_client

log = structlog.get_logger(__name__)

ANSWER_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 0.2


class RedisUnavailable(Exception):
    """Redis does not answer."""


class RedisPipeline:
    """Keeps a connection for as long as `run` runs.

    Args:
        client: Knows where Redis is and how to speak to it.
        on_connect: Called when a connection is there, before anybody else may use it.
    """

    def __init__(self, client: redis_client.Client, on_connect: Callable[[], None]) -> None:
        self._client = client
        self._on_connect = on_connect
        self._connection: Any = None
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._deadlines: deque[float] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._told = False
        self.tried = asyncio.Event()

    def send(self, *command: Any) -> asyncio.Future[Any]:
        """Write a command now; the answer comes later, also to a cancelled future.

        Raises:
            Away: There is no connection.
        """
        if self._connection is None:
            raise RedisUnavailable
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._connection._writer.write(hiredis.pack_command(command))
        self._waiting.append(answer)
        self._deadlines.append(loop.time() + ANSWER_SECONDS)
        if self._watch is None:
            self._watch = loop.call_later(ANSWER_SECONDS, self._look)
        return answer

    async def run(self) -> None:
        """Connect, and again whenever the connection is lost, until cancelled."""
        while True:
            try:
                async with self._connected() as reader:
                    await self._read(reader)
            except Exception as err:
                self._tell(err)
            self.tried.set()
            await asyncio.sleep(RETRY_SECONDS)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncio.StreamReader]:
        pool: Any = self._client.connection_pool
        connection = pool.make_connection()
        try:
            # The handshake, with passwords and TLS, is the library's; the commands are ours.
            await connection.connect()
            self._connection = connection
            self._on_connect()
            self.tried.set()
            self._told = False
            reader = connection._reader
            if reader is not None:
                yield reader
        finally:
            self._connection = None
            self._fail()
            await connection.disconnect(nowait=True)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        parser = hiredis.Reader(notEnoughData=RedisUnavailable)
        while data := await reader.read(65536):
            parser.feed(data)
            while (answer := parser.gets()) is not RedisUnavailable:
                if isinstance(answer, hiredis.PushNotification):
                    continue
                self._deadlines.popleft()
                future = self._waiting.popleft()
                if isinstance(answer, hiredis.ReplyError):
                    # A script that Redis has forgotten, a full memory: start over.
                    future.set_exception(RedisUnavailable())
                    raise ConnectionError(str(answer))
                _settle(future, answer)

    def _look(self) -> None:
        """Give up a connection whose oldest answer is overdue."""
        self._watch = None
        loop = asyncio.get_running_loop()
        if not self._deadlines:
            return
        if self._deadlines[0] <= loop.time():
            if self._connection is not None:
                self._connection._writer.close()
            return
        self._watch = loop.call_at(self._deadlines[0], self._look)

    def _fail(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        self._deadlines.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(RedisUnavailable())
                future.exception()  # retrieved: not everybody waits

    def _tell(self, err: BaseException) -> None:
        if not self._told:
            log.warning("redis_away", error=str(err))
            self._told = True


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if not future.done():
        future.set_result(answer)
