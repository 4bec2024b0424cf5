"""Who holds an instance's stream: fencing, rights, goodbyes and drains."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import grpc
from spotplane.v1 import agent_pb2, api_key_pb2, api_key_pb2_grpc, tenant_pb2, tenant_pb2_grpc
from spotplane.v1 import agent_stream_pb2 as pb
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.fleet import Calls, simulated
from tests.support.link import Hand, listening, run_job
from tests.support.plane import ADMIN, Plane, refused, running


async def last_heard(plane: Plane, instance_id: str) -> datetime:
    """When an instance was last heard of."""
    async with plane.db.connection(ALL_TENANTS) as conn:
        at: datetime = await conn.fetchval(
            "SELECT last_heartbeat_at FROM agent_sessions WHERE instance_id = $1", instance_id
        )
    return at


async def test_newer_session_ends_the_older(hand: Hand) -> None:
    """The newer one is right: the older may be a process that hangs."""
    agent_id, old = await hand.start("i-1")
    new = await hand.connect(agent_id, "i-1")

    said = await old.end()

    assert said is not None
    assert (said.code, said.reason) == (grpc.StatusCode.ABORTED, "SESSION_REPLACED")
    assert (await new.beat()).seq == 1


async def test_newer_session_on_another_server_ends_the_older(
    plane: Plane, hand: Hand, clock: FakeClock
) -> None:
    """Servers tell each other."""
    async with running(plane.database_url, clock) as second:
        agent_id, old = await hand.start("i-1")
        new = await hand.connect(agent_id, "i-1", second)

        said = await old.end()

        assert said is not None
        assert said.reason == "SESSION_REPLACED"
        assert (await new.beat()).seq == 1
        await new.vanish()


async def test_replaced_session_cannot_refresh_liveness(
    plane: Plane, hand: Hand, clock: FakeClock
) -> None:
    """Heartbeats of an older epoch are written nowhere, even before anybody ended its stream."""
    agent_id, old = await hand.start("i-1")
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute("UPDATE agent_sessions SET epoch = epoch + 1, session_id = $1", agent_id)
    seen = await last_heard(plane, "i-1")

    clock.advance(timedelta(seconds=20))
    await old.beat()

    said = await old.end()
    assert said is not None
    assert said.reason == "SESSION_REPLACED"
    assert await last_heard(plane, "i-1") == seen


async def test_goodbye_of_a_replaced_session_means_nothing(
    plane: Plane, hand: Hand, calls: Calls
) -> None:
    """The newer session is there."""
    agent_id, old = await hand.start("i-1")
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute("UPDATE agent_sessions SET epoch = epoch + 1, session_id = $1", agent_id)

    await old.say(goodbye=pb.Goodbye())
    await old.end()

    assert (await calls.agent(agent_id)).status == "online"


async def test_sessions_of_two_instances_live_side_by_side(hand: Hand) -> None:
    """A session is an instance's, not an agent's."""
    agent_id, first = await hand.start("i-1")
    _, second = await hand.start("i-2")

    assert (await first.beat()).seq == 1
    assert (await second.beat()).seq == 1
    assert (await first.hear("desired_state")).role == "primary"
    assert (await first.hear("desired_state")).role == "retired"
    assert agent_id


async def test_suspended_key_ends_open_streams(plane: Plane, hand: Hand) -> None:
    """Within a second or so, with what a new call would get."""
    _, stream = await hand.start("i-1")
    stub = api_key_pb2_grpc.ApiKeyServiceStub(plane.channel)

    await stub.SuspendApiKey(
        api_key_pb2.SuspendApiKeyRequest(key_id=hand.tenant.key_id),
        metadata=ADMIN,
    )

    said = await stream.end()
    assert said is not None
    assert (said.code, said.reason) == (grpc.StatusCode.PERMISSION_DENIED, "KEY_SUSPENDED")


async def test_suspended_tenant_is_refused_at_once_on_a_second_server(
    plane: Plane, hand: Hand, clock: FakeClock
) -> None:
    """No server remembers a right that is gone; its open streams end there as well."""
    async with running(plane.database_url, clock) as second:
        agent_id = (await hand.register("i-1")).agent_id
        elsewhere = Hand(second, hand.tenant)
        stream = await elsewhere.connect(agent_id, "i-1")
        await elsewhere.register("i-1")

        await tenant_pb2_grpc.TenantServiceStub(plane.channel).SuspendTenant(
            tenant_pb2.SuspendTenantRequest(id=hand.tenant.id), metadata=ADMIN
        )

        async with refused("TENANT_SUSPENDED"):
            await elsewhere.register("i-1")
        said = await stream.end()
        assert said is not None
        assert said.reason == "TENANT_SUSPENDED"
        await elsewhere.close()


async def test_goodbye_takes_the_agent_offline_and_is_no_loss(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """Who left on purpose is not failed over, however long it is silent."""
    agent_id, stream = await hand.start("i-1")

    await stream.say(goodbye=pb.Goodbye(reason="maintenance"))

    assert await stream.end() is None
    assert (await calls.agent(agent_id)).status == "offline"
    await listening(plane)
    clock.advance(timedelta(minutes=10))
    await run_job(plane, "failover")
    assert await calls.failovers_of(agent_id) == []


async def test_instance_that_comes_back_after_a_goodbye_is_online(hand: Hand, calls: Calls) -> None:
    """A restart of the agent is a goodbye and a hello."""
    agent_id, stream = await hand.start("i-1")
    await stream.say(goodbye=pb.Goodbye())
    await stream.end()

    await hand.connect(agent_id, "i-1")

    assert (await calls.agent(agent_id)).status == "online"


async def test_server_that_stops_sends_agents_away_with_a_slot(
    database_url: str, clock: FakeClock
) -> None:
    """The stream ends well, after the slot to come back at."""
    async with running(database_url, clock) as plane:
        hand = Hand(plane, await plane.tenant())
        _, stream = await hand.start("i-1")
        await plane.server.stop()

        order = await stream.hear("reconnect")
        assert order.delay.ToTimedelta() > timedelta(0)
        assert await stream.end() is None


async def test_agent_of_a_stopped_server_comes_back_to_another(
    database_url: str, tmp_path: Path
) -> None:
    """A rolling restart costs an agent one reconnect and nobody an alarm."""
    async with running(database_url) as first:
        tenant = await first.tenant()
        async with simulated(tmp_path, first.target, tenant) as fleet:
            instance = await fleet.start()
            agent = instance.agent
            assert agent is not None
            async with running(database_url, port=first.server.port) as second:
                await first.server.stop()

                def back() -> bool:
                    return agent.connected and agent.last_error is None

                async def at_the_second() -> bool:
                    async with second.db.connection(ALL_TENANTS) as conn:
                        server_id = await conn.fetchval("SELECT server_id FROM agent_sessions")
                    return bool(server_id == second.server.kernel.server_id)

                await eventually(at_the_second)
                await eventually(back)
                calls = Calls(second.channel, tenant)
                assert (await calls.agent(str(agent.agent_id))).status == "online"


async def test_deleting_an_agent_ends_all_its_streams(hand: Hand) -> None:
    """The primary's and the others'."""
    agent_id, first = await hand.start("i-1")
    _, second = await hand.start("i-2")

    await hand.stub.DeleteAgent(
        agent_pb2.DeleteAgentRequest(agent_id=agent_id), metadata=hand.metadata
    )

    for stream in (first, second):
        said = await stream.end()
        assert said is not None
        assert said.reason == "AGENT_NOT_FOUND"
