"""EventService: watching the outbox in commit order."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final

import asyncpg
from spotplane.v1 import event_pb2 as pb
from spotplane.v1 import event_pb2_grpc

from spotplane_server.events import store
from spotplane_server.kernel import calls, claims, db, wire
from spotplane_server.kernel.db import EVERY_TENANT, Database, Scope
from spotplane_server.kernel.errors import Invalid, Unavailable
from spotplane_server.kernel.middleware import Context

POLL_SECONDS: Final = 0.2
BATCH: Final = 500
# Both numbers fit PostgreSQL's 64 bits.
_CURSOR: Final = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")


class EventFeed:
    """Tells watchers of this process that there is something new, with one poll for all of them."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._watchers = 0
        self._head = (0, 0)
        self._moved = asyncio.Condition()

    async def run(self) -> None:
        """Watch the head of the outbox while anybody listens, until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._watchers:
                continue
            try:
                async with self._db.read(EVERY_TENANT) as conn:
                    newest = await store.newest(conn)
            except (Unavailable, asyncpg.PostgresError, *db.AWAY):
                continue
            if newest > self._head:
                self._head = newest
                async with self._moved:
                    self._moved.notify_all()

    async def beyond(self, cursor: tuple[int, int]) -> None:
        """Return once something newer than the cursor may be read."""
        self._watchers += 1
        try:
            async with self._moved:
                await self._moved.wait_for(lambda: self._head > cursor)
        finally:
            self._watchers -= 1


class EventService(event_pb2_grpc.EventServiceServicer):
    """Streams what happens."""

    def __init__(self, db: Database, feed: EventFeed) -> None:
        self._db = db
        self._feed = feed

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        scope = _scope(request)
        cursor = _cursor(request) if request.HasField("after_cursor") else None
        if cursor is None:
            async with self._db.read(EVERY_TENANT) as conn:
                cursor = await store.head(conn)
        # Headers now: whoever waits for them knows that nothing later will be missed.
        await context.send_initial_metadata(())
        while True:
            async with self._db.read(scope) as conn:
                rows = await store.list_after(conn, cursor, limit=BATCH)
            for row in rows:
                cursor = (row.txid, row.seq)
                if _wanted(row.event_type, list(request.types)):
                    yield _event(row)
            if not rows:
                await self._feed.beyond(cursor)
                cursor = await self._skip(scope, cursor)

    async def _skip(self, scope: Scope, cursor: tuple[int, int]) -> tuple[int, int]:
        # Other tenants' events move the head too; without this a quiet tenant would read in a
        # circle.
        async with self._db.read(EVERY_TENANT) as conn:
            newest = await store.newest(conn)
        async with self._db.read(scope) as conn:
            found = await store.list_after(conn, cursor, limit=1)
        # In this order: whatever was readable at the first read is readable at the second.
        return cursor if found else max(cursor, newest)


def _scope(request: pb.WatchEventsRequest) -> Scope:
    return claims.tenant(calls.current().caller, request) or EVERY_TENANT


def _cursor(request: pb.WatchEventsRequest) -> tuple[int, int]:
    found = _CURSOR.fullmatch(request.after_cursor)
    if found is None:
        raise Invalid(
            "after_cursor is no cursor of ours", reason="INVALID_PAGE_TOKEN", field="after_cursor"
        )
    return int(found[1]), int(found[2] or 0)


def _wanted(event_type: str, types: list[str]) -> bool:
    return not types or any(
        event_type.startswith(wanted[:-1]) if wanted.endswith("*") else event_type == wanted
        for wanted in types
    )


def _event(row: store.Row) -> pb.WatchEventsResponse:
    return pb.WatchEventsResponse(
        event_id=str(row.id),
        event_type=row.event_type,
        timestamp=wire.timestamp(row.occurred_at),
        tenant_id=str(row.tenant_id) if row.tenant_id else None,
        aggregate_id=row.aggregate_id,
        data=wire.struct(row.data),
        cursor=f"{row.txid}-{row.seq}",
    )
