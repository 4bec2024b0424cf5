"""Idempotent writes: one effect per key, and a repeated response."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.jobs.retention import RetentionJob
from spotplane_server.kernel.rpc.idempotency import KEEP

from tests.legacy.field import ADMIN, Field
from tests.support.clock import FakeClock
from tests.support.idempotency import lapse_claims
from tests.support.link import job

CREATE = "/api/admin/clients/create"
KEY = {"Idempotency-Key": "create-acme-1"}


async def _count(field: Field, name: str) -> int:
    async with field.plane.db.connection(ALL_TENANTS) as conn:
        count: int = await conn.fetchval("SELECT count(*) FROM tenants WHERE name = $1", name)
        return count


async def test_a_repeat_returns_the_first_response(field: Field) -> None:
    first = await field.post(CREATE, {"name": "Acme"}, by=ADMIN, headers=KEY)
    async with field.send("POST", CREATE, {"name": "Acme"}, by=ADMIN, headers=KEY) as answer:
        assert answer.status == 200
        assert answer.headers["Idempotent-Replayed"] == "true"
        assert await answer.json() == first
    assert await _count(field, "Acme") == 1


async def test_a_rejection_is_repeated_too(field: Field) -> None:
    client = (await field.post(CREATE, {"name": "Acme"}, by=ADMIN))["client"]
    await field.refused(
        "CLIENT_EXISTS", "POST", CREATE, {"name": "Acme"}, status=409, by=ADMIN, headers=KEY
    )
    await field.delete(f"/api/admin/clients/{client['id']}", by=ADMIN)
    async with field.send("POST", CREATE, {"name": "Acme"}, by=ADMIN, headers=KEY) as answer:
        assert (answer.status, answer.headers["Idempotent-Replayed"]) == (409, "true")
        assert (await answer.json())["code"] == "CLIENT_EXISTS"


async def test_a_key_belongs_to_one_request(field: Field) -> None:
    await field.post(CREATE, {"name": "Acme"}, by=ADMIN, headers=KEY)
    await field.refused(
        "IDEMPOTENCY_CONFLICT", "POST", CREATE, {"name": "B"}, status=409, by=ADMIN, headers=KEY
    )
    for tenant in (field.tenant, field.foreign):
        path = f"/api/admin/clients/{tenant.id}/regenerate-token"
        await field.post(path, by=ADMIN, headers=KEY)


async def test_a_request_id_is_a_key_that_may_be_used_again(field: Field) -> None:
    sticky = {"X-Request-ID": "set-once-for-ever"}
    first = await field.post(CREATE, {"name": "Acme"}, by=ADMIN, headers=sticky)
    assert await field.post(CREATE, {"name": "Acme"}, by=ADMIN, headers=sticky) == first
    other = await field.post(CREATE, {"name": "Other"}, by=ADMIN, headers=sticky)
    assert other["client"]["id"] != first["client"]["id"]


async def test_racing_repeats_have_one_effect(field: Field) -> None:
    async def create() -> int:
        body = {"name": "Acme"}
        async with field.send("POST", CREATE, body, by=ADMIN, headers=KEY) as answer:
            reply = await answer.json()
            assert answer.status == 200 or reply["code"] == "DUPLICATE_REQUEST"
            status: int = answer.status
            return status

    statuses = await asyncio.gather(*(create() for _ in range(8)))
    assert 200 in statuses
    assert await _count(field, "Acme") == 1
    await field.post(CREATE, {"name": "Acme"}, by=ADMIN, headers=KEY)


async def test_a_key_left_behind_by_a_dead_server_lapses(field: Field) -> None:
    await field.post(CREATE, {"name": "Acme"}, by=ADMIN, headers=KEY)
    async with field.plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute("UPDATE idempotency_keys SET answer = NULL")
        await conn.execute(
            "UPDATE tenants SET name = 'Former', email = 'f@example.com' WHERE name = 'Acme'"
        )
    await field.refused(
        "DUPLICATE_REQUEST", "POST", CREATE, {"name": "Acme"}, status=409, by=ADMIN, headers=KEY
    )
    await lapse_claims(field.plane.database_url)
    await field.post(CREATE, {"name": "Acme"}, by=ADMIN, headers=KEY)


async def test_keys_are_forgotten_after_a_day(field: Field, clock: FakeClock) -> None:
    await field.post(CREATE, {"name": "Acme"}, by=ADMIN, headers=KEY)
    clock.advance(KEEP + timedelta(seconds=1))
    retention = job(field.plane, "retention")
    assert isinstance(retention, RetentionJob)
    await retention.forget(clock.now())
    async with field.plane.db.connection(ALL_TENANTS) as conn:
        assert await conn.fetchval("SELECT count(*) FROM idempotency_keys") == 0


async def test_stored_responses_and_keys_are_encrypted(field: Field) -> None:
    reply = await field.post(CREATE, {"name": "Acme"}, by=ADMIN, headers=KEY)
    async with field.plane.db.connection(ALL_TENANTS) as conn:
        row = await conn.fetchrow("SELECT scope, request_hash, answer FROM idempotency_keys")
    assert row is not None
    kept = b"".join(row.values())
    assert reply["client"]["token"].encode() not in kept
    assert KEY["Idempotency-Key"].encode() not in kept


@pytest.mark.parametrize("key", ["short", "x" * 129])
async def test_a_key_has_its_form(field: Field, key: str) -> None:
    headers = {"Idempotency-Key": key}
    await field.refused(
        "VALIDATION_ERROR", "POST", CREATE, {"name": "A"}, status=400, by=ADMIN, headers=headers
    )
