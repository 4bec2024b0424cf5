"""A server that is paused inside a transaction: the others go on, and it goes on after them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import grpc.aio
import pytest
from spotplane.v1 import event_pb2, event_pb2_grpc, usage_pb2, usage_pb2_grpc

from tests.events.test_watch import aiter_of
from tests.failover.world import primary, report, stand_by
from tests.faults.process import ServerProcess, spawned
from tests.support.eventually import eventually
from tests.support.fleet import Calls
from tests.support.link import Conversation, Hand, by_hand
from tests.support.plane import Plane, running

RECORDS = 5
# Far above the 3 s after which PostgreSQL ends the paused transactions, far below their pause.
WITHIN_SECONDS = 15
LOCK_AGENT = "SELECT id FROM agents FOR UPDATE"
# A batch of usage holds the sums of its hour when it comes to those of its day.
LOCK_SUMS = "SELECT FROM usage_rollups WHERE rollup = 'day' FOR UPDATE"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
HELD = """
    SELECT count(*)
      FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'spotplane'
       AND state = 'idle in transaction'
"""
SUMS = "SELECT coalesce(sum(requests), 0) FROM usage_rollups WHERE rollup = 'day'"


@dataclass
class Site:
    """A server in a process of its own, one beside the test, and an agent of the first."""

    paused: ServerProcess
    channel: grpc.aio.Channel
    healthy: Plane
    hand: Hand
    agent_id: str
    sql: asyncpg.Connection[asyncpg.Record]

    async def ingest(
        self, channel: grpc.aio.Channel, prefix: str
    ) -> usage_pb2.IngestUsageBatchResponse:
        """Send a batch of usage records."""
        at = datetime.now(UTC).isoformat()
        records = [
            usage_pb2.UsageRecord(
                request_id=f"{prefix}-{n}", timestamp=at, prompt_tokens=1, completion_tokens=1
            )
            for n in range(RECORDS)
        ]
        answer: usage_pb2.IngestUsageBatchResponse = await usage_pb2_grpc.UsageServiceStub(
            channel
        ).IngestUsageBatch(
            usage_pb2.IngestUsageBatchRequest(records=records),
            metadata=self.hand.metadata,
            timeout=2 * WITHIN_SECONDS,
        )
        return answer


@pytest.fixture
async def site(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    sql = await asyncpg.connect(database_url)
    async with (
        running(database_url) as healthy,
        by_hand(healthy) as hand,
        spawned(database_url, tmp_path, usage_ingest_slots="2") as paused,
        grpc.aio.insecure_channel(paused.target) as channel,
    ):
        agent_id, first = await primary(hand)
        replica = await stand_by(Calls(healthy.channel, hand.tenant), agent_id, first)
        assert replica.status == "ready"
        found = Site(paused, channel, healthy, hand, agent_id, sql)
        await found.ingest(healthy.channel, "first")
        # Its session is the paused server's from here on.
        stream = Conversation(channel, hand.metadata)
        await stream.hello(agent_id, "i-1")
        yield found
        await stream.vanish()
    await sql.close()


@asynccontextmanager
async def paused_in_transactions(site: Site) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Pause the server with a notice and a batch of usage amid their transactions."""
    calls = Calls(site.channel, site.hand.tenant)
    async with site.sql.transaction():
        await site.sql.execute(LOCK_AGENT)
        await site.sql.execute(LOCK_SUMS)
        under_way: list[asyncio.Task[Any]] = [
            asyncio.create_task(report(calls, site.agent_id, "termination", instance_id="i-1")),
            asyncio.create_task(site.ingest(site.channel, "paused")),
        ]
        await eventually(lambda: _is(site.sql.fetchval(WAITING), 2))
        site.paused.signal(signal.SIGSTOP)
    try:
        await eventually(lambda: _is(site.sql.fetchval(HELD), 2))
        yield under_way
    finally:
        site.paused.signal(signal.SIGCONT)


async def _is(value: Any, expected: int) -> bool:
    return bool(await value == expected)


async def first_failover_event(call: Any) -> None:
    async with aclosing(aiter_of(call)) as messages:
        async for message in messages:
            if message.event == "emergency_event":
                break
    call.cancel()


async def test_others_go_on_while_a_server_is_paused_inside_transactions(site: Site) -> None:
    calls = Calls(site.healthy.channel, site.hand.tenant)
    subscription = event_pb2_grpc.EventServiceStub(site.healthy.channel).Subscribe(
        event_pb2.SubscribeRequest(), metadata=site.hand.metadata
    )
    await subscription.initial_metadata()

    async with paused_in_transactions(site) as under_way, asyncio.timeout(WITHIN_SECONDS):
        _, stored, _ = await asyncio.gather(
            report(calls, site.agent_id, "termination", instance_id="i-1"),
            site.ingest(site.healthy.channel, "healthy"),
            first_failover_event(subscription),
        )
        assert stored.accepted == RECORDS
        (failover,) = await calls.failovers_of(site.agent_id)
        assert (failover.status, failover.action) == ("resolved", "promoted_replica")

    # The paused server runs the work again that PostgreSQL rolled back, or says that it did not.
    notice, usage = await asyncio.gather(*under_way, return_exceptions=True)
    for outcome in (notice, usage):
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, grpc.aio.AioRpcError)
            assert outcome.code() is grpc.StatusCode.UNAVAILABLE

    async def goes_on() -> bool:
        try:
            await site.ingest(site.channel, "paused")
        except grpc.aio.AioRpcError:
            return False
        return True

    await eventually(goes_on)
    assert await site.sql.fetchval(SUMS) == 3 * RECORDS
    assert len(await calls.failovers_of(site.agent_id)) == 1
