"""Keyed repeats, as gRPC callers use them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from spotplane.v1 import tenant_pb2 as pb
from spotplane.v1 import tenant_pb2_grpc
from spotplane_server.kernel.db import EVERY_TENANT

from tests.support.eventually import eventually
from tests.support.plane import ADMIN, Plane, refused

KEY = (("idempotency-key", "a-key-of-a-caller"),)


def _create(plane: Plane, name: str = "Acme") -> Any:
    stub = plane.stub(tenant_pb2_grpc.TenantServiceStub)
    return stub.CreateClient(pb.CreateClientRequest(name=name), metadata=ADMIN + KEY)


async def test_a_repeat_has_the_first_answer(plane: Plane) -> None:
    """And says in its metadata that it is one."""
    first = await _create(plane)
    call = _create(plane)
    assert await call == first
    assert dict(iter(await call.initial_metadata()))["idempotent-replayed"] == "true"


async def test_a_caller_that_goes_away_finds_its_answer_later(plane: Plane) -> None:
    """Its run is not stopped half-way: the repeat is what the key is for."""
    async with plane.db.transaction(EVERY_TENANT) as conn:
        await conn.execute("LOCK TABLE tenants IN EXCLUSIVE MODE")
        call = _create(plane)
        waiting = asyncio.ensure_future(_finish(call))

        async def is_running() -> bool:
            async with plane.db.read(EVERY_TENANT) as other:
                return bool(await other.fetchval("SELECT count(*) FROM idempotency_keys"))

        await eventually(is_running)
        call.cancel()
        await waiting

    async def answered() -> Any:
        async with plane.db.read(EVERY_TENANT) as other:
            return await other.fetchval("SELECT answer FROM idempotency_keys")

    await eventually(answered)
    assert (await _create(plane)).name == "Acme"


async def test_a_refusal_is_an_answer(plane: Plane) -> None:
    """The key is used up by it."""
    for _ in range(2):
        async with refused("MISSING_FIELD", field="name"):
            await _create(plane, "")
    async with refused("IDEMPOTENCY_CONFLICT"):
        await _create(plane, "Acme")


async def test_reads_may_carry_a_key(plane: Plane) -> None:
    """Anything that is answered once may be answered again."""
    tenant = await plane.tenant()
    stub = plane.stub(tenant_pb2_grpc.TenantServiceStub)
    for _ in range(2):
        request = pb.GetTenantRequest(id=tenant.id)
        assert (await stub.GetTenant(request, metadata=ADMIN + KEY)).id == tenant.id


async def _finish(call: Any) -> None:
    with suppress(asyncio.CancelledError):
        await call
