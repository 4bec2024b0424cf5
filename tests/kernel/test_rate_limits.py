"""Budgets as tenants meet them: two servers, one PostgreSQL and one Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc.aio
import pytest
from spotplane.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.faults.process import spawned
from tests.support.eventually import eventually
from tests.support.plane import ADMIN, Metadata, Plane, Tenant, bearer, refusal, running
from tests.support.valkey import Valkey

# Locks are told as they are; activity as of a transaction's first look, without whoever came later.
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
EVENTS = """
    SELECT aggregate_id, data FROM outbox_events
     WHERE event_type = 'ratelimit.threshold_reached' ORDER BY seq
"""


@pytest.fixture
async def pair(database_url: str, redis_url: str) -> AsyncIterator[tuple[Plane, Plane]]:
    """Two servers that share everything."""
    async with (
        running(database_url, redis_url=redis_url) as one,
        running(database_url, redis_url=redis_url) as two,
    ):
        yield one, two


def keys_of(channel: grpc.aio.Channel) -> Any:
    """The stub that most tests call."""
    return api_key_pb2_grpc.ApiKeyServiceStub(channel)


async def list_keys(plane: Plane, metadata: Metadata) -> None:
    """A call that costs one request."""
    await keys_of(plane.channel).ListOwnApiKeys(
        api_key_pb2.ListOwnApiKeysRequest(), metadata=metadata
    )


async def outcome(plane: Plane, metadata: Metadata) -> str:
    """``OK``, or the reason of the refusal."""
    try:
        await list_keys(plane, metadata)
    except grpc.aio.AioRpcError as err:
        return refusal(err).reason
    return "OK"


async def quota(plane: Plane, tenant: Tenant, **budgets: int) -> None:
    """Set budgets of the tenant's only environment."""
    stub = tenant_pb2_grpc.TenantServiceStub(plane.channel)
    found = await stub.ListEnvironments(
        tenant_pb2.ListEnvironmentsRequest(id=tenant.id), metadata=ADMIN
    )
    await stub.UpdateEnvironment(
        tenant_pb2.UpdateEnvironmentRequest(
            id=tenant.id, environment_id=found.data[0].id, **budgets
        ),
        metadata=ADMIN,
    )


async def use(plane: Plane, tenant: Tenant, key_id: str, tokens: int) -> None:
    """Report tokens that a key used."""
    record = usage_pb2.UsageRecord(
        request_id=uuid4().hex,
        api_key_id=key_id,
        tenant_id=tenant.id,
        prompt_tokens=tokens - 1,
        completion_tokens=1,
    )
    await usage_pb2_grpc.UsageServiceStub(plane.channel).IngestUsageBatch(
        usage_pb2.IngestUsageBatchRequest(records=[record]), metadata=ADMIN
    )


@asynccontextmanager
async def held(database_url: str, channel: grpc.aio.Channel, *sent: Metadata) -> AsyncIterator[Any]:
    """Calls that run for as long as the block does, and longer than its ``release``."""
    conn = await asyncpg.connect(database_url)
    transaction = conn.transaction()
    await transaction.start()
    # Holds calls up, and no job that only refers to a tenant.
    await conn.execute("SELECT FROM tenants FOR NO KEY UPDATE")
    calls = [
        keys_of(channel).CreateOwnApiKey(api_key_pb2.CreateOwnApiKeyRequest(), metadata=metadata)
        for metadata in sent
    ]

    async def all_wait() -> bool:
        return bool(await conn.fetchval(WAITING) == len(calls))

    async def release() -> None:
        await transaction.rollback()
        await asyncio.gather(*calls)

    try:
        await eventually(all_wait)
        yield release
    finally:
        await conn.close()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_requests_of_a_minute_hold_over_both_servers(pair: tuple[Plane, Plane]) -> None:
    """However the calls are spread, and whoever counts them tells the same."""
    tenant = await pair[0].tenant(rate_limit_rpm=30)

    found = await asyncio.gather(
        *(outcome(plane, tenant.metadata) for _ in range(25) for plane in pair)
    )

    assert sorted(found) == ["OK"] * 30 + ["RATE_LIMIT_REQUESTS"] * 20
    for plane in pair:
        call = keys_of(plane.channel).ListOwnApiKeys(
            api_key_pb2.ListOwnApiKeysRequest(), metadata=tenant.metadata
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        said = dict(iter(caught.value.trailing_metadata() or ()))
        assert (said["x-ratelimit-limit"], said["x-ratelimit-remaining"]) == ("30", "0")
        assert 1 <= int(str(said["retry-after"])) <= 61


async def test_each_layer_refuses_by_its_name_and_charges_nothing(
    pair: tuple[Plane, Plane],
) -> None:
    """The narrower one first; what a wide one refused is not gone from the narrow ones."""
    one, two = pair
    tenant = await one.tenant(rate_limit_rpm=8)
    other = await one.key(tenant.id, rate_limit_rpm=100)
    await quota(one, tenant, requests_per_minute=5)
    for plane in (one, two, one, two, one):
        assert await outcome(plane, tenant.metadata) == "OK"
    for plane in pair * 5:
        assert await outcome(plane, tenant.metadata) == "ENVIRONMENT_LIMIT"
        assert await outcome(plane, bearer(other.key)) == "ENVIRONMENT_LIMIT"
    await quota(two, tenant, requests_per_minute=100)

    found = [await outcome(plane, tenant.metadata) for plane in (one, two, one, two)]

    assert found == ["OK", "OK", "OK", "RATE_LIMIT_REQUESTS"]
    assert await outcome(two, bearer(other.key)) == "OK"


async def test_tokens_count_once_they_are_known(pair: tuple[Plane, Plane]) -> None:
    """Of the key, of its environment in a minute and in a day, told through the other server."""
    one, two = pair
    tenant = await one.tenant()
    narrow = await one.key(tenant.id, rate_limit_tpm=100, rate_limit_rpm=1000)
    assert await outcome(two, bearer(narrow.key)) == "OK"
    await use(one, tenant, narrow.id, 99)
    assert await outcome(two, bearer(narrow.key)) == "OK"
    await use(one, tenant, narrow.id, 1)
    assert await outcome(two, bearer(narrow.key)) == "RATE_LIMIT_TOKENS"
    assert await outcome(two, tenant.metadata) == "OK"

    for budget in ("quota_tokens_per_minute", "quota_tokens_per_day"):
        await quota(one, tenant, **{budget: 100})
        assert await outcome(two, tenant.metadata) == "ENVIRONMENT_LIMIT"
        await quota(one, tenant, **{budget: 101})
        assert await outcome(two, tenant.metadata) == "OK"


async def test_the_third_of_two_concurrent_calls_waits_for_one_to_end(
    pair: tuple[Plane, Plane],
) -> None:
    """On whatever server they run; the first call after an end's answer is admitted."""
    one, two = pair
    tenant = await one.tenant(concurrency_limit=2)
    async with held(one.database_url, one.channel, tenant.metadata, tenant.metadata) as release:
        for plane in pair:
            assert await outcome(plane, tenant.metadata) == "CONCURRENCY_LIMIT"
        await release()
        for _ in range(20):
            assert await outcome(two, tenant.metadata) == "OK"


async def test_an_environment_holds_its_keys_together(pair: tuple[Plane, Plane]) -> None:
    """Its concurrency is of all of them."""
    one, two = pair
    tenant = await one.tenant()
    other = await one.key(tenant.id)
    await quota(one, tenant, concurrency_limit=1)
    async with held(one.database_url, one.channel, tenant.metadata) as release:
        assert await outcome(two, bearer(other.key)) == "ENVIRONMENT_LIMIT"
        await release()
    assert await outcome(two, bearer(other.key)) == "OK"


async def test_permits_of_a_server_killed_outright_are_free_again(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """When their lease has ended, and not with the kill."""
    shared: dict[str, Any] = {"redis_url": redis_url, "concurrency_lease_seconds": 2}
    settings = {name: str(value) for name, value in shared.items()}
    async with (
        running(database_url, **shared) as alive,
        spawned(database_url, tmp_path, **settings) as killed,
        grpc.aio.insecure_channel(killed.target) as channel,
    ):
        tenant = await alive.tenant(concurrency_limit=1)
        async with held(database_url, channel, tenant.metadata):
            await killed.kill()
            assert await outcome(alive, tenant.metadata) == "CONCURRENCY_LIMIT"

        async def free() -> bool:
            return await outcome(alive, tenant.metadata) == "OK"

        await eventually(free)


async def test_an_absent_limiter_is_said_so_and_comes_back(database_url: str) -> None:
    """503 and never 500; without anybody's doing."""
    with Valkey() as valkey:
        async with running(database_url, redis_url=valkey.url) as plane:
            tenant = await plane.tenant()
            assert await outcome(plane, tenant.metadata) == "OK"
            valkey.stop()
            for _ in range(3):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await list_keys(plane, tenant.metadata)
                said = refusal(caught.value)
                assert (said.reason, said.http_status) == ("LIMITER_UNAVAILABLE", 503)
            valkey.start()

            async def back() -> bool:
                return await outcome(plane, tenant.metadata) == "OK"

            await eventually(back)


async def test_a_tenant_is_told_once_that_a_window_fills_up(pair: tuple[Plane, Plane]) -> None:
    """At four fifths, by one event for both servers."""
    one, two = pair
    tenant = await one.tenant(rate_limit_rpm=10)

    async def told() -> list[Any]:
        async with one.db.connection(ALL_TENANTS) as conn:
            return list(await conn.fetch(EVENTS))

    for plane in (one, two) * 3 + (one,):
        await list_keys(plane, tenant.metadata)
    assert not await told()
    await list_keys(two, tenant.metadata)
    (event,) = await eventually(told)
    for plane in (one, two, one, two, one):
        await outcome(plane, tenant.metadata)
    later = await one.tenant(rate_limit_rpm=1)
    await list_keys(two, later.metadata)

    async def told_of_both() -> bool:
        return len(await told()) > 1

    await eventually(told_of_both)
    assert [row["aggregate_id"] for row in await told()] == [tenant.key_id, later.key_id]
    assert event["data"]["layer"] == "RATE_LIMIT_REQUESTS"
    assert (event["data"]["limit"], event["data"]["used"]) == (10, 8)
    assert event["data"]["correlation_id"]
