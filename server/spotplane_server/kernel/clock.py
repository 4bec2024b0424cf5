"""Clocks: time as an argument, synchronized with PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import asyncpg
import structlog

from spotplane_server.kernel import metrics
from spotplane_server.kernel.db.database import ALL_TENANTS, CONNECTION_ERRORS, Database
from spotplane_server.kernel.errors import Unavailable

log = structlog.get_logger(__name__)

SYNCHRONIZE_SECONDS: Final = 5.0
# The first look may open a connection; the best of a few is what counts.
FIRST_LOOKS: Final = 3
ANSWER_SECONDS: Final = 2.0
# A machine that is further off is set wrongly: its own log lines mislead, and so does any program
# on it that does not use this clock.
WARN_OFFSET: Final = timedelta(seconds=1)
READ_CLOCK: Final = "SELECT clock_timestamp()"


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """Aware UTC."""
        ...


class SystemClock:
    """The machine's clock.

    Args:
        ahead: Added to it, to test a machine that is set wrongly.
    """

    def __init__(self, ahead: timedelta = timedelta()) -> None:
        self._ahead = ahead

    def now(self) -> datetime:
        """Aware UTC."""
        return datetime.now(UTC) + self._ahead


def elapsed() -> float:
    """Seconds since this machine started, including those that it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class DatabaseClock:
    """PostgreSQL's clock, continued from the last look at it by the time that has elapsed here.

    All servers share one time this way, however the clocks of their machines are set. It is off by
    at most half a round trip to PostgreSQL.

    Args:
        machine: The machine's clock; it is compared with and never used.
        elapsed: Seconds from a fixed instant.
    """

    def __init__(self, machine: Clock, elapsed: Callable[[], float] = elapsed) -> None:
        self._machine = machine
        self._elapsed = elapsed
        # The time when `elapsed` was 0.
        self._zero = machine.now() - timedelta(seconds=elapsed())
        self._was_right = True

    @classmethod
    async def open(cls, db: Database, machine: Clock) -> DatabaseClock:
        """A clock that has looked at PostgreSQL's."""
        clock = cls(machine)
        for _ in range(FIRST_LOOKS):
            await clock.synchronize(db)
        return clock

    def now(self) -> datetime:
        """Aware UTC."""
        return self._zero + timedelta(seconds=self._elapsed())

    @property
    def machine_offset(self) -> timedelta:
        """How far the machine's clock is ahead of PostgreSQL's."""
        return self._machine.now() - self.now()

    @property
    def is_machine_right(self) -> bool:
        """Whether the machine's clock agrees with PostgreSQL's to `WARN_OFFSET`."""
        return abs(self.machine_offset) <= WARN_OFFSET

    async def run(self, db: Database) -> None:
        """Follow PostgreSQL's clock until cancelled."""
        while True:
            await asyncio.sleep(SYNCHRONIZE_SECONDS)
            try:
                await self.synchronize(db)
            except (Unavailable, asyncpg.PostgresError, *CONNECTION_ERRORS):
                log.warning("clock_not_synchronized", exc_info=True)
            self._compare()

    async def synchronize(self, db: Database) -> None:
        """Look at PostgreSQL's clock and follow it, if it is not where it was expected."""
        async with db.connection(ALL_TENANTS) as conn:
            before = self._elapsed()
            read: datetime = await conn.fetchval(READ_CLOCK, timeout=ANSWER_SECONDS)
            after = self._elapsed()
        earliest, latest = read - timedelta(seconds=after), read - timedelta(seconds=before)
        # Within a round trip the present setting is as good as a new one, and it does not jump.
        if not earliest <= self._zero <= latest:
            self._zero = earliest + (latest - earliest) / 2

    def _compare(self) -> None:
        ahead = self.machine_offset.total_seconds()
        metrics.MACHINE_CLOCK_OFFSET.set(ahead)
        was_right, self._was_right = self._was_right, self.is_machine_right
        if was_right and not self._was_right:
            log.warning("machine_clock_wrong", ahead_seconds=round(ahead, 3))
