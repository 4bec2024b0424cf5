"""Subscribe: what dashboards see live, resumable by id, for any number of listeners."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import Any

import pytest
from spotplane.v1 import event_pb2, event_pb2_grpc
from spotplane_server.events import dispatcher as hubs
from spotplane_server.events import sse, store
from spotplane_server.events.store import Event
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.events.test_watch import aiter_of
from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.link import Hand
from tests.support.plane import ADMIN, Metadata, Plane, refused


def subscribe(plane: Plane, metadata: Metadata, **filters: Any) -> Any:
    """Open a subscription."""
    return event_pb2_grpc.EventServiceStub(plane.channel).Subscribe(
        event_pb2.SubscribeRequest(**filters), metadata=metadata
    )


async def until(call: Any, name: str) -> list[event_pb2.SubscribeResponse]:
    """Messages up to the first of a name, which ends the subscription."""
    taken = []
    async with asyncio.timeout(10), aclosing(aiter_of(call)) as messages:
        async for message in messages:
            taken.append(message)
            if message.event == name:
                break
    call.cancel()
    return taken


async def test_listener_hears_changes_of_state_after_it_connected(plane: Plane) -> None:
    """With ids that rise, and the members that the contract names."""
    tenant = await plane.tenant()
    call = subscribe(plane, tenant.metadata)
    await call.initial_metadata()

    await Hand(plane, tenant).register("i-1")

    heard = await until(call, "instance_status_change")
    assert heard[0].event == "connected"
    change = heard[-1]
    assert change.tenant_id == tenant.id
    assert dict(change.data)["instance_id"] == "i-1"
    assert dict(change.data)["new_status"] == "launching"
    ids = [int(message.id) for message in heard]
    assert ids == sorted(ids)


async def test_last_event_id_replays_what_was_missed_and_nothing_else(plane: Plane) -> None:
    """Each event once, in the same order."""
    tenant = await plane.tenant()
    hand = Hand(plane, tenant)
    call = subscribe(plane, tenant.metadata)
    await call.initial_metadata()
    await hand.register("i-1", name="one")
    (first, *_rest) = [m for m in await until(call, "instance_status_change") if m.tenant_id]
    await hand.register("i-2", name="two")
    await hand.register("i-3", name="three")

    call = subscribe(
        plane, tenant.metadata, last_event_id=first.id, types=["instance_status_change"]
    )
    seen = []
    async with asyncio.timeout(10), aclosing(aiter_of(call)) as messages:
        async for message in messages:
            if message.event == "instance_status_change":
                seen.append((message.data["instance_id"], message.data["new_status"]))
            if seen and seen[-1] == ("i-3", "running_primary"):
                break
    call.cancel()

    assert seen == [
        ("i-1", "running_primary"),
        ("i-2", "launching"),
        ("i-2", "running_primary"),
        ("i-3", "launching"),
        ("i-3", "running_primary"),
    ]


@pytest.mark.parametrize("last", ["1", "nonsense", "9" * 33], ids=["old", "no-id", "future"])
async def test_id_that_cannot_be_resumed_is_answered_by_reset(
    plane: Plane, clock: FakeClock, last: str
) -> None:
    """So that the page reads everything anew; it goes on from now."""
    tenant = await plane.tenant()
    await Hand(plane, tenant).register("i-1")
    clock.advance(timedelta(hours=25))

    heard = await until(subscribe(plane, tenant.metadata, last_event_id=last), "reset")

    assert [message.event for message in heard] == ["connected", "reset"]


async def test_upper_names_tell_instance_states_twice(plane: Plane) -> None:
    """As pages of the field listen for either."""
    tenant = await plane.tenant()
    call = subscribe(plane, tenant.metadata, upper_case_names=True)
    await call.initial_metadata()

    await Hand(plane, tenant).register("i-1")

    names = [message.event for message in await until(call, "INSTANCE_RUNNING")]
    assert names[0] == "CONNECTED"
    assert names.count("INSTANCE_STATE_CHANGED") == 2
    assert "INSTANCE_LAUNCHING" in names


async def test_tenants_hear_only_of_themselves_and_may_not_ask_for_others(plane: Plane) -> None:
    """Administrators hear all."""
    one, two = await plane.tenant(), await plane.tenant()
    of_one, of_all = subscribe(plane, one.metadata), subscribe(plane, ADMIN)
    await asyncio.gather(of_one.initial_metadata(), of_all.initial_metadata())

    await Hand(plane, two).register("i-two")
    await Hand(plane, one).register("i-one")

    mine = await until(of_one, "instance_status_change")
    assert mine[-1].data["instance_id"] == "i-one"
    assert {m.tenant_id for m in mine if m.tenant_id} == {one.id}
    every = await until(of_all, "instance_status_change")
    assert every[-1].data["instance_id"] == "i-two"
    async with refused("TENANT_MISMATCH"):
        await until(subscribe(plane, one.metadata, tenant_id=two.id), "connected")


async def _append(plane: Plane, tenant_id: Any, count: int, now: Any) -> None:
    async with plane.db.transaction(ALL_TENANTS) as conn:
        for n in range(count):
            data = {"agent_id": str(n), "old_status": "online", "new_status": "offline"}
            await store.append(conn, Event("agent.status_changed", str(n), data, tenant_id), now)


async def test_slow_listener_is_sent_away_and_misses_nothing_by_its_id(
    plane: Plane, clock: FakeClock
) -> None:
    """More than 256 behind; what it read before is in order and without gap."""
    hub = hubs.EventHub(plane.db)
    running = asyncio.create_task(hub.run())
    async with plane.db.connection(ALL_TENANTS) as conn:
        start = await store.head(conn)
    count = hubs.QUEUE + 50
    seen: list[str] = []
    batches = hubs.follow(
        plane.db, hub, ALL_TENANTS, start, idle_seconds=0.05, on_behind=OverflowError
    )
    async with aclosing(batches):
        await anext(batches)  # it listens now
        for _ in range(5):
            await _append(plane, None, count, clock.now())
        async with plane.db.connection(ALL_TENANTS) as conn:
            end = await store.newest(conn)
        await eventually(lambda: hub.place == end)  # while nothing is taken
        place = start
        with suppress(OverflowError):
            async for rows in batches:
                seen += [row.aggregate_id for row in rows]
                if rows:
                    place = (rows[-1].txid, rows[-1].seq)
        assert len(seen) == hubs.QUEUE

    async with aclosing(hubs.follow(plane.db, hub, ALL_TENANTS, place)) as rest:
        async for rows in rest:
            seen += [row.aggregate_id for row in rows]
            if len(seen) >= 5 * count:
                break
    running.cancel()
    assert seen == [str(n) for _ in range(5) for n in range(count)]


def test_event_ids_name_their_place() -> None:
    """And rise with it."""
    places = [(1, 0), (1, 1), (1, 10**14), (2, 0), (2**62, 7)]
    ids = [sse.event_id(place) for place in places]

    assert [sse.cursor(found) for found in ids] == places
    assert [int(found) for found in ids] == sorted(int(found) for found in ids)
    assert sse.cursor("") is None
    assert sse.cursor("-1") is None
    assert sse.cursor("²") is None


async def test_unknown_type_is_refused_by_name(plane: Plane) -> None:
    """A mistyped filter would otherwise wait for ever."""
    async with refused("UNKNOWN_ENUM", field="types"):
        await until(subscribe(plane, ADMIN, types=["agent_status_changed"]), "connected")
