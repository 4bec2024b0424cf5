"""Limits of open streams, and what happens to a caller that does not read them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import grpc.aio
import pytest
from prometheus_client import REGISTRY
from spotplane.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
    usage_pb2_grpc,
)
from spotplane.v1 import agent_stream_pb2 as pb
from spotplane_bench.abuse import attacks_streams, http2
from spotplane_bench.abuse.target import Outcome, Size
from spotplane_server.kernel.rpc import stream_registry

from tests.abuse.conftest import SUBSCRIPTIONS, Stack
from tests.support.eventually import eventually
from tests.support.link import by_hand
from tests.support.plane import ADMIN, Metadata, Plane, Refusal, bearer, refusal

CONNECT = "/spotplane.v1.AgentService/Connect"
WATCH = "/spotplane.v1.EventService/WatchEvents"


def subscribe(stack: Stack, metadata: Metadata) -> Any:
    """Open a subscription to events."""
    stub = event_pb2_grpc.EventServiceStub(stack.plane.channel)
    return stub.Subscribe(event_pb2.SubscribeRequest(), metadata=metadata)


async def drained(call: Any) -> None:
    """Read a stream to its end."""
    async for _ in call:
        pass


async def end_of(call: Any) -> tuple[Refusal, dict[str, Any]]:
    """Wait for the error that a stream ends with; also its trailers."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await drained(call)
    return refusal(failed.value), dict(iter(failed.value.trailing_metadata()))


async def subscribed(stack: Stack, metadata: Metadata, count: int) -> list[Any]:
    """Subscriptions that have received their first event."""
    calls = [subscribe(stack, metadata) for _ in range(count)]
    for call in calls:
        assert (await call.read()).event == "connected"
    return calls


async def test_a_credential_has_so_many_subscriptions_and_no_more(stack: Stack) -> None:
    calls = await subscribed(stack, stack.hand.metadata, SUBSCRIPTIONS)

    refused, trailers = await end_of(subscribe(stack, stack.hand.metadata))

    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STREAM_LIMIT")
    assert refused.metadata["limit"] == str(SUBSCRIPTIONS)
    assert int(trailers["retry-after"]) >= 1
    calls[0].cancel()

    async def again() -> bool:
        call = subscribe(stack, stack.hand.metadata)
        try:
            return bool((await call.read()).event)
        except grpc.aio.AioRpcError:
            return False

    await eventually(again)


async def test_watches_and_subscriptions_share_a_limit_and_tenants_do_not(stack: Stack) -> None:
    calls = await subscribed(stack, stack.hand.metadata, SUBSCRIPTIONS)
    other = await stack.plane.tenant()

    stub = event_pb2_grpc.EventServiceStub(stack.plane.channel)
    watch = stub.WatchEvents(event_pb2.WatchEventsRequest(), metadata=stack.hand.metadata)
    assert (await end_of(watch))[0].reason == "STREAM_LIMIT"
    calls += await subscribed(stack, other.metadata, 1)


async def test_the_keys_of_a_tenant_share_its_limit(stack: Stack) -> None:
    calls = await subscribed(stack, stack.hand.metadata, SUBSCRIPTIONS)
    second = await stack.plane.key(stack.hand.tenant.id, role="read_only")
    calls += await subscribed(stack, bearer(second.key), 1)

    assert (await end_of(subscribe(stack, bearer(second.key))))[0].reason == "STREAM_LIMIT"


async def test_event_streams_over_http_beyond_the_limit_are_429(stack: Stack) -> None:
    outcome = await attacks_streams.sse_opening(
        await stack.target(), Size(0.2, 0, SUBSCRIPTIONS + 2, 0)
    )
    assert outcome == {"200": SUBSCRIPTIONS, "429": 2}


async def test_uploads_that_are_never_finished_are_limited(stack: Stack) -> None:
    stub = usage_pb2_grpc.UsageServiceStub(stack.plane.channel)
    open_calls = [
        stub.IngestUsage(metadata=stack.hand.metadata)
        for _ in range(stream_registry.TRANSFERS.credential + 4)
    ]
    done: list[Any] = []

    async def refused() -> bool:
        done[:] = [call for call in open_calls if call.done()]
        return len(done) == 4

    await eventually(refused)
    assert {await call.code() for call in done} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_health_watches_without_a_credential_are_limited(stack: Stack) -> None:
    channel: Any = stack.plane.channel  # its stubs send bytes as they are
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
    open_calls = [watch(b"") for _ in range(stream_registry.PUBLIC.credential + 2)]
    await eventually(lambda: sum(call.done() for call in open_calls) == 2)


async def test_agent_streams_without_a_session_are_limited_and_those_with_one_are_not(
    plane: Plane,
) -> None:
    async with by_hand(plane) as hand:
        stack = Stack(plane, hand, bridge="")
        target = await stack.target()
        session = await hand.connect(target.agent_id, target.instance_id)

        outcome = await attacks_streams.stream_opening(
            target, Size(3, 0, stream_registry.AGENTS.credential + 20, 0)
        )

        assert outcome == {"RESOURCE_EXHAUSTED": 20, "held": stream_registry.AGENTS.credential}
        await session.beat()


async def test_agent_stream_without_a_first_message_ends(stack: Stack) -> None:
    stub = agent_pb2_grpc.AgentServiceStub(stack.plane.channel)
    call = stub.Connect(metadata=stack.hand.metadata)
    await call.write(pb.ConnectRequest())  # the call is open, and still without a session
    assert (await end_of(call))[0].code is grpc.StatusCode.FAILED_PRECONDITION

    silent = stub.Connect(metadata=stack.hand.metadata)
    await silent.wait_for_connection()
    assert (await end_of(silent))[0].code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_subscription_that_is_not_read_is_released(stack: Stack) -> None:
    await cause_events(stack, 3)
    connection = await http2.Connection.open(stack.plane.target, window=0)
    request = event_pb2.WatchEventsRequest(after_cursor="0").SerializeToString()
    await connection.send(http2.call(1, WATCH, dict(stack.hand.metadata)))
    await connection.send(http2.message(1, request, end=True))
    await eventually(lambda: connection.seen["headers"] == 1)
    ended = counted("WatchEvents")

    await eventually(lambda: counted("WatchEvents") > ended)

    # The status waits behind what is not read: once there is room for that, it is received.
    assert not connection.reset_streams
    await connection.send(http2.window_update(1, 1 << 20))
    await eventually(lambda: 1 in connection.reset_streams)
    await connection.close()


async def test_agent_stream_that_is_not_read_loses_its_session(stack: Stack) -> None:
    target = await stack.target()
    connection = await http2.Connection.open(stack.plane.target, window=0)
    hello = pb.ConnectRequest(hello=pb.Hello(agent_id=target.agent_id, instance_id="i-abuse"))
    await connection.send(http2.call(1, CONNECT, dict(stack.hand.metadata)))
    await connection.send(http2.message(1, hello.SerializeToString()))
    request = agent_pb2.GetAgentRequest(agent_id=target.agent_id)

    async def connected() -> bool:
        agent = await stack.hand.stub.GetAgent(request, metadata=stack.hand.metadata)
        return bool(agent.connected)

    await eventually(connected, every=0.15)

    async def disconnected() -> bool:
        return not await connected()

    await eventually(disconnected, every=0.15)
    await connection.close()


async def test_stuck_streams_count_until_their_connection_is_gone(stack: Stack) -> None:
    await cause_events(stack, 3)
    connection = await http2.Connection.open(stack.plane.target, window=0)
    request = event_pb2.WatchEventsRequest(after_cursor="0").SerializeToString()
    ended = counted("WatchEvents")
    for stream_id in range(1, 2 * SUBSCRIPTIONS + 1, 2):
        await connection.send(http2.call(stream_id, WATCH, dict(stack.hand.metadata)))
        await connection.send(http2.message(stream_id, request, end=True))
    await eventually(lambda: counted("WatchEvents") >= ended + SUBSCRIPTIONS)

    assert (await end_of(subscribe(stack, stack.hand.metadata)))[0].reason == "STREAM_LIMIT"
    await connection.close()

    async def again() -> bool:
        call = subscribe(stack, stack.hand.metadata)
        try:
            return bool((await call.read()).event)
        except grpc.aio.AioRpcError:
            return False

    await eventually(again)


async def test_event_stream_over_http_that_is_not_read_is_closed(stack: Stack) -> None:
    target = await stack.target()
    outcome: Outcome = Counter()
    opened = attacks_streams.event_streams(
        target, Size(0, 0, 2, 0), outcome, buffer=attacks_streams.SMALL_BUFFER
    )
    async with opened as peers:
        assert outcome == {"200": 2}
        await eventually(lambda: REGISTRY.get_sample_value("event_listeners") == 2)

        await attacks_streams.store_events(target, 1_500)

        await eventually(lambda: REGISTRY.get_sample_value("event_listeners") == 0)
        assert all([await attacks_streams.is_closed(reader) for reader, _ in peers])


async def cause_events(stack: Stack, count: int) -> None:
    """Store events of the attacker's tenant."""
    tenants = tenant_pb2_grpc.TenantServiceStub(stack.plane.channel)
    for n in range(count):
        await tenants.UpdateTenant(
            tenant_pb2.UpdateTenantRequest(id=stack.hand.tenant.id, name=f"Renamed {n}"),
            metadata=ADMIN,
        )


def counted(method: str) -> float:
    """Streams of a method that were ended because their caller did not read."""
    labels = {"service": "EventService", "method": method, "code": "RESOURCE_EXHAUSTED"}
    return REGISTRY.get_sample_value("grpc_server_handled_total", labels) or 0.0
