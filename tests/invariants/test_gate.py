"""What every call goes through: its id, its budgets, its retries, and its right while it lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import grpc.aio
import pytest
from spotplane.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    api_key_pb2,
    api_key_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
)
from spotplane_server.kernel.db.database import MAX_ATTEMPTS, retry_on_serialization_failure
from spotplane_server.kernel.errors import Conflict

from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.plane import ADMIN, Metadata, Plane, bearer, refused, running

WAITING = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'spotplane'
       AND wait_event_type = 'Lock'
"""


@asynccontextmanager
async def owner_of(plane: Plane) -> AsyncIterator[Any]:
    """The database's owner, who can get in the server's way."""
    conn = await asyncpg.connect(plane.database_url)
    try:
        yield conn
    finally:
        await conn.close()


async def waiting(plane: Plane) -> bool:
    """Whether the server waits for somebody's lock."""
    async with owner_of(plane) as conn:
        return bool(await conn.fetchval(WAITING))


def list_keys(plane: Plane, metadata: Metadata) -> Any:
    """A call that every key may make, and that costs one request of its budget."""
    stub = api_key_pb2_grpc.ApiKeyServiceStub(plane.channel)
    return stub.ListOwnApiKeys(api_key_pb2.ListOwnApiKeysRequest(), metadata=metadata)


async def trailers(call: Any) -> dict[str, str]:
    """Await a call, refused or not; what came after its answer."""
    try:
        await call
    except grpc.aio.AioRpcError as err:
        return dict(iter(err.trailing_metadata() or ()))
    return dict(iter(await call.trailing_metadata()))


async def create_tenant(plane: Plane, request_id: str) -> dict[str, str]:
    """Create a tenant under a request id."""
    stub = tenant_pb2_grpc.TenantServiceStub(plane.channel)
    return await trailers(
        stub.CreateTenant(
            tenant_pb2.CreateTenantRequest(name="A", email="a@example.com"),
            metadata=(*ADMIN, ("x-request-id", request_id)),
        )
    )


async def audited(plane: Plane) -> list[str]:
    """Correlation ids of what callers did; the plane's own start is in the trail as well."""
    async with owner_of(plane) as conn:
        rows = await conn.fetch(
            "SELECT correlation_id FROM audit_logs WHERE actor_type <> 'system'"
        )
        return [row[0] for row in rows]


async def test_a_request_id_is_kept_from_the_call_to_its_audit_row(plane: Plane) -> None:
    """The caller's own, when it can be printed anywhere."""
    sent = await create_tenant(plane, "my-call_1.a")

    assert sent["x-request-id"] == "my-call_1.a"
    assert await audited(plane) == ["my-call_1.a"]


@pytest.mark.parametrize("bad", ["", "a b", "a" * 129, "a;b", 'a"b'])
async def test_a_request_id_that_is_none_is_replaced(plane: Plane, bad: str) -> None:
    """By a UUID, in the answer as in the audit row."""
    sent = await create_tenant(plane, bad)

    assert str(UUID(sent["x-request-id"])) == sent["x-request-id"]
    assert await audited(plane) == [sent["x-request-id"]]


async def test_a_refusal_has_its_request_id_too(plane: Plane) -> None:
    """For whoever asks about it later."""
    call = list_keys(plane, (("x-request-id", "refused-1"),))
    assert (await trailers(call))["x-request-id"] == "refused-1"


async def test_the_sixty_first_call_of_a_minute_is_refused_and_costs_nothing(
    plane: Plane, clock: FakeClock
) -> None:
    """With the time to wait and the budget; after that time there is room again."""
    tenant = await plane.tenant(rate_limit_rpm=60)
    for left in reversed(range(60)):
        sent = await trailers(list_keys(plane, tenant.metadata))
        assert (sent["x-ratelimit-limit"], sent["x-ratelimit-remaining"]) == ("60", str(left))

    for _ in range(30):
        async with refused("RATE_LIMIT_REQUESTS"):
            await list_keys(plane, tenant.metadata)
    sent = await trailers(list_keys(plane, tenant.metadata))
    assert sent["x-spotplane-http-status"] == "429"
    assert 1 <= int(sent["retry-after"]) <= 61
    assert (sent["x-ratelimit-limit"], sent["x-ratelimit-remaining"]) == ("60", "0")
    assert int(sent["x-ratelimit-reset"]) > clock.now().timestamp()

    clock.advance(timedelta(seconds=int(sent["retry-after"])))
    await list_keys(plane, tenant.metadata)
    clock.advance(timedelta(seconds=61))
    for _ in range(60):
        await list_keys(plane, tenant.metadata)
    async with refused("RATE_LIMIT_REQUESTS"):
        await list_keys(plane, tenant.metadata)


async def test_a_keys_budget_is_its_own(plane: Plane) -> None:
    """Another key of the tenant goes on."""
    tenant = await plane.tenant(rate_limit_rpm=1)
    other = await plane.key(tenant.id, rate_limit_rpm=10)
    await list_keys(plane, tenant.metadata)
    async with refused("RATE_LIMIT_REQUESTS"):
        await list_keys(plane, tenant.metadata)

    await list_keys(plane, bearer(other.key))


async def test_all_keys_of_a_tenant_share_the_tenants_budget(database_url: str) -> None:
    """However many keys it makes."""
    async with running(database_url, tenant_rpm=4) as plane:
        tenant, stranger = await plane.tenant(), await plane.tenant()
        other = await plane.key(tenant.id, rate_limit_rpm=10)
        for metadata in (tenant.metadata, bearer(other.key)) * 2:
            await list_keys(plane, metadata)
        for metadata in (tenant.metadata, bearer(other.key)):
            async with refused("TENANT_LIMIT"):
                await list_keys(plane, metadata)
        await list_keys(plane, stranger.metadata)


async def test_an_administrator_has_a_budget_too(database_url: str) -> None:
    """A script that runs wild is held back."""
    async with running(database_url, admin_rate_limit_rpm=3) as plane:
        stub = tenant_pb2_grpc.TenantServiceStub(plane.channel)
        for _ in range(3):
            await stub.ListTenants(tenant_pb2.ListTenantsRequest(), metadata=ADMIN)
        async with refused("ADMIN_RATE_LIMIT"):
            await stub.ListTenants(tenant_pb2.ListTenantsRequest(), metadata=ADMIN)


async def test_fleet_calls_draw_on_the_fleets_budget(plane: Plane) -> None:
    """Not on the key's requests a minute, and one agent has fifty in five seconds."""
    tenant = await plane.tenant(rate_limit_rpm=1)
    stub = agent_pb2_grpc.AgentServiceStub(plane.channel)
    for _ in range(5):
        await stub.ListAgents(agent_pb2.ListAgentsRequest(), metadata=tenant.metadata)
    one, two = (agent_pb2.GetAgentRequest(agent_id=name) for name in ("one", "two"))
    for _ in range(50):
        async with refused("INVALID_ID"):
            await stub.GetAgent(one, metadata=tenant.metadata)
    async with refused("RATE_LIMIT_EXCEEDED"):
        await stub.GetAgent(one, metadata=tenant.metadata)
    async with refused("INVALID_ID"):
        await stub.GetAgent(two, metadata=tenant.metadata)


async def test_calls_beyond_a_keys_concurrency_are_refused_until_one_ends(plane: Plane) -> None:
    """One that waits for the database counts."""
    tenant = await plane.tenant(concurrency_limit=1)
    stub = api_key_pb2_grpc.ApiKeyServiceStub(plane.channel)
    async with owner_of(plane) as conn:
        async with conn.transaction():
            await conn.execute("SELECT FROM tenants FOR UPDATE")
            slow = stub.CreateOwnApiKey(
                api_key_pb2.CreateOwnApiKeyRequest(), metadata=tenant.metadata
            )
            await eventually(lambda: waiting(plane))

            async with refused("CONCURRENCY_LIMIT"):
                await list_keys(plane, tenant.metadata)
        await slow

    await list_keys(plane, tenant.metadata)


async def test_a_deadlock_is_retried_and_takes_effect_once(plane: Plane) -> None:
    """The caller notices nothing, and there is one audit row."""
    tenant = await plane.tenant()
    before = len(await audited(plane))
    stub = api_key_pb2_grpc.ApiKeyServiceStub(plane.channel)
    async with owner_of(plane) as conn:
        # PostgreSQL ends whoever finds the deadlock: it must not be this one.
        await conn.execute("SET deadlock_timeout = '30s'")
        async with conn.transaction():
            await conn.execute("SELECT FROM auth_epoch FOR UPDATE")
            call = stub.RevokeApiKey(
                api_key_pb2.RevokeApiKeyRequest(key_id=tenant.key_id), metadata=ADMIN
            )
            await eventually(lambda: waiting(plane))
            await conn.execute("SELECT FROM api_keys WHERE id = $1 FOR UPDATE", tenant.key_id)
        await call
        deadlocks = await conn.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )

    assert deadlocks >= 1
    assert len(await audited(plane)) == before + 1
    async with refused("API_KEY_INVALID"):
        await list_keys(plane, tenant.metadata)


async def test_what_fails_every_time_for_the_sake_of_others_is_a_conflict() -> None:
    """After a bounded number of attempts."""
    attempts = 0

    async def lose() -> None:
        nonlocal attempts
        attempts += 1
        raise asyncpg.SerializationError

    with pytest.raises(Conflict):
        await retry_on_serialization_failure(lose)
    assert attempts == MAX_ATTEMPTS


async def test_an_open_stream_ends_when_its_key_loses_its_right(plane: Plane) -> None:
    """Within a second or so, with the reason."""
    tenant = await plane.tenant()
    watch = event_pb2_grpc.EventServiceStub(plane.channel).WatchEvents(
        event_pb2.WatchEventsRequest(types=["none"]), metadata=tenant.metadata
    )
    await watch.initial_metadata()
    await api_key_pb2_grpc.ApiKeyServiceStub(plane.channel).SuspendApiKey(
        api_key_pb2.SuspendApiKeyRequest(key_id=tenant.key_id), metadata=ADMIN
    )
    revoked = asyncio.get_running_loop().time()

    async with refused("KEY_SUSPENDED"):
        await watch.read()
    assert asyncio.get_running_loop().time() - revoked < 5
