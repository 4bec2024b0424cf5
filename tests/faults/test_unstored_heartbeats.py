"""A server that is cut off from PostgreSQL: its agents are alive, and go to another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import grpc
import pytest
from spotplane.v1 import agent_stream_pb2 as pb
from spotplane_bench.chaos import ChaosProxy, chaos_proxy, postgres_upstream, postgres_url
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.failover.world import primary, stand_by
from tests.support.eventually import eventually
from tests.support.fleet import Calls
from tests.support.link import Conversation, Hand, listening, run_job
from tests.support.plane import Plane, running

# Far below what agents need to move, so that a wrong rule is noticed.
OFFLINE_SECONDS = 3
SETTINGS = {"heartbeat_seconds": 1, "offline_seconds": OFFLINE_SECONDS}
# Silence counts only after a long time of listening.
LISTENED_LONG = """
    WITH listeners AS (
        UPDATE heartbeat_listeners SET uninterrupted_since = now() - interval '1 hour')
    UPDATE heartbeat_collection SET since = now() - interval '1 hour'
"""
LISTENERS = "SELECT count(*) FROM heartbeat_listeners"
AGE = """
    WITH aged AS (UPDATE agent_sessions SET last_heartbeat_at = last_heartbeat_at - $1::interval)
    UPDATE heartbeat_listeners SET last_flush_at = last_flush_at - $1::interval
     WHERE server_id = $2
"""


@dataclass
class Site:
    """Two servers, the first behind a proxy, and the agents of one tenant."""

    cut_off: Plane
    healthy: Plane
    proxy: ChaosProxy
    hand: Hand
    calls: Calls

    async def look_for_losses(self) -> None:
        """Run what declares agents lost, on the healthy server."""
        for name in ("failover", "agent-liveness", "replica-coordinator"):
            await run_job(self.healthy, name)

    async def age(self, by: timedelta) -> None:
        """Let time pass for the first server and its agents."""
        async with self.healthy.db.write(ALL_TENANTS) as conn:
            await conn.execute(AGE, by, self.cut_off.server.kernel.server_id)


@pytest.fixture
async def two(database_url: str) -> AsyncIterator[Site]:
    async with (
        chaos_proxy(postgres_upstream(database_url)) as proxy,
        _servers(database_url, proxy) as (cut_off, healthy),
    ):
        hand = Hand(cut_off, await cut_off.tenant())
        try:
            yield Site(cut_off, healthy, proxy, hand, Calls(healthy.channel, hand.tenant))
        finally:
            # Stopping must not wait for a database that does not answer.
            proxy.cut()
            proxy.restore()
            await hand.close()


@asynccontextmanager
async def _servers(url: str, proxy: ChaosProxy) -> AsyncIterator[tuple[Plane, Plane]]:
    settings = SETTINGS
    async with (
        running(postgres_url(url, proxy), None, **settings) as cut_off,  # type: ignore[arg-type]
        running(url, None, **settings) as healthy,  # type: ignore[arg-type]
    ):
        yield cut_off, healthy


async def listened_long(site: Site) -> None:
    await listening(site.healthy)

    async def both() -> bool:
        async with site.healthy.db.connection(ALL_TENANTS) as conn:
            return bool(await conn.fetchval(LISTENERS) == 2)

    await eventually(both)
    async with site.healthy.db.write(ALL_TENANTS) as conn:
        await conn.execute(LISTENED_LONG)


async def beat_until_sent_away(stream: Conversation) -> grpc.StatusCode | None:
    """Send heartbeats until the stream ends; its status."""
    ended = asyncio.ensure_future(stream.end())
    seq = stream.beats
    while not ended.done():
        seq += 1
        await stream.say(heartbeat=pb.Heartbeat(seq=seq))
        await asyncio.wait([ended], timeout=0.2)
    refusal = ended.result()
    return refusal.code if refusal else None


async def test_agents_of_a_server_that_cannot_store_heartbeats_move_and_are_not_lost(
    two: Site,
) -> None:
    agent_id, stream = await primary(two.hand)
    replica = await stand_by(two.calls, agent_id, stream)
    standby = await two.hand.connect(agent_id, replica.instance_id)
    await standby.beat()
    await listened_long(two)

    two.proxy.silence()
    sent_away = asyncio.gather(beat_until_sent_away(stream), beat_until_sent_away(standby))
    while not sent_away.done():
        await two.look_for_losses()
        await asyncio.wait([sent_away], timeout=0.3)
    assert set(sent_away.result()) == {grpc.StatusCode.UNAVAILABLE}

    # The server takes nobody on as long as it cannot store what they send.
    refused = two.hand.dial()
    await refused.say(hello=pb.Hello(agent_id=agent_id, instance_id="i-1"))
    refusal = await refused.end()
    assert refusal is not None
    assert refusal.code is grpc.StatusCode.UNAVAILABLE

    for instance_id in ("i-1", replica.instance_id):
        await (await two.hand.connect(agent_id, instance_id, two.healthy)).beat()
    await two.look_for_losses()
    assert await two.calls.failovers_of(agent_id) == []
    agent = await two.calls.agent(agent_id)
    assert (agent.status, agent.instance_id) == ("online", "i-1")
    assert (await two.calls.replica(agent_id, status="ready")).id == replica.id


async def test_agent_that_dies_with_its_server_is_failed_over_in_the_normal_time(
    two: Site,
) -> None:
    agent_id, stream = await primary(two.hand)
    await stream.beat()
    await listened_long(two)
    two.proxy.silence()
    await stream.vanish()

    # It may be on its way to another server.
    await two.age(timedelta(seconds=OFFLINE_SECONDS + 2))
    await two.look_for_losses()
    assert await two.calls.failovers_of(agent_id) == []

    await two.age(timedelta(seconds=60))
    await two.look_for_losses()
    assert [f.kind for f in await two.calls.failovers_of(agent_id)] == ["silence"]


async def test_server_that_stores_heartbeats_again_takes_agents_again(two: Site) -> None:
    agent_id, stream = await primary(two.hand)
    two.proxy.silence()
    assert await beat_until_sent_away(stream) is grpc.StatusCode.UNAVAILABLE

    two.proxy.cut()
    two.proxy.restore()

    async def taken() -> bool:
        again = two.hand.dial()
        await again.say(hello=pb.Hello(agent_id=agent_id, instance_id="i-1"))
        try:
            await eventually(lambda: again.heard or again._error is not None)
        finally:
            welcomed = bool(again.heard)
        return welcomed

    await eventually(taken, every=0.3)
