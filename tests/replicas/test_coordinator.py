"""The coordinator: exactly one replica for every agent in manual mode."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from spotplane.v1 import agent_stream_pb2 as pb
from spotplane.v1 import replica_pb2

from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.fleet import ZONES, Calls
from tests.support.link import Conversation, Hand, bind, jump, run_job
from tests.support.plane import Plane, running


async def replicas(calls: Calls, agent_id: str) -> list[replica_pb2.Replica]:
    """All there ever were, newest first."""
    answer = await calls.replicas.ListReplicas(
        replica_pb2.ListReplicasRequest(agent_id=agent_id, include_terminated=True),
        metadata=calls.metadata,
    )
    return list(answer.data)


async def manual(hand: Hand, calls: Calls) -> tuple[str, Conversation]:
    """An agent in manual mode whose pools have prices."""
    agent_id, stream = await hand.start("i-1")
    await hand.prices(stream)
    await calls.configure(agent_id, manual_replica_enabled=True)
    return agent_id, stream


async def test_parallel_runs_of_two_servers_cover_an_agent_once(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """Whoever wins, there is one replica and one order."""
    async with running(plane.database_url, clock) as second:
        agent_id, stream = await manual(hand, calls)

        await asyncio.gather(
            *(run_job(server, "replica-coordinator") for server in (plane, second) * 5)
        )

        (replica,) = await replicas(calls, agent_id)
        assert (replica.status, replica.created_by) == ("launching", "coordinator")
        assert replica.instance_id.startswith("replica-")
        order = await stream.hear("command")
        assert order.parameters["replica_id"] == replica.id
        await stream.beat()
        assert not [r for r in stream.heard if r.WhichOneof("kind") == "command"]


async def test_failed_launch_is_tried_again_after_a_minute_then_two(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """Not before, and not for ever at the same pace."""
    agent_id, stream = await manual(hand, calls)
    for failures, wait in ((1, 60), (2, 120)):
        replica = await calls.replica(agent_id, status="launching")
        await stream.report(
            replica=pb.ReplicaReport(replica_id=replica.id, status="failed", message="no capacity")
        )
        await jump(plane, clock, timedelta(seconds=wait - 10))
        await run_job(plane, "replica-coordinator")
        assert len(await replicas(calls, agent_id)) == failures
        await jump(plane, clock, timedelta(seconds=11))
        await run_job(plane, "replica-coordinator")
        assert len(await replicas(calls, agent_id)) == failures + 1


async def test_pool_is_left_alone_after_three_failures(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """For an hour; the next one in price has its turn."""
    agent_id, stream = await manual(hand, calls)
    zones = []
    for _ in range(4):
        replica = await calls.replica(agent_id, status="launching")
        zones.append(replica.az)
        await stream.report(replica=pb.ReplicaReport(replica_id=replica.id, status="failed"))
        await jump(plane, clock, timedelta(minutes=9))
        await run_job(plane, "replica-coordinator")

    assert zones == [ZONES[1]] * 3 + [ZONES[2]]


async def test_replica_that_is_lost_is_replaced(plane: Plane, hand: Hand, calls: Calls) -> None:
    """The cloud took its instance."""
    agent_id, stream = await manual(hand, calls)
    first = await calls.replica(agent_id, status="launching")
    instance_id = await bind(stream, first.id)

    await stream.report(termination=pb.TerminationReport(instance_id=instance_id))
    await run_job(plane, "replica-coordinator")

    second = await calls.replica(agent_id, status="launching")
    assert second.id != first.id


async def test_end_of_manual_mode_ends_the_replica(plane: Plane, hand: Hand, calls: Calls) -> None:
    """Its instance is ordered to be ended."""
    agent_id, stream = await manual(hand, calls)
    replica = await calls.replica(agent_id, status="launching")
    instance_id = await bind(stream, replica.id)

    await calls.configure(agent_id, manual_replica_enabled=False)
    await run_job(plane, "replica-coordinator")

    assert [r.status for r in await replicas(calls, agent_id)] == ["terminated"]

    async def ordered() -> bool:
        order = await stream.hear("command")
        return (order.type, order.parameters.fields["instance_id"].string_value) == (
            "terminate_replica",
            instance_id,
        )

    await eventually(ordered)


async def test_end_that_nobody_confirmed_is_ordered_again_from_the_new_primary(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """The instance that had the order is gone, and the replica's would run on for ever."""
    agent_id, stream = await manual(hand, calls)
    launch, instance_id = await stream.hear("command"), "i-standby"
    await stream.finish(launch.command_id, instance_id=instance_id)
    await calls.configure(agent_id, manual_replica_enabled=False)
    await run_job(plane, "replica-coordinator")
    await calls.replica(agent_id, status="terminated")
    await stream.vanish()
    _, new = await hand.start("i-2")

    await jump(plane, clock, timedelta(minutes=11), but="i-1")
    await run_job(plane, "commands")
    await run_job(plane, "replica-coordinator")

    order = await new.hear("command")
    assert (order.type, order.parameters["instance_id"]) == ("terminate_replica", instance_id)
    await new.report(termination=pb.TerminationReport(instance_id=instance_id))
    assert (await replicas(calls, agent_id))[0].termination_confirmed


async def test_replica_whose_launch_was_called_off_is_replaced(
    plane: Plane, hand: Hand, calls: Calls
) -> None:
    """The order was for an instance that is no longer primary, and never left."""
    agent_id, _ = await manual(hand, calls)
    first = await calls.replica(agent_id, status="launching")
    async with plane.db.transaction("*") as conn:
        await conn.execute("UPDATE agent_commands SET status = 'cancelled', done_at = now()")

    await run_job(plane, "replica-coordinator")

    (found,) = [r for r in await replicas(calls, agent_id) if r.id == first.id]
    assert (found.status, found.message) == ("failed", "nobody launched it")


async def test_disabled_agent_gets_no_replica(plane: Plane, hand: Hand, calls: Calls) -> None:
    """Nor does one that is offline."""
    agent_id, stream = await hand.start("i-1")
    await hand.prices(stream)
    await calls.configure(agent_id, manual_replica_enabled=True, enabled=False)

    await run_job(plane, "replica-coordinator")

    assert await replicas(calls, agent_id) == []


async def failed_on(stream: Conversation, calls: Calls, agent_id: str) -> str:
    """A replica that was bound and failed; its instance."""
    replica = await calls.replica(agent_id, status="launching")
    instance_id = await bind(stream, replica.id)
    await stream.report(replica=pb.ReplicaReport(replica_id=replica.id, status="failed"))
    return instance_id


async def test_instance_of_a_failed_replica_is_ended_with_consent(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """Like any zombie: when that may be ended at all, and after its wait."""
    agent_id, stream = await manual(hand, calls)
    await calls.configure(agent_id, auto_terminate_enabled=False)
    instance_id = await failed_on(stream, calls, agent_id)
    await jump(plane, clock, timedelta(hours=2))
    await run_job(plane, "replica-coordinator")
    assert (await replicas(calls, agent_id))[-1].status == "failed"

    await calls.configure(agent_id, auto_terminate_enabled=True, terminate_wait_seconds=7200 + 100)
    await run_job(plane, "replica-coordinator")
    assert (await replicas(calls, agent_id))[-1].status == "failed"
    await jump(plane, clock, timedelta(seconds=101))
    await run_job(plane, "replica-coordinator")

    ended = (await replicas(calls, agent_id))[-1]
    assert (ended.status, ended.instance_id) == ("terminated", instance_id)
    async with plane.db.connection("*") as conn:
        status = await conn.fetchval("SELECT status FROM instances WHERE id = $1", instance_id)
    assert status == "terminating"


async def test_end_that_nobody_confirms_for_a_day_is_told_once(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """As an error; the instance may still run."""
    agent_id, stream = await manual(hand, calls)
    replica = await calls.replica(agent_id, status="launching")
    await bind(stream, replica.id)
    await calls.configure(agent_id, manual_replica_enabled=False)
    await calls.replica(agent_id, status="terminated")
    await jump(plane, clock, timedelta(hours=25))

    for _ in range(3):
        await run_job(plane, "replica-coordinator")

    async with plane.db.connection("*") as conn:
        told = await conn.fetch(
            "SELECT data FROM outbox_events WHERE event_type = 'replica.unconfirmed'"
        )
    assert [row["data"]["severity"] for row in told] == ["error"]


async def test_launch_that_nobody_reports_is_given_up(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """After twenty minutes, also of an agent that polls and so has no order."""
    agent_id, _ = await manual(hand, calls)
    first = await calls.replica(agent_id, status="launching")
    async with plane.db.connection("*") as conn:
        await conn.execute("UPDATE agents SET replicas_polled_at = now() + interval '1 hour'")
    await jump(plane, clock, timedelta(minutes=19))
    await run_job(plane, "commands")
    await run_job(plane, "replica-coordinator")
    assert (await calls.replica(agent_id, status="launching")).id == first.id
    await jump(plane, clock, timedelta(minutes=2))

    await run_job(plane, "replica-coordinator")

    assert (await replicas(calls, agent_id))[-1].status == "failed"


async def test_agent_with_two_living_zombies_gets_no_third_instance(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """At most two run beside each other, three for a moment."""
    await hand.start("i-1")
    await hand.start("i-2")
    agent_id, stream = await hand.start("i-3")
    await hand.prices(stream)
    await calls.configure(agent_id, manual_replica_enabled=True)
    await run_job(plane, "replica-coordinator")
    assert await replicas(calls, agent_id) == []

    clock.advance(timedelta(minutes=50))
    await stream.beat()
    async with plane.db.connection("*") as conn:
        await conn.execute("UPDATE instances SET updated_at = updated_at - interval '1 day'")
        await conn.execute("UPDATE agent_sessions SET last_heartbeat_at = now() - interval '1 day'")
    await run_job(plane, "replica-coordinator")

    assert len(await replicas(calls, agent_id)) == 1
