"""A database whose connection dies after any statement."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from spotplane_server.kernel.db.database import ALL_TENANTS, CONNECTION_ERRORS, Database
from spotplane_server.kernel.db.transactions import TransactionLost

# BEGIN, what is looked up and stored, COMMIT: nothing that is tested so needs more.
MOST_STATEMENTS: Final = 30


class Crash:
    """Kills the one backend of a database after so many statements; never when None."""

    def __init__(self, after: int | None) -> None:
        self.left = after
        self.backend = 0
        self.happened = False

    def on_statement(self, _query: Any) -> None:
        if self.backend and self.left is not None:
            self.left -= 1
            if self.left == 0:
                self.happened = True
                self._kill(signal.SIGTERM)

    def _kill(self, how: signal.Signals) -> None:
        os.kill(self.backend, how)
        deadline = time.monotonic() + 10
        # In here nothing else runs: the next statement must find it dead.
        while Path(f"/proc/{self.backend}").exists() and time.monotonic() < deadline:
            time.sleep(0.001)


@asynccontextmanager
async def crashing(url: str, after: int | None) -> AsyncIterator[tuple[Database, Crash]]:
    """A database of one connection that dies after so many statements."""
    crash = Crash(after)
    db = await Database.open(url, size=1, on_statement=crash.on_statement)
    async with db.connection(ALL_TENANTS) as conn:
        crash.backend = await conn.fetchval("SELECT pg_backend_pid()")
    try:
        yield db, crash
    finally:
        await db.close()


async def crash_everywhere(
    url: str, work: Callable[[Database], Awaitable[Any]], after: Callable[[], Awaitable[None]]
) -> int:
    """Run ``work`` with a crash after its first, second, … statement, until it outlives all.

    ``after`` runs behind each crash. Answers how many there were.
    """
    for number in range(1, MOST_STATEMENTS):
        async with crashing(url, number) as (db, crash):
            with suppress(*CONNECTION_ERRORS, TransactionLost):
                await work(db)
        await after()
        if not crash.happened:
            return number - 1
    raise AssertionError("it does not end")
