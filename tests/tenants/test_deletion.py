"""Nothing is created in a tenant that does not exist or is deleted, whatever the order of calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from typing import Any, Final
from uuid import uuid4

import asyncpg
from spotplane.v1 import agent_pb2, agent_pb2_grpc, tenant_pb2, tenant_pb2_grpc

from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.link import by_hand, run_job
from tests.support.plane import ADMIN, Plane, refused

THREADS: Final = 8

LEFT: Final = """
    SELECT (SELECT count(*) FROM agents
             WHERE tenant_id = $1 AND status <> 'deleted') AS agents,
           (SELECT count(*) FROM instances
             WHERE tenant_id = $1 AND status <> 'terminated') AS instances,
           (SELECT count(*) FROM instance_spans
             WHERE tenant_id = $1 AND ended_at IS NULL) AS spans
"""
COST: Final = """
    SELECT (SELECT coalesce(sum(baseline_nanousd - actual_nanousd), 0) FROM savings_buckets
             WHERE tenant_id = $1) AS buckets,
           (SELECT coalesce(sum(baseline_nanousd - actual_nanousd), 0) FROM savings_days
             WHERE tenant_id = $1) AS days,
           (SELECT coalesce(sum(baseline_nanousd - actual_nanousd), 0) FROM savings_months
             WHERE tenant_id = $1) AS months
"""
WAITING: Final = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'spotplane'
       AND wait_event_type = 'Lock'
"""
INSERT_INSTANCE: Final = """
    INSERT INTO instances (tenant_id, id, agent_id, status, instance_type, region, az, mode,
                           baseline_price_nanousd, launched_at, updated_at)
    SELECT tenant_id, 'i-late', id, 'launching', 'g5.xlarge', 'us-east-1', 'us-east-1a', 'spot',
           1, now(), now()
      FROM agents
     WHERE tenant_id = $1
"""


@asynccontextmanager
async def owner_of(plane: Plane) -> AsyncIterator[Any]:
    """A connection of the database's owner."""
    conn = await asyncpg.connect(plane.database_url)
    try:
        yield conn
    finally:
        await conn.close()


async def server_waits(plane: Plane, statements: int = 1) -> bool:
    """Whether at least so many statements of the server wait for locks."""
    async with owner_of(plane) as conn:
        return bool(await conn.fetchval(WAITING) >= statements)


def registration(tenant_id: str, name: str) -> agent_pb2.RegisterRequest:
    """Registers an instance, as an administrator does for a tenant."""
    return agent_pb2.RegisterRequest(
        tenant_id=tenant_id,
        logical_agent_id=name,
        instance_id=f"i-{name}",
        instance_type="g5.xlarge",
        region="us-east-1",
        az="us-east-1a",
        mode="spot",
    )


def register(plane: Plane, tenant_id: str, name: str) -> Any:
    stub = agent_pb2_grpc.AgentServiceStub(plane.channel)
    return stub.Register(registration(tenant_id, name), metadata=ADMIN)


def delete(plane: Plane, tenant_id: str) -> Any:
    stub = tenant_pb2_grpc.TenantServiceStub(plane.channel)
    return stub.DeleteTenant(tenant_pb2.DeleteTenantRequest(id=tenant_id), metadata=ADMIN)


async def left(plane: Plane, tenant_id: str) -> dict[str, int]:
    async with owner_of(plane) as conn:
        return dict(await conn.fetchrow(LEFT, tenant_id))


async def test_registration_in_an_unknown_tenant_is_not_found(plane: Plane) -> None:
    async with refused("TENANT_NOT_FOUND"):
        await register(plane, str(uuid4()), "chat")


async def test_registration_in_a_deleted_tenant_is_not_found(plane: Plane) -> None:
    tenant = await plane.tenant()
    await delete(plane, tenant.id)

    async with refused("TENANT_NOT_FOUND"):
        await register(plane, tenant.id, "chat")
    assert await left(plane, tenant.id) == {"agents": 0, "instances": 0, "spans": 0}


async def test_registration_waits_for_a_deletion_that_has_begun(plane: Plane) -> None:
    tenant = await plane.tenant()
    async with owner_of(plane) as conn:
        async with conn.transaction():
            await conn.execute(
                "UPDATE tenants SET status = 'deleted', deleted_at = now() WHERE id = $1", tenant.id
            )
            call = register(plane, tenant.id, "chat")
            await eventually(lambda: server_waits(plane))
        async with refused("TENANT_NOT_FOUND"):
            await call


async def test_deletion_waits_for_a_registration_that_has_begun(plane: Plane) -> None:
    """The lock on events holds the registration up after it has inserted the agent."""
    tenant = await plane.tenant()
    async with owner_of(plane) as conn:
        async with conn.transaction():
            await conn.execute("LOCK TABLE outbox_events IN SHARE MODE")
            call = register(plane, tenant.id, "chat")
            await eventually(lambda: server_waits(plane))
            deletion = delete(plane, tenant.id)
            await eventually(lambda: server_waits(plane, 2))
        await call
        await deletion
    assert await left(plane, tenant.id) == {"agents": 0, "instances": 0, "spans": 0}


async def test_deletion_ends_an_instance_that_an_open_transaction_adds(plane: Plane) -> None:
    async with by_hand(plane) as hand:
        await hand.register("i-1")
        async with owner_of(plane) as conn:
            async with conn.transaction():
                await conn.execute(
                    "SELECT FROM agents WHERE tenant_id = $1 FOR UPDATE", hand.tenant.id
                )
                deletion = delete(plane, hand.tenant.id)
                await eventually(lambda: server_waits(plane))
                await conn.execute(INSERT_INSTANCE, hand.tenant.id)
            await deletion
        assert await left(plane, hand.tenant.id) == {"agents": 0, "instances": 0, "spans": 0}


async def test_registrations_that_race_with_a_deletion_leave_nothing(
    plane: Plane, clock: FakeClock
) -> None:
    """No agent, no instance and no cost remain, and the ledger's sums agree."""
    tenant = await plane.tenant()
    numbers, accepted = count(), 0

    async def keep_registering() -> None:
        nonlocal accepted
        async with refused("TENANT_NOT_FOUND"):
            while True:
                # Two of three repeat a registration.
                await register(plane, tenant.id, f"a{next(numbers) // 3}")
                accepted += 1

    threads = [asyncio.create_task(keep_registering()) for _ in range(THREADS)]
    await eventually(lambda: accepted >= 2 * THREADS)
    clock.advance(timedelta(minutes=12))
    await delete(plane, tenant.id)
    await asyncio.gather(*threads)

    assert await left(plane, tenant.id) == {"agents": 0, "instances": 0, "spans": 0}
    sums = []
    for _ in range(2):
        clock.advance(timedelta(hours=1))
        await run_job(plane, "savings")
        async with owner_of(plane) as conn:
            sums.append(dict(await conn.fetchrow(COST, tenant.id)))
    assert sums[0]["buckets"] == sums[0]["days"] == sums[0]["months"] > 0
    assert sums[1] == sums[0], "a deleted tenant went on to cost"
