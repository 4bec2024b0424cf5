"""EventService: streams the outbox in commit order."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Final

from spotplane.v1 import event_pb2 as pb
from spotplane.v1 import event_pb2_grpc

from spotplane_server.events import store
from spotplane_server.events.dispatcher import Cursor, EventHub, follow
from spotplane_server.events.sse import NAMES, event_id, live, upper_names
from spotplane_server.events.sse import cursor as cursor_of
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import tenant_scope, wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Database, Scope
from spotplane_server.kernel.errors import Conflict, Invalid
from spotplane_server.kernel.rpc.interceptor import Context

HEARTBEAT_SECONDS: Final = 30.0
# What a listener may have missed and still resume.
REPLAY: Final = timedelta(hours=24)
# Both numbers fit PostgreSQL's 64 bits.
_CURSOR: Final = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")


class ListenerBehind(Conflict):
    """A listener did not take its events in time."""

    reason = "LISTENER_BEHIND"


class EventService(event_pb2_grpc.EventServiceServicer):
    """Streams what happens."""

    def __init__(self, db: Database, clock: Clock, hub: EventHub) -> None:
        self._db = db
        self._clock = clock
        self._hub = hub

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        scope = await self._scope(request)
        cursor = _cursor(request) if request.HasField("after_cursor") else None
        if cursor is None:
            cursor = await self._now()
        # Headers now: whoever waits for them knows that nothing later will be missed.
        await request_context.send_headers(context)
        async with aclosing(follow(self._db, self._hub, scope, cursor)) as batches:
            async for rows in batches:
                for row in rows:
                    if _wanted(row.event_type, request.types):
                        yield _event(row)

    async def Subscribe(
        self, request: pb.SubscribeRequest, context: Context
    ) -> AsyncIterator[pb.SubscribeResponse]:
        scope = await self._scope(request)
        wanted = (
            frozenset(wire.one_of(t.lower(), "types", sorted(NAMES)) for t in request.types)
            or NAMES
        )
        start, reset = await self._start(request)
        upper = request.upper_case_names
        await request_context.send_headers(context)
        place = event_id(start)
        yield self._signal("connected", place, upper)
        if reset:
            yield self._signal("reset", place, upper)
        batches = follow(
            self._db,
            self._hub,
            scope,
            start,
            idle_seconds=HEARTBEAT_SECONDS,
            on_behind=lambda: ListenerBehind("more than 256 events behind; resume by the last id"),
        )
        async with aclosing(batches):
            async for rows in batches:
                for row in rows:
                    place = event_id((row.txid, row.seq))
                    for message in _live(row, wanted, upper=upper):
                        yield message
                if not rows:
                    yield self._signal("heartbeat", place, upper)

    async def _scope(self, request: pb.WatchEventsRequest | pb.SubscribeRequest) -> Scope:
        caller = request_context.current().caller
        tenant_id = tenant_scope.tenant(caller, request)
        if tenant_id is None:
            return ALL_TENANTS
        if caller.tenant_id is None:
            async with self._db.connection(tenant_id) as conn:
                await tenant_scope.check_tenant_exists(conn, tenant_id)
        return tenant_id

    async def _now(self) -> Cursor:
        async with self._db.connection(ALL_TENANTS) as conn:
            return await store.head(conn)

    async def _start(self, request: pb.SubscribeRequest) -> tuple[Cursor, bool]:
        """Where to start, and whether what came before is lost to the listener."""
        if not request.last_event_id:
            return await self._now(), False
        found = cursor_of(request.last_event_id)
        if found is not None:
            async with self._db.connection(ALL_TENANTS) as conn:
                if await store.resumable(conn, found, since=self._clock.now() - REPLAY):
                    return found, False
        return await self._now(), True

    def _signal(self, name: str, place: str, upper: bool) -> pb.SubscribeResponse:
        return pb.SubscribeResponse(
            id=place,
            event=name.upper() if upper else name,
            timestamp=wire.timestamp(self._clock.now()),
            data=wire.struct({}),
        )


def _live(row: store.Row, wanted: frozenset[str], *, upper: bool) -> Iterator[pb.SubscribeResponse]:
    event = live(row)
    if event is None or event.name not in wanted:
        return
    for name in upper_names(event.name, event.data) if upper else (event.name,):
        yield pb.SubscribeResponse(
            id=event_id((row.txid, row.seq)),
            event=name,
            tenant_id=str(row.tenant_id) if row.tenant_id else None,
            timestamp=wire.timestamp(row.occurred_at),
            data=wire.struct(event.data),
        )


def _cursor(request: pb.WatchEventsRequest) -> tuple[int, int]:
    found = _CURSOR.fullmatch(request.after_cursor)
    if found is None:
        raise Invalid(
            "after_cursor is no cursor of ours", reason="INVALID_PAGE_TOKEN", field="after_cursor"
        )
    return int(found[1]), int(found[2] or 0)


def _wanted(event_type: str, types: Sequence[str]) -> bool:
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
