"""Silence, and reconcilers that race: the same path without anybody's word."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

from tests.failover.world import REBALANCE, notice, only, primary, report, stand_by, steps
from tests.support.clock import FakeClock
from tests.support.fleet import Calls
from tests.support.link import Hand, bind, listening, run_job
from tests.support.plane import Plane, running


async def test_silent_primary_is_replaced(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """After two minutes without a heartbeat, not before."""
    agent_id, stream = await primary(hand)
    replica = await stand_by(calls, agent_id, stream)
    await listening(plane)
    await stream.vanish()
    clock.advance(timedelta(seconds=100))
    await run_job(plane, "failover")
    assert await calls.failovers_of(agent_id) == []

    clock.advance(timedelta(seconds=30))
    await run_job(plane, "failover")

    done = await only(calls, agent_id)
    assert (done.kind, done.status, done.action) == ("silence", "resolved", "promoted_replica")
    assert (await calls.agent(agent_id)).instance_id == replica.instance_id


async def test_new_primary_has_time_to_boot(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """Its own silence counts five minutes after the promotion."""
    agent_id, stream = await primary(hand)
    await stand_by(calls, agent_id, stream)
    await notice(stream)
    await listening(plane)

    clock.advance(timedelta(seconds=290))
    await run_job(plane, "failover")

    assert (await only(calls, agent_id)).kind == "termination"


async def test_silence_is_resolved_when_the_instance_is_heard_again(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """With nobody to take over, there was nothing to do but wait."""
    agent_id, _ = await primary(hand)
    await listening(plane)
    clock.advance(timedelta(seconds=130))
    await run_job(plane, "failover")
    assert (await only(calls, agent_id)).status == "detected"

    await hand.connect(agent_id, "i-1")
    await run_job(plane, "failover")

    done = await only(calls, agent_id)
    assert (done.status, done.message) == ("resolved", "the instance was heard of again")
    assert (await calls.agent(agent_id)).instance_id == "i-1"


async def test_silence_ends_the_waiting_of_a_rebalance(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """The cloud took the instance without the notice that would have followed."""
    agent_id, stream = await primary(hand)
    await notice(stream, REBALANCE)
    replica = await calls.replica(agent_id, status="launching")
    instance_id = await bind(stream, replica.id)
    await listening(plane)
    await stream.vanish()

    clock.advance(timedelta(seconds=130))
    await run_job(plane, "failover")

    done = await only(calls, agent_id)
    assert (done.kind, done.status) == ("silence", "resolved")
    assert "upgraded" in steps(done)
    assert (await calls.agent(agent_id)).instance_id == instance_id


async def test_silence_of_everybody_is_the_planes_own(database_url: str, clock: FakeClock) -> None:
    """After an outage of the plane agents get their two minutes to come back."""
    async with running(database_url, clock) as first:
        hand = Hand(first, await first.tenant())
        agent_id, stream = await primary(hand)
        await listening(first)
        await stand_by(Calls(first.channel, hand.tenant), agent_id, stream)
        await hand.close()
    # As long as the plane was away; PostgreSQL's time does not run ahead with ours.
    clock.advance(timedelta(minutes=10))
    async with running(database_url, clock) as second:
        async with second.db.transaction("*") as conn:
            await conn.execute(
                "UPDATE heartbeat_collection SET seen_at = now() - interval '10 minutes'"
            )
        await run_job(second, "failover")

        calls = Calls(second.channel, hand.tenant)
        assert await calls.failovers_of(agent_id) == []


async def test_reconcilers_of_two_servers_promote_once(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """Ten at the same time: one promotion, one primary, one story."""
    async with running(plane.database_url, clock) as second:
        agent_id, stream = await primary(hand)
        replica = await stand_by(calls, agent_id, stream, "syncing")
        await report(calls, agent_id, "drain")
        async with plane.db.transaction("*") as conn:
            await conn.execute("UPDATE replicas SET status = 'ready', ready_at = now()")

        await asyncio.gather(*(run_job(server, "failover") for server in (plane, second) * 5))

        done = await only(calls, agent_id)
        assert (done.status, done.replica_id) == ("resolved", replica.id)
        assert steps(done) == ["detected", "promoted"]
        async with plane.db.connection("*") as conn:
            promoted = await conn.fetchval(
                "SELECT count(*) FROM outbox_events WHERE event_type = 'replica.promoted'"
            )
            primaries = await conn.fetchval(
                "SELECT count(*) FROM instances WHERE status = 'running_primary'"
            )
        assert (promoted, primaries) == (1, 1)


async def test_many_signals_at_once_open_one_failover(hand: Hand, calls: Calls) -> None:
    """From the stream and by call, of several kinds."""
    agent_id, stream = await primary(hand)
    replica = await stand_by(calls, agent_id, stream)
    kinds = ("termination", "rebalance", "drain") * 3

    answers = await asyncio.gather(
        notice(stream), *(report(calls, agent_id, kind, instance_id="i-1") for kind in kinds)
    )

    assert len(answers) == 10
    assert (await calls.agent(agent_id)).instance_id == replica.instance_id
    told = [f.action for f in await calls.failovers_of(agent_id)]
    assert told.count("promoted_replica") == 1


async def test_agent_whose_row_is_locked_holds_up_no_other(
    plane: Plane, hand: Hand, calls: Calls
) -> None:
    agents = []
    for name in ("stuck", "other"):
        agent_id, stream = await hand.start(f"i-{name}", name=name)
        await hand.prices(stream)
        await stand_by(calls, agent_id, stream, "syncing")
        await report(calls, agent_id, "drain")
        agents.append(agent_id)
    stuck, other = agents
    async with plane.db.transaction("*") as conn:
        await conn.execute("UPDATE replicas SET status = 'ready', ready_at = now()")

    async with plane.db.transaction("*") as conn:
        await conn.execute("SELECT FROM agents WHERE id = $1 FOR NO KEY UPDATE", UUID(stuck))
        await run_job(plane, "failover")
        assert (await only(calls, other)).status == "resolved"
        assert (await only(calls, stuck)).status != "resolved"

    await run_job(plane, "failover")
    assert (await only(calls, stuck)).status == "resolved"
