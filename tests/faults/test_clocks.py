"""Machines whose clocks are set wrongly: every server lives in PostgreSQL's time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from spotplane_server.kernel.clock import DatabaseClock, SystemClock
from spotplane_server.kernel.db.database import ALL_TENANTS, Database

from tests.failover.world import only, primary
from tests.support.eventually import eventually
from tests.support.fleet import Calls
from tests.support.link import by_hand, listening, run_job
from tests.support.plane import Plane, running

AHEAD_SECONDS = 90
# With a clock that is 90 s ahead every agent would look lost.
OFFLINE_SECONDS = 60
# Silence counts only after a long time of listening.
LISTENED_LONG = """
    WITH listeners AS (
        UPDATE heartbeat_listeners SET uninterrupted_since = now() - interval '1 hour')
    UPDATE heartbeat_collection SET since = now() - interval '1 hour'
"""
AGE_HEARTBEATS = "UPDATE agent_sessions SET last_heartbeat_at = now() - $1::interval"
LEASES = """
    SELECT max(expires_at - clock_timestamp()) AS longest
      FROM leases
     WHERE name IN ('job:failover', 'job:agent-liveness')
"""


@pytest.fixture
async def ahead(database_url: str) -> AsyncIterator[Plane]:
    """A server on a machine whose clock is ahead."""
    async with running(
        database_url, clock_offset_seconds=AHEAD_SECONDS, offline_seconds=OFFLINE_SECONDS
    ) as up:
        yield up


async def test_server_whose_machine_is_ahead_declares_no_healthy_agent_lost(
    ahead: Plane, database_url: str
) -> None:
    async with (
        running(database_url, offline_seconds=OFFLINE_SECONDS) as plane,
        by_hand(plane) as hand,
    ):
        agent_id, stream = await primary(hand)
        await stream.beat()
        await listening(plane)
        async with plane.db.write(ALL_TENANTS) as conn:
            await conn.execute(LISTENED_LONG)

        await run_job(ahead, "failover")
        await run_job(ahead, "agent-liveness")

        calls = Calls(plane.channel, hand.tenant)
        assert await calls.failovers_of(agent_id) == []
        assert (await calls.agent(agent_id)).status == "online"


async def test_server_whose_machine_is_ahead_finds_lost_agents_in_time(ahead: Plane) -> None:
    """The test above could not fail otherwise."""
    async with by_hand(ahead) as hand:
        agent_id, stream = await primary(hand)
        await stream.beat()
        await listening(ahead)
        await stream.vanish()

        async def failed_over() -> bool:
            await _age_heartbeats(ahead, OFFLINE_SECONDS + 5)
            await run_job(ahead, "failover")
            return bool(await Calls(ahead.channel, hand.tenant).failovers_of(agent_id))

        # Slower than the rate limit of one agent's calls.
        await eventually(failed_over, every=0.3)
        found = await only(Calls(ahead.channel, hand.tenant), agent_id)
        assert found.kind == "silence"


async def _age_heartbeats(plane: Plane, seconds: int) -> None:
    ago = timedelta(seconds=seconds)
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute(AGE_HEARTBEATS, ago)
        await conn.execute(LISTENED_LONG)


async def test_leases_of_a_server_whose_machine_is_ahead_end_in_time(ahead: Plane) -> None:
    async def longest() -> timedelta | None:
        async with ahead.db.connection(ALL_TENANTS) as conn:
            found: timedelta | None = await conn.fetchval(LEASES)
            return found

    held = await eventually(longest)
    assert held is not None
    # Two periods of the slower job.
    assert held <= timedelta(seconds=31)


async def test_wrong_clock_of_the_machine_is_reported(ahead: Plane) -> None:
    health = health_pb2_grpc.HealthStub(ahead.channel)

    async def status(service: str) -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        return int((await health.Check(request)).status)

    serving = health_pb2.HealthCheckResponse.ServingStatus

    async def reported() -> bool:
        try:
            return bool(await status("clock"))
        except grpc.aio.AioRpcError:
            return False

    await eventually(reported)
    assert await status("clock") == int(serving.NOT_SERVING)
    assert await status("") == int(serving.SERVING)


async def test_clock_follows_postgresql_and_reports_the_machines_offset(db: Database) -> None:
    passed = 1000.0
    clock = DatabaseClock(SystemClock(timedelta(seconds=90)), lambda: passed)
    assert clock.now() - datetime.now(UTC) > timedelta(seconds=80)

    await clock.synchronize(db)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    assert clock.machine_offset > timedelta(seconds=80)

    before = clock.now()
    passed += 30
    assert clock.now() - before == timedelta(seconds=30)
