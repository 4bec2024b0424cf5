"""WatchEvents: live, resumable, and only what the caller may see."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from spotplane.v1 import api_key_pb2, api_key_pb2_grpc, event_pb2, event_pb2_grpc

from tests.support.link import Hand
from tests.support.plane import ADMIN, Metadata, Plane, Tenant, refused


def watch(plane: Plane, metadata: Metadata, **filters: Any) -> Any:
    """Open a watch."""
    return event_pb2_grpc.EventServiceStub(plane.channel).WatchEvents(
        event_pb2.WatchEventsRequest(**filters), metadata=metadata
    )


async def take(call: Any, count: int) -> list[event_pb2.WatchEventsResponse]:
    """The next events; the watch is over then."""
    taken: list[event_pb2.WatchEventsResponse] = []
    async with aclosing(aiter_of(call)) as events:
        async for event in events:
            taken.append(event)
            if len(taken) == count:
                break
    call.cancel()
    return taken


async def aiter_of(call: Any) -> Any:
    """A call's answers as a generator."""
    async for event in call:
        yield event


async def registered(plane: Plane, tenant: Tenant, *names: str) -> list[str]:
    """Register agents of these names; their ids."""
    hand = Hand(plane, tenant)
    return [(await hand.register(f"i-{name}", name=name)).agent_id for name in names]


async def test_watch_shows_what_happens_from_now_on(plane: Plane) -> None:
    """With everything that the event says."""
    tenant = await plane.tenant()
    await registered(plane, tenant, "before")
    call = watch(plane, tenant.metadata, types=["agent.registered"])
    await call.initial_metadata()

    (agent_id,) = await registered(plane, tenant, "after")

    (event,) = await take(call, 1)
    assert (event.event_type, event.aggregate_id) == ("agent.registered", agent_id)
    assert event.tenant_id == tenant.id
    assert event.data["logical_agent_id"] == "after"
    assert event.data["correlation_id"]


async def test_watch_resumes_after_any_cursor(plane: Plane) -> None:
    """What follows it, no more and no less; ids are stable."""
    tenant = await plane.tenant()
    await registered(plane, tenant, *(f"agent-{n}" for n in range(4)))
    wanted = {"types": ["agent.registered"]}
    everything = await take(watch(plane, tenant.metadata, after_cursor="0", **wanted), 4)

    for n, event in enumerate(everything[:-1]):
        rest = everything[n + 1 :]
        again = await take(
            watch(plane, tenant.metadata, after_cursor=event.cursor, **wanted), len(rest)
        )
        assert [e.event_id for e in again] == [e.event_id for e in rest]


async def test_tenants_see_their_own_events_and_administrators_all(plane: Plane) -> None:
    """Even while another tenant's move the end of the log."""
    one, two = await plane.tenant(), await plane.tenant()
    (first,) = await registered(plane, one, "one")
    (second,) = await registered(plane, two, "two")
    kind = {"types": ["agent.registered"], "after_cursor": "0"}

    assert [e.aggregate_id for e in await take(watch(plane, one.metadata, **kind), 1)] == [first]
    assert [e.aggregate_id for e in await take(watch(plane, two.metadata, **kind), 1)] == [second]
    both = await take(watch(plane, ADMIN, **kind), 2)
    assert [e.aggregate_id for e in both] == [first, second]
    of_two = await take(watch(plane, ADMIN, tenant_id=two.id, **kind), 1)
    assert [e.aggregate_id for e in of_two] == [second]


async def test_claim_of_another_tenant_is_refused(plane: Plane) -> None:
    """A tenant key watches its tenant."""
    one, two = await plane.tenant(), await plane.tenant()

    async with refused("TENANT_MISMATCH"):
        await take(watch(plane, one.metadata, tenant_id=two.id), 1)


async def test_types_are_exact_or_open_ended(plane: Plane) -> None:
    """A trailing star matches any end."""
    tenant = await plane.tenant()
    hand = Hand(plane, tenant)
    await hand.register("i-1")
    await hand.register("i-2")

    exact = await take(watch(plane, tenant.metadata, after_cursor="0", types=["agent.moved"]), 2)
    family = await take(watch(plane, tenant.metadata, after_cursor="0", types=["agent.*"]), 3)

    assert {e.event_type for e in exact} == {"agent.moved"}
    assert {e.event_type for e in family} == {"agent.moved", "agent.registered"}


async def test_cursor_that_is_none_is_refused(plane: Plane) -> None:
    """By name."""
    for cursor in ("yesterday", "-1", "1-x", "9" * 30, "²"):
        async with refused("INVALID_PAGE_TOKEN", field="after_cursor"):
            await take(watch(plane, ADMIN, after_cursor=cursor), 1)


async def test_watch_of_a_suspended_key_ends(plane: Plane) -> None:
    """Within a second, with what a new call would get."""
    tenant = await plane.tenant()
    call = watch(plane, tenant.metadata, types=["nothing.ever"])
    await call.initial_metadata()

    await api_key_pb2_grpc.ApiKeyServiceStub(plane.channel).SuspendApiKey(
        api_key_pb2.SuspendApiKeyRequest(key_id=tenant.key_id), metadata=ADMIN
    )

    async with refused("KEY_SUSPENDED"):
        await take(call, 1)


async def test_watch_ends_at_once_when_the_server_drains(plane: Plane) -> None:
    """Its caller resumes at another server, instead of holding this one's shutdown."""
    tenant = await plane.tenant()
    call = watch(plane, tenant.metadata)
    await call.initial_metadata()

    await plane.server.stop()

    async with refused("SERVICE_UNAVAILABLE"):
        await call.read()
