"""Connection pool for PostgreSQL with scoped connections.

Our own and not asyncpg's, because lending by that one costs as much as a small query, and it knows
no scopes: it hands out whichever connection came back last, and changing a scope is a round trip.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg
import structlog

from spotplane_server.kernel.db.connections import ScopedConnection

log = structlog.get_logger(__name__)

CLOSE_SECONDS: Final = 5.0
# Longest wait for the answer of a connection that is to be lent again.
PROBE_SECONDS: Final = 2.0
# Once one connection is dead, a loan that lasts for so long is taken for dead as well.
LOAN_SECONDS: Final = 5.0
PROBE: Final = "SELECT 1"


class Pool:
    """At most ``size`` connections; whoever comes too late waits, first come first served.

    Args:
        connect: Opens a connection.
        size: Most connections.
        timeout: Longest wait for one, in seconds.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[ScopedConnection]], size: int, timeout: float
    ) -> None:
        self._connect = connect
        self._size = size
        self._timeout = timeout
        self._open: set[ScopedConnection] = set()
        self._opening = 0
        # The one that came back last is at the end.
        self._idle: list[ScopedConnection] = []
        # Each is given a connection, or None: there is room to open one.
        self._waiting: deque[asyncio.Future[ScopedConnection | None]] = deque()
        self._probing: dict[ScopedConnection, asyncio.Task[None]] = {}
        self._closing = False
        self._returned = asyncio.Event()

    async def warm(self, count: int) -> None:
        """Open connections ahead of the first need.

        Raises:
            OSError, asyncpg.PostgresError: The database cannot be reached or refuses.
        """
        for conn in [await self._add() for _ in range(count)]:
            self.give(conn)

    def stats(self) -> dict[str, int]:
        """Connections by state."""
        return {"idle": len(self._idle), "used": len(self._open) - len(self._idle)}

    def find(self, scope: str) -> ScopedConnection | None:
        """Take an idle connection, of this scope if there is one; None when all are in use."""
        idle = self._idle
        for at in range(len(idle) - 1, -1, -1):
            if idle[at].scope == scope:
                conn = idle.pop(at)
                if not conn.is_closed():
                    return conn
                self._open.discard(conn)
        while idle:
            # The longest unused, so that a scope in use keeps its connections.
            conn = idle.pop(0)
            if not conn.is_closed():
                return conn
            self._open.discard(conn)
        return None

    async def take(self, scope: str) -> ScopedConnection:
        """Take a connection, waiting for one if need be.

        Raises:
            TimeoutError: All are in use. OSError, asyncpg.PostgresError: None can be opened.
        """
        while True:
            conn = self.find(scope)
            if conn is None and not self._closing:
                room = len(self._open) + self._opening < self._size
                conn = await (self._add() if room else self._wait())
            if conn is not None:
                return conn
            if self._closing:
                raise asyncpg.InterfaceError("the pool is closed")

    def give(self, conn: ScopedConnection) -> None:
        """Take a connection back; a broken one, or one amid a transaction, is dropped."""
        if conn.is_closed() or conn.is_in_transaction() or self._closing:
            conn.terminate()
            self._open.discard(conn)
            self._returned.set()
            self._hand(None)
        elif not self._hand(conn):
            self._idle.append(conn)

    def settle(self, conn: ScopedConnection) -> None:
        """Take a connection back whose statement was broken off, once it answers again.

        A statement that is being cancelled may still run, and its cancellation must not meet the
        statement of somebody else. Meanwhile the connection counts as used.
        """
        self._probing[conn] = asyncio.create_task(self._settle(conn))

    def suspect(self) -> None:
        """Probe the idle connections before they are lent again: one was found dead."""
        idle, self._idle = self._idle, []
        for conn in idle:
            self.settle(conn)

    async def close(self) -> None:
        """Close, waiting a little for connections in use."""
        self._closing = True
        while self._hand(None):
            pass
        closing, self._idle = self._idle, []
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                for conn in closing:
                    await _goodbye(conn)
                    self._open.discard(conn)
                while self._open:
                    self._returned.clear()
                    await self._returned.wait()
        except TimeoutError:
            for conn in self._open:
                conn.terminate()

    async def _settle(self, conn: ScopedConnection) -> None:
        try:
            # A statement's own timeout does not cover the wait for the cancellation before it.
            async with asyncio.timeout(PROBE_SECONDS):
                await conn.execute(PROBE)
        except Exception:  # whatever it is, the connection is of no use
            conn.terminate()
            self.suspect()
            self._watch_loans()
        finally:
            del self._probing[conn]
            self.give(conn)

    def _watch_loans(self) -> None:
        """End the loans that do not end soon: their connections may be dead like another one."""
        loop = asyncio.get_running_loop()
        for conn in self._open.difference(self._idle, self._probing):
            loop.call_later(LOAN_SECONDS, self._end_loan, conn, conn.loans)

    def _end_loan(self, conn: ScopedConnection, loan: int) -> None:
        is_lent = conn in self._open and conn not in self._probing and conn not in self._idle
        if is_lent and conn.loans == loan:
            log.warning("connection_given_up", pid=conn.get_server_pid())
            conn.terminate()

    async def _add(self) -> ScopedConnection:
        self._opening += 1
        try:
            conn = await self._connect()
        except BaseException:
            # Whoever waits may try as well, and learns the same.
            self._hand(None)
            raise
        finally:
            self._opening -= 1
        self._open.add(conn)
        return conn

    async def _wait(self) -> ScopedConnection | None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[ScopedConnection | None] = loop.create_future()
        self._waiting.append(waiter)
        timer = loop.call_later(self._timeout, _expire, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # It was given something just before, which somebody else can use.
                given = waiter.result()
                if given is None:
                    self._hand(None)
                else:
                    self.give(given)
            raise
        finally:
            timer.cancel()

    def _hand(self, conn: ScopedConnection | None) -> bool:
        """Give the first who waits a connection, or the hint that there is room for one."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(conn)
                return True
        return False


async def _goodbye(conn: ScopedConnection) -> None:
    """Close a connection, though it may be dead and nobody has noticed yet."""
    try:
        await conn.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        conn.terminate()


def _expire(waiter: asyncio.Future[ScopedConnection | None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError("all connections are in use"))
