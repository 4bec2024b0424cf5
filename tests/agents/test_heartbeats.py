"""Heartbeats: one statement for all of them, none lost, and what silence is."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
from spotplane.v1 import agent_stream_pb2 as pb
from spotplane_server.agents.sessions.registry import Sessions
from spotplane_server.kernel import metrics
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.fleet import Calls
from tests.support.link import Hand, listening, run_job
from tests.support.plane import Plane

COUNT = "SELECT count(*) FROM agent_sessions WHERE cpu_percent = $1"


def sessions(plane: Plane) -> Sessions:
    """The sessions of a plane's process."""
    owners = [getattr(drain, "__self__", None) for drain in plane.server.parts.drain]
    return next(owner for owner in owners if isinstance(owner, Sessions))


async def told(plane: Plane, cpu: float) -> int:
    """How many instances' rows say this."""
    async with plane.db.connection(ALL_TENANTS) as conn:
        count: int = await conn.fetchval(COUNT, cpu)
    return count


def flushes() -> float:
    """Statements so far."""
    return sum(
        sample.value
        for metric in metrics.HEARTBEAT_FLUSHES.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


async def test_one_statement_writes_the_heartbeats_of_all_agents(plane: Plane, hand: Hand) -> None:
    """The database's work does not grow with the number of agents."""
    streams = [(await hand.start(f"i-{n}", name=f"agent-{n}"))[1] for n in range(20)]
    await sessions(plane).flush()
    before = flushes()
    for stream in streams:
        await stream.beat(cpu_percent=42)

    await sessions(plane).flush()

    assert await told(plane, 42) == 20
    # Another one may have run by its timer meanwhile; twenty have not.
    assert flushes() - before <= 2


async def test_heartbeat_survives_a_database_that_is_away(plane: Plane, hand: Hand) -> None:
    """A flush that is cut off, in the pool or on the wire, is made up for by the next."""
    _, stream = await hand.start("i-1")
    owner = await asyncpg.connect(plane.database_url)
    try:
        await owner.execute("ALTER TABLE agent_sessions RENAME TO away")
        await stream.beat(cpu_percent=43)
        lost = False
        try:
            await sessions(plane).flush()
        except asyncpg.PostgresError:
            lost = True
        await owner.execute("ALTER TABLE away RENAME TO agent_sessions")
        assert lost
    finally:
        await owner.close()

    await sessions(plane).flush()

    assert await told(plane, 43) == 1


async def test_heartbeats_go_on_after_the_database_was_cut_off(plane: Plane, hand: Hand) -> None:
    """Connections that are killed under the server end no background work.

    A stream that was just using one ends, and the agent comes back.
    """
    agent_id, stream = await hand.start("i-1")
    owner = await asyncpg.connect(plane.database_url)
    try:
        for _ in range(3):
            await owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await stream.say(heartbeat=pb.Heartbeat(seq=1))
    finally:
        await owner.close()
    again = await eventually(lambda: hand.connect(agent_id, "i-1"), within=60)
    await again.beat(cpu_percent=44)

    async def written() -> bool:
        try:
            return await told(plane, 44) == 1
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return False

    await eventually(written, every=0.2)


async def test_agent_is_offline_after_two_minutes_of_silence(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """And online again once it is heard."""
    agent_id, stream = await hand.start("i-1")
    await listening(plane)
    clock.advance(timedelta(seconds=110))
    await run_job(plane, "agent-liveness")
    assert (await calls.agent(agent_id)).status == "online"

    clock.advance(timedelta(seconds=15))
    await run_job(plane, "agent-liveness")
    assert (await calls.agent(agent_id)).status == "offline"

    await stream.beat()
    await sessions(plane).flush()
    await run_job(plane, "agent-liveness")
    assert (await calls.agent(agent_id)).status == "online"


async def test_silent_streams_end_is_no_sign_of_life(
    plane: Plane, hand: Hand, calls: Calls, clock: FakeClock
) -> None:
    """A connection that breaks after two minutes was not alive until then."""
    agent_id, stream = await hand.start("i-1")
    await listening(plane)
    clock.advance(timedelta(seconds=125))
    await stream.vanish()
    await eventually(lambda: len(sessions(plane)) == 0)
    await sessions(plane).flush()

    await run_job(plane, "agent-liveness")

    assert (await calls.agent(agent_id)).status == "offline"


async def test_applied_generation_is_written_down(plane: Plane, hand: Hand) -> None:
    """So an operator sees who has not followed yet."""
    _, stream = await hand.start("i-1")
    await stream.say(heartbeat=pb.Heartbeat(seq=1, applied_generation=7))
    await stream.hear("heartbeat_ack")

    await sessions(plane).flush()

    async with plane.db.connection(ALL_TENANTS) as conn:
        assert await conn.fetchval("SELECT applied_generation FROM agent_sessions") == 7
