"""ApiKeyService for administrators."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from spotplane_server.kernel.auth import secrets
from spotplane_server.tenants.jobs import LastUsedJob

from tests.support.clock import FakeClock
from tests.support.plane import Plane, refused
from tests.tenants.api import admin, holder, http_status, outcome, rows

WITH_KEY = ("RevokeApiKey", "UpdateApiKey", "RotateApiKey", "SuspendApiKey", "ActivateApiKey")


async def test_a_new_key_is_shown_once_and_stored_as_a_hash(plane: Plane) -> None:
    """Defaults come from the configuration; the aliases agree."""
    tenant = await plane.tenant()
    call = admin(plane)("CreateApiKey", tenant_id=tenant.id, name="ci")

    assert await http_status(call) == 201
    key = await call
    assert secrets.label_of(key.key) == "live"
    assert key.key_prefix == key.prefix == key.key[:12] + "..."
    assert (key.role, key.status, key.concurrency_limit) == ("developer", "active", 5)
    assert key.rate_limit_rpm == key.rate_limit == key.rate_limit_per_minute == 60
    assert not key.HasField("rate_limit_tpm")
    stored = await rows(plane, "SELECT key_hash FROM api_keys WHERE id = $1", key.id)
    assert stored[0]["key_hash"] == secrets.hash_of(key.key)
    dump = await rows(
        plane,
        "SELECT coalesce(before::text, '') || coalesce(after::text, '') AS text FROM audit_logs"
        " UNION ALL SELECT data::text FROM outbox_events"
        " UNION ALL SELECT to_jsonb(k)::text FROM api_keys k",
    )
    assert not any(key.key in row["text"] for row in dump)


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"tenant_id": ""}, "MISSING_FIELD", "tenant_id"),
        ({"tenant_id": "7"}, "INVALID_ID", "tenant_id"),
        ({"tenant_id": str(uuid4())}, "TENANT_NOT_FOUND", None),
        ({"environment_id": "7"}, "INVALID_ID", "environment_id"),
        ({"environment_id": str(uuid4())}, "ENVIRONMENT_NOT_FOUND", None),
        ({"name": "x" * 256}, "OUT_OF_RANGE", "name"),
        ({"description": "x" * 1001}, "OUT_OF_RANGE", "description"),
        ({"role": "owner"}, "UNKNOWN_ENUM", "role"),
        ({"rate_limit_rpm": 0}, "OUT_OF_RANGE", "rate_limit_rpm"),
        ({"rate_limit": 1_000_001}, "OUT_OF_RANGE", "rate_limit"),
        ({"rate_limit_tpm": 0}, "OUT_OF_RANGE", "rate_limit_tpm"),
        ({"concurrency_limit": 10_001}, "OUT_OF_RANGE", "concurrency_limit"),
        ({"expires_at": "tomorrow"}, "INVALID_DATE", "expires_at"),
        ({"expires_at": "2030-01-01"}, "INVALID_DATE", "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-10:00"}, "INVALID_DATE", "expires_at"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "SEMANTIC", "expires_at"),
    ],
)
async def test_a_bad_new_key_is_refused_by_field(
    plane: Plane, fields: dict[str, Any], reason: str, field: str | None
) -> None:
    tenant = await plane.tenant()
    async with refused(reason, field=field):
        await admin(plane)("CreateApiKey", **({"tenant_id": tenant.id} | fields))


async def test_a_key_needs_an_active_environment_of_its_own_tenant(plane: Plane) -> None:
    one, two = await plane.tenant(), await plane.tenant()
    found = await rows(plane, "SELECT id FROM environments WHERE tenant_id = $1", two.id)
    async with refused("ENVIRONMENT_NOT_FOUND"):
        await plane.key(one.id, environment_id=str(found[0]["id"]))
    await rows(plane, "UPDATE environments SET status = 'suspended'")
    async with refused("NO_ACTIVE_ENVIRONMENT"):
        await plane.key(one.id)


async def test_the_rate_limit_alias_counts_unless_the_name_itself_is_sent(plane: Plane) -> None:
    """The proto's name wins."""
    tenant = await plane.tenant()
    assert (await plane.key(tenant.id, rate_limit=7)).rate_limit_rpm == 7
    assert (await plane.key(tenant.id, rate_limit=7, rate_limit_rpm=8)).rate_limit_rpm == 8


@pytest.mark.parametrize("method", WITH_KEY)
async def test_malformed_key_id_is_400_and_unknown_is_404(plane: Plane, method: str) -> None:
    """Malformed is 400, unknown is 404, and a revoked key takes no change."""
    extra = {"name": "A"} if method == "UpdateApiKey" else {}
    tenant = await plane.tenant()
    async with refused("INVALID_ID", field="key_id"):
        await admin(plane)(method, key_id="7", **extra)
    async with refused("API_KEY_NOT_FOUND"):
        await admin(plane)(method, key_id=str(uuid4()), **extra)
    await admin(plane)("RevokeApiKey", key_id=tenant.key_id)
    async with refused("KEY_REVOKED"):
        await admin(plane)(method, key_id=tenant.key_id, **extra)


async def test_an_update_changes_present_fields_and_takes_effect_immediately(
    plane: Plane, clock: FakeClock
) -> None:
    """The key's next call is under the new role and expiry."""
    api, tenant = admin(plane), await plane.tenant()
    caller = holder(plane, tenant.key)
    assert await outcome(caller("CreateOwnApiKey")) == "OK"

    after = await api("UpdateApiKey", key_id=tenant.key_id, role="read_only", description="d")
    assert (after.role, after.description, after.rate_limit_rpm) == ("read_only", "d", 1_000_000)
    assert await outcome(caller("CreateOwnApiKey")) == "ROLE_FORBIDDEN"

    await api("UpdateApiKey", key_id=tenant.key_id, rate_limit_rpm=1)
    assert await outcome(caller("ListOwnApiKeys")) == "RATE_LIMIT_REQUESTS"
    await api(
        "UpdateApiKey",
        key_id=tenant.key_id,
        rate_limit_rpm=1_000_000,
        expires_at=(clock.now() + timedelta(seconds=60)).isoformat(),
    )
    assert await outcome(caller("ListOwnApiKeys")) == "OK"
    clock.advance(timedelta(seconds=61))
    assert await outcome(caller("ListOwnApiKeys")) == "API_KEY_EXPIRED"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "NO_FIELDS"),
        ({"role": "owner"}, "UNKNOWN_ENUM"),
        ({"rate_limit_rpm": 0}, "OUT_OF_RANGE"),
        ({"rate_limit_tpm": 0}, "OUT_OF_RANGE"),
        ({"concurrency_limit": 0}, "OUT_OF_RANGE"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "SEMANTIC"),
    ],
)
async def test_a_bad_update_of_a_key_is_refused(
    plane: Plane, fields: dict[str, Any], reason: str
) -> None:
    tenant = await plane.tenant()
    async with refused(reason):
        await admin(plane)("UpdateApiKey", key_id=tenant.key_id, **fields)


async def test_a_rotated_key_works_until_its_grace_ends_to_the_second(
    plane: Plane, clock: FakeClock
) -> None:
    """The successor inherits role, limits and environment, and the two know each other."""
    api, tenant = admin(plane), await plane.tenant(rate_limit_tpm=9, name="n", description="d")
    rotated_at = clock.now()
    call = api("RotateApiKey", key_id=tenant.key_id, grace_period_seconds=3600)
    assert await http_status(call) == 201
    new = await call

    ends = new.old_key_expires_at.ToDatetime(tzinfo=UTC)
    assert timedelta(0) <= ends - rotated_at - timedelta(seconds=3600) < timedelta(seconds=5)
    assert (new.old_key_id, new.rotated_from) == (tenant.key_id, tenant.key_id)
    keys = {key.id: key for key in (await api("ListTenantApiKeys", id=tenant.id)).data}
    old = keys[tenant.key_id]
    assert old.replaced_by == new.id
    for field in ("role", "rate_limit_rpm", "rate_limit_tpm", "concurrency_limit", "name"):
        assert getattr(new, field) == getattr(old, field)
    assert (new.environment_id, new.description) == (old.environment_id, "d")
    assert not new.HasField("expires_at")

    clock.advance(ends - clock.now() - timedelta(seconds=1))
    assert await outcome(holder(plane, tenant.key)("ListOwnApiKeys")) == "OK"
    clock.advance(ends - clock.now())
    assert await outcome(holder(plane, tenant.key)("ListOwnApiKeys")) == "API_KEY_EXPIRED"
    assert await outcome(holder(plane, new.key)("ListOwnApiKeys")) == "OK"


async def test_rotation_without_grace_ends_the_old_key_at_once_and_never_prolongs_it(
    plane: Plane, clock: FakeClock
) -> None:
    """The old key dies no later than it would have; a day is the default grace."""
    api, tenant = admin(plane), await plane.tenant()
    soon = clock.now() + timedelta(minutes=5)
    mortal = await plane.key(tenant.id, expires_at=soon.isoformat())
    rotated = await api("RotateApiKey", key_id=mortal.id)
    assert rotated.old_key_expires_at.ToDatetime(tzinfo=UTC) == soon

    new = await api("RotateApiKey", key_id=tenant.key_id, grace_period_seconds=0)
    assert await outcome(holder(plane, tenant.key)("ListOwnApiKeys")) == "API_KEY_EXPIRED"
    assert await outcome(holder(plane, new.key)("ListOwnApiKeys")) == "OK"

    by_default = await api("RotateApiKey", key_id=new.id)
    grace = by_default.old_key_expires_at.ToDatetime(tzinfo=UTC) - clock.now()
    assert timedelta(hours=23, minutes=59) < grace <= timedelta(days=1)


async def test_a_key_has_one_successor(plane: Plane) -> None:
    api, tenant = admin(plane), await plane.tenant()
    calls = [api("RotateApiKey", key_id=tenant.key_id) for _ in range(8)]
    outcomes = Counter(await asyncio.gather(*map(outcome, calls)))
    assert outcomes == {"OK": 1, "KEY_NOT_ACTIVE": 7}
    async with refused("KEY_NOT_ACTIVE"):
        await api("RotateApiKey", key_id=tenant.key_id)
    query = "SELECT id FROM api_keys WHERE rotated_from = $1"
    (successor,) = await rows(plane, query, tenant.key_id)
    await api("RotateApiKey", key_id=str(successor["id"]))


async def test_a_rotation_is_refused_beyond_its_ranges(plane: Plane) -> None:
    """A week is the longest grace, and a successor must live."""
    api, tenant = admin(plane), await plane.tenant()
    for grace in (-1, 604_801):
        async with refused("OUT_OF_RANGE", field="grace_period_seconds"):
            await api("RotateApiKey", key_id=tenant.key_id, grace_period_seconds=grace)
    async with refused("SEMANTIC", field="expires_at"):
        await api("RotateApiKey", key_id=tenant.key_id, expires_at="2001-01-01T00:00:00Z")
    await api("SuspendApiKey", key_id=tenant.key_id)
    async with refused("KEY_NOT_ACTIVE"):
        await api("RotateApiKey", key_id=tenant.key_id)


async def test_a_key_is_suspended_and_activated_once_each(plane: Plane) -> None:
    """Repeats are conflicts."""
    api, tenant = admin(plane), await plane.tenant()
    async with refused("KEY_ALREADY_ACTIVE"):
        await api("ActivateApiKey", key_id=tenant.key_id)
    assert (await api("SuspendApiKey", key_id=tenant.key_id, reason="leak?")).status == "suspended"
    async with refused("KEY_ALREADY_SUSPENDED"):
        await api("SuspendApiKey", key_id=tenant.key_id)
    assert (await api("ActivateApiKey", key_id=tenant.key_id)).status == "active"


async def test_one_of_fifty_parallel_revocations_wins(plane: Plane) -> None:
    tenant = await plane.tenant()
    calls = [admin(plane)("RevokeApiKey", key_id=tenant.key_id) for _ in range(50)]

    outcomes = Counter(await asyncio.gather(*(outcome(call) for call in calls)))

    assert outcomes == {"OK": 1, "KEY_REVOKED": 49}


async def test_keys_change_while_their_tenant_does_without_any_failure(plane: Plane) -> None:
    """Suspensions of a tenant and of its keys, all at once, deadlock never."""
    api, tenant = admin(plane), await plane.tenant()
    keys = [await plane.key(tenant.id) for _ in range(5)]

    calls = [
        call
        for _ in range(5)
        for call in (
            api("SuspendTenant", id=tenant.id),
            api("ActivateTenant", id=tenant.id),
            *(api("SuspendApiKey", key_id=key.id) for key in keys),
            *(api("ActivateApiKey", key_id=key.id) for key in keys),
        )
    ]

    assert set(await asyncio.gather(*(outcome(call) for call in calls))) <= {
        "OK",
        "TENANT_ALREADY_SUSPENDED",
        "TENANT_ALREADY_ACTIVE",
        "TENANT_NOT_ACTIVE",
        "KEY_ALREADY_SUSPENDED",
        "KEY_ALREADY_ACTIVE",
    }


async def test_last_use_is_written_by_the_job_and_never_moves_back(
    plane: Plane, clock: FakeClock
) -> None:
    tenant, other = await plane.tenant(), await plane.tenant()
    used_at = clock.now()
    await holder(plane, tenant.key)("ListOwnApiKeys")
    await holder(plane, other.key)("ListOwnApiKeys")
    later = datetime.now(UTC) + timedelta(hours=1)
    await rows(plane, "UPDATE api_keys SET last_used_at = $1 WHERE id = $2", later, other.key_id)

    await LastUsedJob(plane.db, plane.server.kernel.auth).run_once(clock.now())

    found = await rows(plane, "SELECT id::text, last_used_at FROM api_keys")
    last_used = {row["id"]: row["last_used_at"] for row in found}
    assert used_at <= last_used[tenant.key_id] <= clock.now()
    assert last_used[other.key_id] == later
