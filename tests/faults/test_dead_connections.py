"""Connections to PostgreSQL that go silent: nothing hangs, and nothing dead is lent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from spotplane.v1 import region_pb2, region_pb2_grpc
from spotplane_bench.chaos import ChaosProxy, chaos_proxy, postgres_upstream, postgres_url
from spotplane_server.kernel.db.database import (
    ALL_TENANTS,
    Database,
    retry_on_serialization_failure,
)
from spotplane_server.kernel.db.transactions import TransactionLost
from spotplane_server.kernel.errors import Unavailable

from tests.support.eventually import eventually
from tests.support.plane import ADMIN, Plane, running
from tests.support.rewrite import rewritten

PID = "SELECT pg_backend_pid()"


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[ChaosProxy]:
    async with chaos_proxy(postgres_upstream(database_url)) as up:
        yield up


async def status(plane: Plane, service: str = "") -> int:
    answer = await health_pb2_grpc.HealthStub(plane.channel).Check(
        health_pb2.HealthCheckRequest(service=service)
    )
    return int(answer.status)


async def list_regions(plane: Plane) -> grpc.StatusCode:
    try:
        await region_pb2_grpc.RegionServiceStub(plane.channel).ListRegions(
            region_pb2.ListRegionsRequest(), metadata=ADMIN
        )
    except grpc.aio.AioRpcError as err:
        return err.code()
    return grpc.StatusCode.OK


async def test_calls_are_unavailable_and_the_server_not_serving_while_postgresql_is_silent(
    database_url: str, proxy: ChaosProxy
) -> None:
    serving = health_pb2.HealthCheckResponse.ServingStatus
    async with running(postgres_url(database_url, proxy)) as plane:
        await eventually(lambda: status(plane))
        assert await list_regions(plane) is grpc.StatusCode.OK

        proxy.silence()
        # No call has a deadline: each must end by itself.
        codes = await asyncio.gather(*(list_regions(plane) for _ in range(10)))
        assert set(codes) == {grpc.StatusCode.UNAVAILABLE}

        async def not_serving() -> bool:
            states = {await status(plane), await status(plane, "database")}
            return states == {serving.NOT_SERVING}

        await eventually(not_serving)

        # The network is back, but not for the connections that were open.
        proxy.cut()
        proxy.restore()

        async def works() -> bool:
            return await list_regions(plane) is grpc.StatusCode.OK

        await eventually(works)

        async def is_serving() -> bool:
            return await status(plane) == int(serving.SERVING)

        await eventually(is_serving)


async def test_silent_connections_are_replaced(database_url: str, proxy: ChaosProxy) -> None:
    """One statement without an answer is enough to find all dead connections."""
    through = postgres_url(database_url, proxy)
    database = await Database.open(through, size=3, answer_timeout_seconds=0.5, warm=3)
    try:
        proxy.silence()
        with pytest.raises(TimeoutError):
            async with database.connection(ALL_TENANTS) as conn:
                await conn.execute("SELECT 1")
        await eventually(lambda: database.stats() == {"idle": 0, "used": 0})
    finally:
        await database.close()


async def test_loan_on_a_dead_connection_ends(database_url: str, proxy: ChaosProxy) -> None:
    """A statement that may run for half a minute ends when its neighbour's connection is dead."""
    through = postgres_url(database_url, proxy)
    database = await Database.open(through, size=2, warm=2)
    try:
        async with database.connection(ALL_TENANTS) as conn:
            proxy.silence()
            waiting = asyncio.ensure_future(conn.execute("SELECT 1"))
            with pytest.raises(TimeoutError):
                async with database.connection(ALL_TENANTS) as other:
                    await other.execute("SELECT 1", timeout=0.1)
            await asyncio.wait([waiting], timeout=15)
            assert waiting.done()
            assert conn.is_closed()
            waiting.exception()
    finally:
        await database.close()


async def test_transaction_that_loses_its_connection_is_run_again(
    database_url: str, proxy: ChaosProxy
) -> None:
    through = postgres_url(database_url, proxy)
    database = await Database.open(through, size=1)
    backends: list[int] = []

    async def work() -> int:
        async with database.transaction(ALL_TENANTS) as conn:
            backends.append(await conn.fetchval(PID))
            if len(backends) == 1:
                proxy.cut()
            return int(await conn.fetchval("SELECT 7"))

    assert await retry_on_serialization_failure(work) == 7
    assert len(set(backends)) == 2
    await database.close()


async def test_transaction_that_always_loses_its_connection_is_unavailable(
    database_url: str, proxy: ChaosProxy
) -> None:
    database = await Database.open(postgres_url(database_url, proxy), size=1)

    async def work() -> None:
        async with database.transaction(ALL_TENANTS) as conn:
            proxy.cut()
            await conn.execute("SELECT 1")

    with pytest.raises(TransactionLost) as lost:
        await retry_on_serialization_failure(work)
    assert isinstance(lost.value, Unavailable)
    assert lost.value.retry_after_seconds
    await database.close()


async def test_a_transaction_that_failed_at_its_begin_harms_none_after_it(
    database_url: str,
) -> None:
    """As when a late cancellation hits BEGIN: the driver goes on to count it as begun."""
    due = [b"BEGIN ISOLATION"]

    def spoiled(data: bytes) -> bytes:
        if due and due[0] in data:
            return data.replace(due.pop(), b"BEGIX ISOLATION")
        return data

    async with rewritten(database_url, to_server=spoiled) as url:
        db = await Database.open(url, size=1)
        with pytest.raises(asyncpg.PostgresSyntaxError):
            async with db.transaction(ALL_TENANTS):
                pytest.fail("nothing has begun")

        async with db.transaction(ALL_TENANTS) as conn:
            assert await conn.fetchval(PID)
        await db.close()
