"""Reading the audit trail: pages, filters, spans, one event."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from spotplane.v1 import audit_pb2 as pb
from spotplane.v1 import audit_pb2_grpc
from spotplane_server import audit
from spotplane_server.audit import store
from spotplane_server.kernel.api.paging import Page
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn
from spotplane_server.kernel.request_context import Call, Caller

from tests.support.clock import FakeClock
from tests.support.plane import ADMIN, Plane, refused
from tests.tenants.api import admin, holder, outcome

COUNT = 7


@dataclass(frozen=True)
class Trail:
    """A plane with seven events of ``mark``, a minute apart, the newest last."""

    plane: Plane
    mark: str

    async def list(self, **fields: Any) -> pb.ListAuditEventsResponse:
        """A page."""
        stub = audit_pb2_grpc.AuditServiceStub(self.plane.channel)
        answer: pb.ListAuditEventsResponse = await stub.ListAuditEvents(
            pb.ListAuditEventsRequest(**fields), metadata=ADMIN
        )
        return answer

    async def get(self, event_id: str) -> pb.AuditEvent:
        """One event."""
        stub = audit_pb2_grpc.AuditServiceStub(self.plane.channel)
        event: pb.AuditEvent = await stub.GetAuditEvent(
            pb.GetAuditEventRequest(id=event_id), metadata=ADMIN
        )
        return event


async def _record(conn: Conn, mark: str, number: int, at: Any) -> None:
    caller = Caller("admin", str(uuid4()), f"actor-{number % 2}")
    call = Call("m", f"call-{number}", caller, client_ip="10.0.0.1", user_agent="test")
    change = audit.Change("thing.change", mark, str(number), after={"n": number})
    await audit.record(conn, call, change, at)


@pytest.fixture
async def trail(plane: Plane, clock: FakeClock) -> Trail:
    """Events of a kind that nothing else writes."""
    mark = f"thing-{uuid4().hex}"
    async with plane.db.transaction(ALL_TENANTS) as conn:
        for number in range(COUNT):
            # Two of them at the same instant, which only the id tells apart.
            minutes = COUNT - max(number, 1)
            await _record(conn, mark, number, clock.now() - timedelta(minutes=minutes))
    return Trail(plane, mark)


async def test_pages_by_token_by_offset_and_all_at_once_are_the_same_events(trail: Trail) -> None:
    """Newest first, each once, with the total on every page, also beyond the last."""
    whole = await trail.list(resource_type=trail.mark)
    by_token: list[pb.AuditEvent] = []
    by_offset: list[pb.AuditEvent] = []
    token = ""
    while not by_token or token:
        more = {"page_token": token} if token else {}
        page = await trail.list(resource_type=trail.mark, limit=1, **more)
        by_token += page.data
        token = page.pagination.next_page_token
        assert (page.pagination.total, page.pagination.has_more) == (COUNT, bool(token))
    for offset in range(0, COUNT, 3):
        by_offset += (await trail.list(resource_type=trail.mark, limit=3, offset=offset)).data

    assert list(whole.data) == by_token == by_offset
    assert [event.resource_id for event in whole.data][:5] == ["6", "5", "4", "3", "2"]
    beyond = await trail.list(resource_type=trail.mark, offset=COUNT)
    assert (len(beyond.data), beyond.pagination.total) == (0, COUNT)


async def test_events_written_meanwhile_do_not_shift_pages_by_token(
    trail: Trail, clock: FakeClock
) -> None:
    """Nothing is shown twice or missed."""
    first = await trail.list(resource_type=trail.mark, limit=4)
    clock.advance(timedelta(seconds=1))
    async with trail.plane.db.transaction(ALL_TENANTS) as conn:
        await _record(conn, trail.mark, 99, clock.now() - timedelta(milliseconds=1))

    token = first.pagination.next_page_token
    second = await trail.list(resource_type=trail.mark, limit=4, page_token=token)

    seen = {event.resource_id for event in (*first.data, *second.data)}
    assert seen == {str(number) for number in range(COUNT)}


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"actor": "actor-1"}, {"1", "3", "5"}),
        ({"correlation_id": "call-4"}, {"4"}),
        ({"resource_id": "2"}, {"2"}),
        ({"resource_id": "2", "actor": "actor-1"}, set()),
        ({"action": "thing.change", "resource_id": "6"}, {"6"}),
        ({"action": "thing"}, set()),
        ({"tenant_id": str(uuid4())}, set()),
    ],
)
async def test_filters_hold_all_together_and_in_full(
    trail: Trail, filters: dict[str, str], found: set[str]
) -> None:
    """One that names nothing known finds nothing."""
    page = await trail.list(resource_type=trail.mark, **filters)

    assert {event.resource_id for event in page.data} == found
    assert page.pagination.total == len(found)


async def test_span_includes_its_start_and_not_its_end(trail: Trail) -> None:
    """And is the last 30 days by default."""
    whole = (await trail.list(resource_type=trail.mark)).data
    newest, third = (whole[n].occurred_at.ToJsonString() for n in (0, 2))

    page = await trail.list(resource_type=trail.mark, start_date=third, end_date=newest)

    assert [event.resource_id for event in page.data] == ["5", "4"]


async def test_actor_is_found_by_id(trail: Trail) -> None:
    """As well as by name."""
    [event] = (await trail.list(resource_type=trail.mark, resource_id="3")).data

    found = await trail.list(actor=event.actor_id)

    assert list(found.data) == [event]
    assert await trail.get(event.id) == event


async def test_bad_requests_name_their_field(trail: Trail) -> None:
    """Nothing is clamped or ignored."""
    token = (await trail.list(resource_type=trail.mark, limit=1)).pagination.next_page_token
    for reason, field, fields in (
        ("INVALID_ID", "tenant_id", {"tenant_id": "x"}),
        ("OUT_OF_RANGE", "limit", {"limit": 0}),
        ("OUT_OF_RANGE", "limit", {"limit": 101}),
        ("OUT_OF_RANGE", "offset", {"offset": -1}),
        ("OUT_OF_RANGE", "actor", {"actor": "x" * 513}),
        ("INVALID_DATE", "start_date", {"start_date": "2026-01-01"}),
        (
            "SEMANTIC",
            "start_date",
            {"start_date": "2026-01-02T00:00:00Z", "end_date": "2026-01-02T00:00:00Z"},
        ),
        (
            "SEMANTIC",
            "start_date",
            {"start_date": "2024-01-01T00:00:00Z", "end_date": "2026-01-02T00:00:00Z"},
        ),
        ("INVALID_PAGE_TOKEN", "page_token", {"page_token": token}),
        ("INVALID_PAGE_TOKEN", "page_token", {"page_token": "forged"}),
        (
            "INVALID_PAGE_TOKEN",
            "page_token",
            {"resource_type": trail.mark, "page_token": token, "offset": 0},
        ),
    ):
        async with refused(reason, field=field):
            await trail.list(**fields)
    async with refused("INVALID_ID", field="id"):
        await trail.get("7")
    async with refused("AUDIT_EVENT_NOT_FOUND"):
        await trail.get(str(uuid4()))


async def test_event_says_who_what_and_from_where(trail: Trail) -> None:
    """Of a change with its fields before and after, of a refusal its reason."""
    tenant = await trail.plane.tenant(role="read_only")
    call = admin(trail.plane)("UpdateTenant", id=tenant.id, name="After")
    await call
    request_id = dict(iter(await call.trailing_metadata()))["x-request-id"]
    assert await outcome(holder(trail.plane, tenant.key)("CreateOwnApiKey")) == "ROLE_FORBIDDEN"
    trail.plane.server.kernel.clock.advance(timedelta(seconds=1))  # type: ignore[attr-defined]

    [changed] = (await trail.list(action="tenant.update", tenant_id=tenant.id)).data
    [refusal] = (await trail.list(action="call.refuse", tenant_id=tenant.id)).data

    assert (changed.actor_type, changed.actor_name, changed.result) == (
        "admin",
        "bootstrap",
        "success",
    )
    assert (dict(changed.before), dict(changed.after)) == ({"name": "Test"}, {"name": "After"})
    assert (changed.resource_type, changed.resource_id) == ("tenant", tenant.id)
    assert (changed.correlation_id, changed.ip) == (request_id, "127.0.0.1")
    assert changed.user_agent.startswith("grpc-python")
    assert (refusal.actor_type, refusal.actor_id, refusal.result) == (
        "api_key",
        tenant.key_id,
        "failure",
    )
    assert dict(refusal.after) == {"reason": "ROLE_FORBIDDEN"}
    assert not refusal.HasField("before")


@pytest.mark.parametrize("rows", [1, 60])
async def test_page_takes_one_statement_whatever_its_length(
    trail: Trail, clock: FakeClock, rows: int
) -> None:
    """None for each row."""
    mark, end = f"many-{trail.mark}", clock.now()
    ran: list[Any] = []
    async with trail.plane.db.transaction(ALL_TENANTS) as conn:
        for number in range(rows):
            await _record(conn, mark, number, end - timedelta(minutes=1))
        conn.add_query_logger(ran.append)
        found = await store.list_events(
            conn,
            Page(100, 0, None, ""),
            store.Filters(None, None, None, mark, None, None),
            start=end - timedelta(days=1),
            end=end,
        )
        conn.remove_query_logger(ran.append)

    assert (len(found.items), found.total, len(ran)) == (rows, rows, 1)
