"""Environments' budgets: read, set, taken away, and in force with the next call."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from spotplane.v1 import api_key_pb2, api_key_pb2_grpc, tenant_pb2, tenant_pb2_grpc

from tests.support.plane import ADMIN, Plane, Tenant, refused

MISSING = "00000000-0000-4000-8000-000000000000"


async def call(plane: Plane, method: str, **fields: Any) -> Any:
    """A call of an administrator."""
    stub = tenant_pb2_grpc.TenantServiceStub(plane.channel)
    request = getattr(tenant_pb2, f"{method}Request")(**fields)
    return await getattr(stub, method)(request, metadata=ADMIN)


async def production(plane: Plane, tenant: Tenant) -> Any:
    """The environment that a tenant is created with."""
    (found,) = (await call(plane, "ListEnvironments", id=tenant.id)).data
    return found


async def list_keys(plane: Plane, tenant: Tenant) -> None:
    """A call of the tenant."""
    stub = api_key_pb2_grpc.ApiKeyServiceStub(plane.channel)
    await stub.ListOwnApiKeys(api_key_pb2.ListOwnApiKeysRequest(), metadata=tenant.metadata)


async def trail(plane: Plane, tenant: Tenant) -> list[asyncpg.Record]:
    """Audit rows and events of the tenant's environments."""
    conn = await asyncpg.connect(plane.database_url)
    try:
        return await conn.fetch(
            """SELECT action, before::text, after::text FROM audit_logs
                WHERE tenant_id = $1 AND action LIKE 'environment.%'
               UNION ALL
               SELECT event_type, NULL, data->>'environment_id' FROM outbox_events
                WHERE tenant_id = $1 AND event_type = 'tenant.updated'""",
            tenant.id,
        )
    finally:
        await conn.close()


async def test_a_limit_takes_effect_with_the_next_call(plane: Plane) -> None:
    tenant = await plane.tenant()
    environment = await production(plane, tenant)
    assert environment.requests_per_minute == 10_000
    assert not environment.HasField("quota_tokens_per_day")
    await list_keys(plane, tenant)

    named = {"id": tenant.id, "environment_id": environment.id}
    changed = await call(plane, "UpdateEnvironment", requests_per_minute=1, **named)

    assert changed == await call(plane, "GetEnvironment", **named)
    async with refused("ENVIRONMENT_LIMIT"):
        await list_keys(plane, tenant)
    audited, announced = await trail(plane, tenant)
    assert audited["action"] == "environment.update"
    assert "10000" in audited["before"]
    assert announced["after"] == environment.id


async def test_zero_removes_a_quota(plane: Plane) -> None:
    """An absent one stays."""
    tenant = await plane.tenant()
    named = {"id": tenant.id, "environment_id": (await production(plane, tenant)).id}
    quotas = {"quota_tokens_per_minute": 5, "quota_tokens_per_day": 2**40, "concurrency_limit": 3}
    await call(plane, "UpdateEnvironment", **named, **quotas)

    changed = await call(plane, "UpdateEnvironment", **named, quota_tokens_per_minute=0)

    assert not changed.HasField("quota_tokens_per_minute")
    assert (changed.quota_tokens_per_day, changed.concurrency_limit) == (2**40, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requests_per_minute", 0),
        ("requests_per_minute", 10_000_001),
        ("quota_tokens_per_minute", -1),
        ("quota_tokens_per_day", 10**15 + 1),
        ("concurrency_limit", 1_000_001),
    ],
)
async def test_limit_out_of_range_is_rejected_by_field(
    plane: Plane, field: str, value: int
) -> None:
    tenant = await plane.tenant()
    environment = await production(plane, tenant)
    named = {"id": tenant.id, "environment_id": environment.id}
    async with refused("OUT_OF_RANGE", field=field):
        await call(plane, "UpdateEnvironment", **named, **{field: value})

    assert await production(plane, tenant) == environment
    assert not await trail(plane, tenant)


async def test_unknown_tenant_and_environment_are_not_found(plane: Plane) -> None:
    one, two = await plane.tenant(), await plane.tenant()
    foreign = (await production(plane, two)).id
    own = (await production(plane, one)).id
    rpm = {"requests_per_minute": 5}
    async with refused("TENANT_NOT_FOUND"):
        await call(plane, "ListEnvironments", id=str(uuid4()))
    for wrong in (MISSING, foreign):
        async with refused("ENVIRONMENT_NOT_FOUND"):
            await call(plane, "GetEnvironment", id=one.id, environment_id=wrong)
        async with refused("ENVIRONMENT_NOT_FOUND"):
            await call(plane, "UpdateEnvironment", id=one.id, environment_id=wrong, **rpm)
    async with refused("INVALID_ID", field="environment_id"):
        await call(plane, "UpdateEnvironment", id=one.id, environment_id="x", **rpm)
    async with refused("NO_FIELDS"):
        await call(plane, "UpdateEnvironment", id=one.id, environment_id=own)
    await call(plane, "DeleteTenant", id=one.id)
    async with refused("TENANT_DELETED"):
        await call(plane, "UpdateEnvironment", id=one.id, environment_id=own, **rpm)
    assert (await production(plane, one)).id == own
