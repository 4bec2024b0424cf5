"""Servers with one Redis tell each other's answers, and without it their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc
from spotplane_server.kernel.caches import TTLCache
from spotplane_server.kernel.clock import SystemClock
from spotplane_server.kernel.db.database import Conn, Database
from spotplane_server.kernel.ratelimit import redis_client
from spotplane_server.usage import revisions, rollup_queries
from spotplane_server.usage.cached_queries import LIFETIME, CacheableQuery, CachedQueries
from spotplane_server.usage.ingest import ingest
from spotplane_server.usage.redis_cache import RedisCache
from spotplane_server.usage.time_windows import Window

from tests.support.plane import running
from tests.support.statements import Statements
from tests.support.valkey import Valkey
from tests.usage import questions
from tests.usage.world import Owner, World, hour_of, hours, record


class Desk:
    """One of several servers."""

    def __init__(self, usage: Any, statements: Statements) -> None:
        self.usage = usage
        self._statements = statements

    async def ask(self, owner: Owner) -> tuple[int, list[str]]:
        """How many requests a window that ended tells of, and the statements that took."""
        ticket = uuid4().hex
        caller = (*owner.metadata, ("x-request-id", ticket))
        answer = await self.usage.GetUsageByDay(pb.GetUsageByDayRequest(days=7), metadata=caller)
        return questions.requests(answer), self._statements.of(ticket)


@asynccontextmanager
async def desk(database_url: str, redis_url: str) -> AsyncIterator[Desk]:
    statements = Statements()
    async with running(database_url, on_statement=statements, redis_url=redis_url) as plane:
        yield Desk(plane.stub(usage_pb2_grpc.UsageServiceStub), statements)


async def send(usage: Any, owner: Owner) -> None:
    sent = pb.IngestUsageBatchRequest(records=[record()])
    await usage.IngestUsageBatch(sent, metadata=owner.metadata)


async def test_an_answer_of_one_server_is_told_by_the_other(
    database_url: str, redis_url: str, world: World
) -> None:
    """As long as it is current: what one takes counts at the other at once."""
    owner, stranger = await world.tenant(), await world.tenant()
    async with desk(database_url, redis_url) as one, desk(database_url, redis_url) as two:
        await send(one.usage, owner)
        first, worked_out = await one.ask(owner)
        again, told = await two.ask(owner)
        of_stranger, _ = await two.ask(stranger)
        await send(one.usage, owner)
        then, _ = await two.ask(owner)

    assert (first, again, of_stranger, then) == (1, 1, 0, 2)
    assert len(worked_out) > 1
    assert told == [revisions.FIND_REVISION]


async def test_without_redis_every_answer_is_worked_out(db: Database, world: World) -> None:
    """It is away in the middle of everything, and nobody is refused."""
    owner, clock, told = await world.tenant(), SystemClock(), []
    with Valkey() as valkey:
        client = redis_client.connect(valkey.url)
        shared = RedisCache(client, b"plane")
        queries = CachedQueries(db, clock, TTLCache(0, LIFETIME), None, shared)

        async def load(conn: Conn) -> list[asyncpg.Record]:
            hour = hour_of(clock.now())
            window = Window(hour - hours(24), hour + hours(1))
            return await rollup_queries.sum_keys(conn, owner.id, window)

        def render(rows: list[asyncpg.Record]) -> pb.GetUsageSummaryResponse:
            return pb.GetUsageSummaryResponse(total_requests=sum(row["requests"] for row in rows))

        query = CacheableQuery(
            owner.id, pb.GetUsageSummaryRequest(), [], pb.GetUsageSummaryResponse, load, render
        )
        for act in (None, valkey.stop, None, valkey.start):
            if act is not None:
                act()
            await ingest(db, owner.id, None, [record()], clock.now())
            told.append((await queries.fetch(query)).total_requests)
        await client.aclose()

    assert told == [1, 2, 3, 4]


async def test_planes_that_share_a_redis_read_nothing_of_each_other(redis_url: str) -> None:
    """Under the same key; and Redis forgets it in time."""
    client = redis_client.connect(redis_url)
    one, two = RedisCache(client, b"one"), RedisCache(client, b"two")
    await one.put(b"key", b"answer", timedelta(seconds=30))

    told = [await one.get(b"key"), await two.get(b"key")]
    left = [await client.pttl(name) for name in await client.keys("*")]
    await client.aclose()

    assert told == [b"answer", None]
    assert len(left) == 1
    assert 0 < left[0] <= 30_000
