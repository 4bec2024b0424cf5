"""Event dispatcher: one outbox reader for all subscribers of a process.

However many listen, the outbox is read once and each row handed to those that may see it. A
listener joins at a known place in the order, so that what it replays from the database and what it
is handed meet without gap or repeat.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

import asyncpg
import structlog

from spotplane_server.events import store
from spotplane_server.events.store import Row
from spotplane_server.kernel import metrics
from spotplane_server.kernel.db import database
from spotplane_server.kernel.db.database import ALL_TENANTS, Database, Scope
from spotplane_server.kernel.errors import Unavailable

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 0.1
# Less than a queue holds, so that a burst alone leaves nobody behind who takes his turn.
BATCH: Final = 128
# A listener further behind than this reads the database, or goes and comes back.
QUEUE: Final = 256
# Rows that a listener is behind by are read in pages, a few listeners at a time: 180 that started
# at the beginning and were not read held 110 MB, and all connections to the database.
REPLAY_BATCH: Final = 32
REPLAYS: Final = 4

Cursor: TypeAlias = tuple[int, int]


class ShuttingDown(Unavailable):
    """The server ends its streams; the caller resumes at another one."""

    reason = "SERVICE_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("the server is shutting down", retry_after_seconds=0.1)


class Behind(Exception):
    """A listener did not keep up; what it missed is in the outbox."""


class Listener:
    """The rows that one listener may see, in order, from where it joined."""

    def __init__(self, scope: Scope, joined: Cursor) -> None:
        self.joined = joined
        self._scope = scope
        self._rows: deque[Row] = deque()
        self._behind = False
        self._woken = asyncio.Event()
        self._closed = False

    def close(self) -> None:
        """End the listener: the server is shutting down."""
        self._closed = True
        self._woken.set()

    def offer(self, row: Row) -> None:
        """Queue a row, if it may be seen and there is room."""
        if self._scope not in (ALL_TENANTS, row.tenant_id):
            return
        # Once one was dropped, all that follow are: what is taken has no gaps.
        if self._behind or len(self._rows) >= QUEUE:
            self._behind = True
        else:
            self._rows.append(row)
        self._woken.set()

    async def take(self, within: float | None = None) -> list[Row]:
        """What has come since the last time; empty when nothing came within the seconds.

        Raises:
            Behind: Rows were dropped; those before the first dropped one were taken already.
            ShuttingDown: The server ends its streams.
        """
        if not self._rows and not self._closed:
            if self._behind:
                raise Behind
            self._woken.clear()
            try:
                async with asyncio.timeout(within):
                    await self._woken.wait()
            except TimeoutError:
                return []
        if self._closed:
            raise ShuttingDown
        rows = list(self._rows)
        self._rows.clear()
        return rows


class EventHub:
    """Reads the outbox while anybody listens.

    Attributes:
        place: Up to where it has handed rows out; None while nobody listens.
        replays: Limits how many listeners read the database at a time.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._listeners: set[Listener] = set()
        self._wake = asyncio.Event()
        self._closing = False
        self.place: Cursor | None = None
        self.replays = asyncio.Semaphore(REPLAYS)

    async def run(self) -> None:
        """Hand rows out until cancelled; an absent database only delays them."""
        while True:
            if not self._listeners:
                self.place = None
                self._wake.clear()
                await self._wake.wait()
            try:
                more = await self._pass_on()
            except (Unavailable, asyncpg.PostgresError, *database.CONNECTION_ERRORS):
                log.warning("outbox_not_read", exc_info=True)
                more = False
            await asyncio.sleep(0 if more else POLL_SECONDS)

    async def drain(self) -> None:
        """End every listener, those that come later as well."""
        self._closing = True
        for listener in self._listeners:
            listener.close()

    @contextmanager
    def listening(self, scope: Scope, newest: Cursor) -> Iterator[Listener]:
        """Listen within the block; rows up to ``Listener.joined`` are for the caller to replay.

        Args:
            scope: Whose events.
            newest: The outbox's end a moment ago: where the hub starts when nobody listens yet.
        """
        if self.place is None:
            self.place = newest
        listener = Listener(scope, self.place)
        if self._closing:
            listener.close()
        self._listeners.add(listener)
        metrics.EVENT_LISTENERS.set(len(self._listeners))
        self._wake.set()
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            metrics.EVENT_LISTENERS.set(len(self._listeners))

    async def _pass_on(self) -> bool:
        if self.place is None:
            return False
        async with self._db.connection(ALL_TENANTS) as conn:
            rows = await store.list_after(conn, self.place, limit=BATCH)
        for row in rows:
            for listener in self._listeners:
                listener.offer(row)
            self.place = (row.txid, row.seq)
        return len(rows) == BATCH


async def follow(
    db: Database,
    hub: EventHub,
    scope: Scope,
    cursor: Cursor,
    *,
    idle_seconds: float | None = None,
    on_behind: Callable[[], BaseException | None] = lambda: None,
) -> AsyncGenerator[list[Row], None]:
    """Every row after a cursor in commit order, for ever: what is there, then what comes.

    Args:
        db: The database.
        hub: The process's hub.
        scope: Whose events.
        cursor: Where to start.
        idle_seconds: Yield an empty list when nothing came for so long; None never.
        on_behind: Asked when rows were dropped because they were not taken in time: the error to
            end with, or None to read them from the database and go on.
    """
    while True:
        async with db.connection(ALL_TENANTS) as conn:
            newest = await store.newest(conn)
        with hub.listening(scope, newest) as listener:
            async for rows in _replay(db, hub, scope, cursor, listener.joined):
                yield rows
                cursor = (rows[-1].txid, rows[-1].seq)
            cursor = max(cursor, listener.joined)
            try:
                while True:
                    rows = await listener.take(idle_seconds)
                    # Rows that the hub had read before the caller's place are behind it.
                    rows = [row for row in rows if (row.txid, row.seq) > cursor]
                    yield rows
                    if rows:
                        cursor = (rows[-1].txid, rows[-1].seq)
            except Behind:
                error = on_behind()
                if error is not None:
                    raise error from None


async def _replay(
    db: Database, hub: EventHub, scope: Scope, cursor: Cursor, until: Cursor
) -> AsyncIterator[list[Row]]:
    while cursor < until:
        async with hub.replays, db.connection(scope) as conn:
            found = await store.list_after(conn, cursor, limit=REPLAY_BATCH)
        rows = [row for row in found if (row.txid, row.seq) <= until]
        if not rows:
            return
        yield rows
        cursor = (rows[-1].txid, rows[-1].seq)
