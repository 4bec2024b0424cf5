"""AuditService: lists audit entries."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from spotplane.v1 import audit_pb2 as pb
from spotplane.v1 import audit_pb2_grpc

from spotplane_server.audit import store
from spotplane_server.kernel.api import paging, time_ranges, wire
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.errors import NotFound
from spotplane_server.kernel.rpc.interceptor import Context

# As long as the longest that can be in a row: a request id, a path, a user agent's share of it.
MAX_FILTER: Final = 512


class AuditEventNotFound(NotFound):
    """There is no such event, or none any more."""

    reason = "AUDIT_EVENT_NOT_FOUND"


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    """Shows who changed what."""

    def __init__(self, db: Database, clock: Clock, tokens: PageTokens) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens

    async def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, context: Context
    ) -> pb.ListAuditEventsResponse:
        filters = _filters(request)
        start, end = time_ranges.read(request, self._clock.now())
        # As they were asked for: a span that ends now has moved on by the next page.
        asked = {name: wire.optional_instant(request, name) for name in ("start_date", "end_date")}
        page = paging.read(
            request, self._tokens, default=50, maximum=100, filters=asdict(filters) | asked
        )
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await store.list_events(conn, page, filters, start=start, end=end)
        events, pagination = paging.answer(
            page, found, self._tokens, lambda event: (event.occurred_at, event.id)
        )
        return pb.ListAuditEventsResponse(
            data=[_message(event) for event in events], pagination=pagination
        )

    async def GetAuditEvent(
        self, request: pb.GetAuditEventRequest, context: Context
    ) -> pb.AuditEvent:
        event_id = wire.uuid(request.id, "id", "audit event ID")
        async with self._db.connection(ALL_TENANTS) as conn:
            event = await store.find_event(conn, event_id)
        if event is None:
            raise AuditEventNotFound("audit event not found", id=str(event_id))
        return _message(event)


def _filters(request: pb.ListAuditEventsRequest) -> store.Filters:
    return store.Filters(
        wire.optional_uuid(request, "tenant_id", "tenant ID"),
        *(
            wire.optional_text(request, name, maximum=MAX_FILTER)
            for name in ("actor", "action", "resource_type", "resource_id", "correlation_id")
        ),
    )


def _message(event: store.Event) -> pb.AuditEvent:
    return pb.AuditEvent(
        id=str(event.id),
        occurred_at=wire.timestamp(event.occurred_at),
        actor_type=event.actor_type,
        actor_id=event.actor_id,
        actor_name=event.actor_name,
        action=event.action,
        resource_type=event.resource_type,
        resource_id=event.resource_id,
        tenant_id=None if event.tenant_id is None else str(event.tenant_id),
        before=None if event.before is None else wire.struct(event.before),
        after=None if event.after is None else wire.struct(event.after),
        correlation_id=event.correlation_id,
        ip=event.ip,
        user_agent=event.user_agent,
        result=event.result,
    )
