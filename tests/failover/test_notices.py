"""Notices: what each leads to, whatever stands by."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from spotplane.v1 import agent_stream_pb2 as pb

from tests.failover.world import (
    REBALANCE,
    notice,
    only,
    primary,
    report,
    stand_by,
    steps,
    tell,
)
from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.fleet import Calls
from tests.support.link import Hand, bind, jump, listening, run_job
from tests.support.plane import Plane, refused, running


def stamp(at: datetime) -> Timestamp:
    """A time for a message."""
    result = Timestamp()
    result.FromDatetime(at)
    return result


@pytest.mark.parametrize("status", ["ready", "syncing"])
async def test_termination_promotes_what_stands_by(hand: Hand, calls: Calls, status: str) -> None:
    """It is decided when the notice is acknowledged; a loss does not wait for the transfer."""
    agent_id, stream = await primary(hand)
    replica = await stand_by(calls, agent_id, stream, status)

    await notice(stream)

    done = await only(calls, agent_id)
    assert (done.status, done.action, done.kind) == ("resolved", "promoted_replica", "termination")
    assert (done.new_instance_id, done.replica_id) == (replica.instance_id, replica.id)
    assert steps(done) == ["detected", "promoted"]
    assert 0 <= done.response_ms < 2000
    assert (await calls.agent(agent_id)).instance_id == replica.instance_id


async def test_termination_waits_for_what_is_being_launched(hand: Hand, calls: Calls) -> None:
    """And promotes it by itself, since the agent will not call again."""
    agent_id, stream = await primary(hand)
    replica = await stand_by(calls, agent_id, stream, "launching")
    await notice(stream)
    assert (await only(calls, agent_id)).status == "detected"

    instance_id = await bind(stream, replica.id)

    async def promoted() -> bool:
        return (await calls.agent(agent_id)).instance_id == instance_id

    await eventually(promoted, every=0.15)
    assert (await only(calls, agent_id)).status == "resolved"


async def test_termination_launches_when_nothing_stands_by(hand: Hand, calls: Calls) -> None:
    """In the safest other pool, at once."""
    agent_id, stream = await primary(hand)

    await notice(stream)

    open_one = await only(calls, agent_id)
    assert (open_one.status, open_one.action) == ("handling", "created_replica")
    assert steps(open_one) == ["detected", "replica_requested"]
    replica = await calls.replica(agent_id, status="launching")
    assert (replica.type, replica.created_by) == ("automatic-termination", "emergency")
    assert replica.instance_id.startswith("emergency-")
    assert (await stream.hear("command")).type == "create_replica"
    instance_id = await bind(stream, replica.id)

    async def promoted() -> bool:
        return (await calls.agent(agent_id)).instance_id == instance_id

    await eventually(promoted, every=0.15)


async def test_termination_switches_to_on_demand_without_any_pool(
    plane: Plane, hand: Hand, calls: Calls
) -> None:
    """The last resort; the failover is resolved once another instance serves."""
    agent_id, stream = await primary(hand, zones=())

    await notice(stream)

    assert (await only(calls, agent_id)).action == "queued_ondemand_switch"
    order = await stream.hear("command")
    assert (order.type, order.priority) == ("switch", 100)
    assert order.parameters["target_mode"] == "ondemand"
    await stream.finish(order.command_id, instance_id="i-2")
    await hand.register("i-2", mode="ondemand")
    await run_job(plane, "failover")
    done = await only(calls, agent_id)
    assert (done.status, done.new_instance_id) == ("resolved", "i-2")


async def test_emergency_bypasses_a_disabled_agent(hand: Hand, calls: Calls) -> None:
    """Nothing holds a rescue back."""
    agent_id, stream = await primary(hand)
    await calls.configure(agent_id, enabled=False)

    await notice(stream)

    assert (await stream.hear("command")).type == "create_replica"


async def test_rebalance_creates_one_replica_and_releases_it_after_two_hours(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """However often the cloud says so; without a termination it was for nothing."""
    agent_id, stream = await primary(hand)
    for _ in range(3):
        await notice(stream, REBALANCE)
    replica = await calls.replica(agent_id, status="launching")
    assert replica.type == "automatic-rebalance"
    await bind(stream, replica.id)
    await tell(stream, replica.id, "ready")
    assert (await calls.agent(agent_id)).instance_id == "i-1"

    await jump(plane, clock, timedelta(hours=2))
    await run_job(plane, "failover")

    done = await only(calls, agent_id)
    assert (done.status, done.message) == ("resolved", "no termination followed")
    assert (await calls.replica(agent_id, status="terminated")).id == replica.id


async def test_rebalance_without_any_pool_switches_to_on_demand(hand: Hand, calls: Calls) -> None:
    """Spot is about to be taken back, and there is no other to go to."""
    agent_id, stream = await primary(hand, zones=())

    await notice(stream, REBALANCE)

    assert (await only(calls, agent_id)).action == "queued_ondemand_switch"
    assert (await stream.hear("command")).parameters["target_mode"] == "ondemand"


async def test_manual_replica_is_used_not_doubled(hand: Hand, calls: Calls) -> None:
    """It satisfies the rebalance."""
    agent_id, stream = await primary(hand)
    replica = await stand_by(calls, agent_id, stream)

    await notice(stream, REBALANCE)

    assert (await only(calls, agent_id)).action == "none"
    assert (await calls.replica(agent_id, status="ready")).id == replica.id


async def test_termination_upgrades_an_open_rebalance(hand: Hand, calls: Calls) -> None:
    """One failover, whose replica is promoted."""
    agent_id, stream = await primary(hand)
    await notice(stream, REBALANCE)
    replica = await calls.replica(agent_id, status="launching")
    await bind(stream, replica.id)

    await notice(stream)

    done = await only(calls, agent_id)
    assert (done.kind, done.status, done.replica_id) == ("termination", "resolved", replica.id)
    assert steps(done) == ["detected", "replica_requested", "upgraded", "promoted"]


async def test_weaker_signal_joins_without_a_trace(hand: Hand, calls: Calls) -> None:
    """A rebalance after a termination says nothing new, and neither does a repeat."""
    agent_id, stream = await primary(hand, zones=())
    await notice(stream)
    before = await only(calls, agent_id)

    await notice(stream, REBALANCE)
    await notice(stream)

    after = await only(calls, agent_id)
    assert (after.kind, steps(after)) == ("termination", steps(before))


async def test_repeat_after_the_resolution_opens_nothing(hand: Hand, calls: Calls) -> None:
    """Neither with the same deadline nor with none."""
    agent_id, stream = await primary(hand)
    await stand_by(calls, agent_id, stream)
    deadline = stamp(datetime.now(UTC) + timedelta(seconds=100))
    await notice(stream, deadline=deadline)
    done = await only(calls, agent_id)

    await notice(stream, deadline=deadline)
    await notice(stream)
    answer = await report(calls, agent_id, "termination", instance_id="i-1")

    assert answer.id == done.id
    assert (await only(calls, agent_id)).status == "resolved"


async def test_notice_for_the_replica_fails_it(hand: Hand, calls: Calls) -> None:
    """The primary stays."""
    agent_id, stream = await primary(hand)
    replica = await stand_by(calls, agent_id, stream)

    await notice(stream, instance_id=replica.instance_id)

    assert (await only(calls, agent_id)).status == "ignored"
    assert (await calls.replica(agent_id, status="failed")).id == replica.id
    assert (await calls.agent(agent_id)).instance_id == "i-1"


async def test_notice_for_a_zombie_is_only_recorded(hand: Hand, calls: Calls) -> None:
    """It serves nobody."""
    agent_id, stream = await primary(hand)
    await hand.register("i-2")

    await notice(stream)

    done = await only(calls, agent_id)
    assert (done.status, done.instance_id) == ("ignored", "i-1")
    assert (await calls.agent(agent_id)).instance_id == "i-2"


async def test_unknown_instance_means_the_primary(hand: Hand, calls: Calls) -> None:
    """A wrong id never stops a rescue."""
    agent_id, stream = await primary(hand)
    replica = await stand_by(calls, agent_id, stream)

    answer = await report(calls, agent_id, "termination", instance_id="i-unknown")

    assert (answer.instance_id, answer.new_instance_id) == ("i-1", replica.instance_id)


async def test_drain_waits_until_the_replica_is_in_step(hand: Hand, calls: Calls) -> None:
    """An operator is in no hurry."""
    agent_id, stream = await primary(hand)
    replica = await stand_by(calls, agent_id, stream, "syncing")
    assert (await report(calls, agent_id, "drain")).status == "detected"
    assert (await calls.agent(agent_id)).instance_id == "i-1"

    await tell(stream, replica.id, "ready")

    async def promoted() -> bool:
        return (await calls.agent(agent_id)).instance_id == replica.instance_id

    await eventually(promoted, every=0.15)
    assert (await only(calls, agent_id)).kind == "drain"


async def test_failover_without_any_way_out_fails_after_its_time(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """Five minutes after the instance went."""
    agent_id, stream = await primary(hand, zones=())
    await notice(stream)
    await jump(plane, clock, timedelta(seconds=120 + 299))
    await run_job(plane, "failover")
    assert (await only(calls, agent_id)).status == "handling"

    await jump(plane, clock, timedelta(seconds=2))
    await run_job(plane, "failover")

    assert (await only(calls, agent_id)).status == "failed"


async def test_instance_that_the_cloud_took_is_terminated_in_the_end(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """A minute after its deadline, if nobody says otherwise."""
    agent_id, stream = await primary(hand)
    await stand_by(calls, agent_id, stream)
    await notice(stream)

    await jump(plane, clock, timedelta(seconds=181))
    await run_job(plane, "failover")

    async with plane.db.connection("*") as conn:
        status = await conn.fetchval("SELECT status FROM instances WHERE id = 'i-1'")
    assert status == "terminated"


async def test_new_primary_on_another_server_is_told_at_once(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """Whoever decides, whoever holds the stream."""
    async with running(plane.database_url, clock) as second:
        agent_id, stream = await primary(hand)
        replica = await stand_by(calls, agent_id, stream)
        standby = await hand.connect(agent_id, replica.instance_id, second)
        assert (await standby.hear("desired_state")).role == "replica"

        await notice(stream)

        state = await standby.hear("desired_state")
        assert (state.role, state.primary_instance_id) == ("primary", replica.instance_id)
        await standby.vanish()


async def test_bad_notices_are_refused(hand: Hand, calls: Calls, plane: Plane) -> None:
    """By field, by role, and as if another tenant's agent were not there."""
    agent_id, stream = await primary(hand)
    async with refused("UNKNOWN_ENUM", field="kind"):
        await report(calls, agent_id, "earthquake")
    async with refused("INVALID_DATE", field="deadline"):
        await report(calls, agent_id, "termination", deadline="tomorrow")
    stranger = Calls(plane.channel, await plane.tenant())
    async with refused("AGENT_NOT_FOUND"):
        await report(stranger, agent_id, "termination")
    ack = await stream.report(notice=pb.Notice(instance_id="i-1"))
    assert "kind" in ack
    assert await calls.failovers_of(agent_id) == []


async def test_primary_that_is_reported_gone_is_replaced_at_once(
    plane: Plane, hand: Hand, calls: Calls
) -> None:
    """Whoever reports it, and without waiting for its silence; it is terminated, not a zombie."""
    agent_id, stream = await primary(hand)
    replica = await stand_by(calls, agent_id, stream, "ready")

    assert await stream.report(termination=pb.TerminationReport(instance_id="i-1")) == ""

    done = await only(calls, agent_id)
    assert (done.status, done.action) == ("resolved", "promoted_replica")
    assert (await calls.agent(agent_id)).instance_id == replica.instance_id
    async with plane.db.connection("*") as conn:
        gone = await conn.fetchval("SELECT status FROM instances WHERE id = 'i-1'")
    assert gone == "terminated"


async def test_switch_of_last_resort_is_queued_once(plane: Plane, hand: Hand, calls: Calls) -> None:
    """However many reconcilers look at the same time; who comes second leaves no trace."""
    agent_id, stream = await primary(hand, zones=())

    async def look() -> None:
        for _ in range(20):
            await run_job(plane, "failover")

    await asyncio.gather(notice(stream), look(), look(), look())

    done = await only(calls, agent_id)
    assert steps(done) == ["detected", "switch_queued"]


async def test_switch_of_last_resort_that_failed_is_tried_again(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """After ten seconds, then twenty, as long as there is time."""
    agent_id, stream = await primary(hand, zones=())
    await notice(stream)
    for wait in (10, 20):
        order = await stream.hear("command")
        await stream.finish(order.command_id, success=False)
        await jump(plane, clock, timedelta(seconds=wait - 2))
        await run_job(plane, "failover")
        assert not [r for r in stream.heard if r.WhichOneof("kind") == "command"]
        await jump(plane, clock, timedelta(seconds=3))
        await run_job(plane, "failover")

    assert (await stream.hear("command")).parameters["target_mode"] == "ondemand"
    assert steps(await only(calls, agent_id)) == ["detected", *["switch_queued"] * 3]


async def test_notice_without_an_instance_repeated_after_the_promotion_spares_the_new_primary(
    hand: Hand, calls: Calls
) -> None:
    """It meant the one that was primary then."""
    agent_id, stream = await primary(hand)
    replica = await stand_by(calls, agent_id, stream)
    first = await report(calls, agent_id, "termination")

    again = await report(calls, agent_id, "termination")

    assert again.id == first.id
    assert (again.status, again.new_instance_id) == ("resolved", replica.instance_id)
    assert (await only(calls, agent_id)).id == first.id


async def test_later_notice_without_an_instance_means_the_new_primary(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """The time of the first one is over by then."""
    agent_id, stream = await primary(hand)
    replica = await stand_by(calls, agent_id, stream)
    await report(calls, agent_id, "termination")

    await jump(plane, clock, timedelta(seconds=181))
    second = await report(calls, agent_id, "termination")

    assert second.instance_id == replica.instance_id


async def test_silent_replica_is_not_promoted(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """Its instance is gone; another one is launched instead."""
    agent_id, stream = await primary(hand)
    replica = await stand_by(calls, agent_id, stream)
    standby = await hand.connect(agent_id, replica.instance_id)
    await listening(plane)
    await standby.vanish()
    await jump(plane, clock, timedelta(seconds=130), but=replica.instance_id)

    await notice(stream)

    assert (await calls.agent(agent_id)).instance_id == "i-1"
    await run_job(plane, "replica-coordinator")
    lost = await calls.replica(agent_id, status="failed")
    assert (lost.id, lost.message) == (replica.id, "its instance went silent")
    await run_job(plane, "failover")
    launched = await calls.replica(agent_id, status="launching")
    assert launched.created_by == "emergency"


async def test_agent_that_lost_its_primary_gets_the_one_that_stands_by(
    plane: Plane, hand: Hand, calls: Calls
) -> None:
    """Also when nobody has told of the loss; the next run finds it."""
    agent_id, stream = await primary(hand)
    replica = await stand_by(calls, agent_id, stream)
    async with plane.db.connection("*") as conn:
        await conn.execute(
            "UPDATE instances SET status = 'terminated', updated_at = now() WHERE id = 'i-1'"
        )

    await run_job(plane, "failover")

    assert (await calls.agent(agent_id)).instance_id == replica.instance_id
    done = await only(calls, agent_id)
    assert (done.kind, done.action) == ("silence", "promoted_replica")
