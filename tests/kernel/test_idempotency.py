"""Keyed repeats, as gRPC callers use them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc.aio
import pytest
from spotplane.v1 import api_key_pb2, api_key_pb2_grpc, tenant_pb2_grpc
from spotplane.v1 import tenant_pb2 as pb
from spotplane_bench.chaos import chaos_proxy, is_commit, postgres_upstream, postgres_url
from spotplane_server.kernel.auth import secrets
from spotplane_server.kernel.clock import SystemClock
from spotplane_server.kernel.db import unit_of_work
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.errors import Internal
from spotplane_server.kernel.request_context import Call, Caller
from spotplane_server.kernel.rpc.idempotency import COMPLETE_KEY, IdempotencyKey, IdempotencyStore

from tests.support.eventually import eventually
from tests.support.idempotency import lapse_claims
from tests.support.plane import ADMIN, Plane, refused, running

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
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute("LOCK TABLE tenants IN EXCLUSIVE MODE")
        call = _create(plane)
        waiting = asyncio.ensure_future(_finish(call))

        await eventually(lambda: _claims(plane))
        call.cancel()
        await waiting

    async def answered() -> Any:
        async with plane.db.connection(ALL_TENANTS) as other:
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


async def test_every_token_reaches_its_caller_although_commits_are_cut(database_url: str) -> None:
    """No key is created twice, and none without its caller receiving the token."""
    async with (
        chaos_proxy(postgres_upstream(database_url)) as proxy,
        running(postgres_url(database_url, proxy)) as plane,
    ):
        tenant = await plane.tenant()
        names = [f"key-{n}" for n in range(40)]
        proxy.lose_answers(30)
        tokens = await asyncio.gather(*(_persist(plane, tenant.id, name) for name in names))
        proxy.restore()
        assert proxy.lost_answers >= 20
        async with plane.db.connection(ALL_TENANTS) as conn:
            rows = await conn.fetch("SELECT name, key_hash FROM api_keys WHERE name <> ''")
    assert sorted(row["name"] for row in rows) == sorted(names)
    assert {row["name"]: row["key_hash"] for row in rows} == {
        name: secrets.hash_of(token) for name, token in zip(names, tokens, strict=True)
    }


async def test_a_client_token_is_not_lost_behind_a_name_that_is_taken(database_url: str) -> None:
    """The COMMIT that stores the client and its token receives no answer."""
    async with (
        chaos_proxy(postgres_upstream(database_url)) as proxy,
        running(postgres_url(database_url, proxy)) as plane,
    ):
        completing = False

        def is_completing_commit(sql: str) -> bool:
            nonlocal completing
            completing = completing or sql == COMPLETE_KEY
            return completing and is_commit(sql)

        proxy.lose_answers(1, is_completing_commit)
        created = await _create(plane)
        assert proxy.lost_answers == 1
        assert await _create(plane) == created
        async with plane.db.connection(ALL_TENANTS) as conn:
            hashes = await conn.fetch("SELECT key_hash FROM api_keys")
    assert [row["key_hash"] for row in hashes] == [secrets.hash_of(created.token)]


async def test_a_call_that_outlives_its_claim_has_no_effect(plane: Plane) -> None:
    """Another attempt may have taken the key meanwhile."""
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute("LOCK TABLE tenants IN EXCLUSIVE MODE")
        call = asyncio.ensure_future(_finish(_create(plane)))
        await eventually(lambda: _claims(plane))
        await lapse_claims(plane.database_url)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    async with plane.db.connection(ALL_TENANTS) as conn:
        assert await conn.fetchval("SELECT count(*) FROM tenants") == 0
    assert (await _create(plane)).name == "Acme"


async def test_an_early_commit_has_a_provisional_answer(db: Database) -> None:
    """It is what repeats receive when the rest of the call fails, else its final answer."""
    store = IdempotencyStore(db, SystemClock())

    async def call(key: str, *, fails: bool) -> bytes:
        async def run() -> bytes:
            await unit_of_work.commit_early(b"early")
            if fails:
                raise Internal
            return b"final"

        caller = Caller("admin", "id", "name")
        return await store.answer(
            Call("/spotplane.v1.TenantService/CreateTenant", "c", caller),
            "secret",
            IdempotencyKey(key, (), loose=False),
            b"request",
            run,
            lambda response: response,
        )

    assert [await call("succeeds", fails=False), await call("succeeds", fails=False)] == [
        b"final",
        b"final",
    ]
    with pytest.raises(Internal):
        await call("fails", fails=True)
    assert await call("fails", fails=True) == b"early"


async def _persist(plane: Plane, tenant_id: str, name: str) -> str:
    """Create a key as a client does that repeats its call until it is answered."""
    stub = api_key_pb2_grpc.ApiKeyServiceStub(plane.channel)
    request = api_key_pb2.CreateApiKeyRequest(tenant_id=tenant_id, name=name)
    for _ in range(200):
        try:
            issued = await stub.CreateApiKey(
                request, metadata=(*ADMIN, ("idempotency-key", f"create-{name}"))
            )
        except grpc.aio.AioRpcError as err:
            if err.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED}:
                raise
            await asyncio.sleep(0.05)
        else:
            token: str = issued.key
            return token
    raise AssertionError(f"{name} was never answered")


async def _claims(plane: Plane) -> bool:
    async with plane.db.connection(ALL_TENANTS) as conn:
        return bool(await conn.fetchval("SELECT count(*) FROM idempotency_keys"))


async def _finish(call: Any) -> None:
    with suppress(asyncio.CancelledError):
        await call
