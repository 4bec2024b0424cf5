"""TenantService: every method, good and refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.support.plane import Plane, refused
from tests.tenants.api import admin, email, holder, http_status, outcome, rows

WITH_ID = (
    "GetTenant",
    "UpdateTenant",
    "DeleteTenant",
    "SuspendTenant",
    "ActivateTenant",
    "ListTenantApiKeys",
)


async def test_a_new_tenant_is_active_and_has_a_production_environment(plane: Plane) -> None:
    call = admin(plane)("CreateTenant", name="  Acme ", email=email(), metadata={"seats": 3})

    assert await http_status(call) == 201
    tenant = await call
    assert (tenant.name, tenant.status, tenant.tier) == ("Acme", "active", "serverless")
    assert dict(tenant.metadata) == {"seats": 3}
    found = await rows(plane, "SELECT name, region_code, key_label, status FROM environments")
    assert [tuple(row) for row in found] == [("production", "us-east", "live", "active")]


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"name": " "}, "MISSING_FIELD", "name"),
        ({"name": "x" * 256}, "OUT_OF_RANGE", "name"),
        ({"email": ""}, "MISSING_FIELD", "email"),
        ({"email": "nobody"}, "INVALID_EMAIL", "email"),
        ({"tier": "gold"}, "UNKNOWN_ENUM", "tier"),
        ({"metadata": {"a": "x" * 17_000}}, "OUT_OF_RANGE", "metadata"),
        ({"metadata": {"a": "\x00"}}, "INVALID_FIELD", None),
        ({"metadata": {"a": float("nan")}}, "OUT_OF_RANGE", None),
    ],
)
async def test_a_bad_new_tenant_is_refused_by_field(
    plane: Plane, fields: dict[str, Any], reason: str, field: str | None
) -> None:
    async with refused(reason, field=field):
        await admin(plane)("CreateTenant", **({"name": "A", "email": email()} | fields))


async def test_email_is_unique_ignoring_case_until_its_tenant_is_deleted(
    plane: Plane,
) -> None:
    """A deleted tenant never blocks a new sign-up."""
    api, address = admin(plane), email()
    first = await api("CreateTenant", name="A", email=address)

    async with refused("EMAIL_TAKEN"):
        await api("CreateTenant", name="B", email=address.upper())
    await api("DeleteTenant", id=first.id)

    assert (await api("CreateTenant", name="B", email=address)).id != first.id


async def test_one_of_fifty_parallel_creates_with_one_email_wins(plane: Plane) -> None:
    address = email()

    outcomes = await asyncio.gather(
        *(outcome(admin(plane)("CreateTenant", name="A", email=address)) for _ in range(50))
    )

    assert Counter(outcomes) == {"OK": 1, "EMAIL_TAKEN": 49}
    assert len(await rows(plane, "SELECT FROM tenants")) == 1


async def test_exactly_one_of_fifty_parallel_resolves_is_new(plane: Plane) -> None:
    address = email()

    answers = await asyncio.gather(
        *(admin(plane)("ResolveTenant", email=address) for _ in range(50))
    )

    assert len({answer.id for answer in answers}) == 1
    assert sum(answer.new for answer in answers) == 1
    assert len(await rows(plane, "SELECT FROM environments")) == 1


async def test_resolving_returns_201_for_a_new_tenant_and_200_for_a_known_one(plane: Plane) -> None:
    """The name of a new one comes from its e-mail, and a suspended one is found."""
    api = admin(plane)

    assert await http_status(api("ResolveTenant", email="ann@example.com")) == 201
    assert await http_status(api("ResolveTenant", email="ANN@example.com")) == 200

    found = await api("ResolveTenant", email="ann@example.com")
    assert (await api("GetTenant", id=found.id)).name == "ann"
    await api("SuspendTenant", id=found.id)
    again = await api("ResolveTenant", email="ann@example.com")
    assert (again.id, again.status, again.new) == (found.id, "suspended", False)


async def test_resolving_never_returns_a_deleted_tenant(plane: Plane) -> None:
    api, address = admin(plane), email()
    first = await api("ResolveTenant", email=address)
    await api("DeleteTenant", id=first.id)

    second = await api("ResolveTenant", email=address)

    assert second.new
    assert second.id != first.id
    assert second.status == "active"


@pytest.mark.parametrize("method", WITH_ID)
async def test_malformed_tenant_id_is_400_and_unknown_is_404(plane: Plane, method: str) -> None:
    """Malformed is 400, unknown is 404."""
    extra = {"name": "A"} if method == "UpdateTenant" else {}
    async with refused("INVALID_ID", field="id"):
        await admin(plane)(method, id="7", **extra)
    async with refused("TENANT_NOT_FOUND"):
        await admin(plane)(method, id=str(uuid4()), **extra)


async def test_an_update_changes_present_fields_only(plane: Plane) -> None:
    """Objects are replaced whole."""
    api = admin(plane)
    made = await api("CreateTenant", name="A", email=email(), metadata={"a": 1, "b": 2})

    after = await api("UpdateTenant", id=made.id, tier="enterprise", metadata={"c": [1.5, None]})

    assert (after.name, after.email, after.tier) == ("A", made.email, "enterprise")
    assert list(after.metadata) == ["c"]
    assert await api("GetTenant", id=made.id) == after


async def test_an_update_is_refused_without_fields_and_with_a_taken_email(plane: Plane) -> None:
    api = admin(plane)
    one = await api("CreateTenant", name="A", email=email())
    two = await api("CreateTenant", name="B", email=email())

    async with refused("NO_FIELDS"):
        await api("UpdateTenant", id=one.id)
    async with refused("EMAIL_TAKEN"):
        await api("UpdateTenant", id=one.id, email=two.email.upper())
    async with refused("MISSING_FIELD", field="name"):
        await api("UpdateTenant", id=one.id, name="")
    await api("DeleteTenant", id=one.id)
    async with refused("TENANT_DELETED"):
        await api("UpdateTenant", id=one.id, name="C")


async def test_a_deleted_tenant_stays_readable_and_its_keys_are_revoked(plane: Plane) -> None:
    api, tenant = admin(plane), await plane.tenant()
    await holder(plane, tenant.key)("ListOwnApiKeys")

    assert (await api("DeleteTenant", id=tenant.id)).status == "deleted"

    async with refused("API_KEY_INVALID"):
        await holder(plane, tenant.key)("ListOwnApiKeys")
    found = await api("GetTenant", id=tenant.id)
    assert found.status == "deleted"
    assert found.HasField("deleted_at")
    assert found.api_keys_count == 0
    keys = await api("ListTenantApiKeys", id=tenant.id)
    assert [key.status for key in keys.data] == ["revoked"]
    async with refused("TENANT_DELETED"):
        await api("DeleteTenant", id=tenant.id)


async def test_list_includes_spend_and_key_count_of_each_tenant(plane: Plane) -> None:
    """Revoked keys do not count, spend is the exact sum, and each tenant has its own."""
    api = admin(plane)
    one, two = await plane.tenant(), await plane.tenant()
    spare = await plane.key(one.id)
    await api("RevokeApiKey", key_id=spare.id)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for day in (today, today - timedelta(days=1)):
        await rows(
            plane,
            "INSERT INTO usage_rollups (tenant_id, rollup, starts_at, requests, successes,"
            " failures, prompt_tokens, completion_tokens, total_tokens, cached_tokens, cost_nanos,"
            " latency_count, latency_sum, latencies, first_at, last_at)"
            " VALUES ($1, 'day', $2, 1, 1, 0, 1, 1, 2, 0, 630001, 0, 0, 0, $2, $2)",
            one.id,
            day,
        )

    listed = {tenant.id: tenant for tenant in (await api("ListTenants")).data}

    assert listed[one.id].api_keys_count == 1
    assert listed[one.id].total_spend_nanos == 1_260_002
    assert listed[one.id].total_spend_usd == 0.001260002
    assert listed[two.id].total_spend_nanos == 0
    assert await api("GetTenant", id=one.id) == listed[one.id]


async def test_a_list_filters_by_status_and_by_part_of_name_or_email(plane: Plane) -> None:
    api = admin(plane)
    one = await api("CreateTenant", name="Blue 100%", email="first@example.com")
    two = await api("CreateTenant", name="Red", email="second@example.com")
    await api("DeleteTenant", id=two.id)

    async def ids(**filters: Any) -> list[str]:
        return [tenant.id for tenant in (await api("ListTenants", **filters)).data]

    assert await ids() == [two.id, one.id]
    assert await ids(status="deleted") == [two.id]
    assert await ids(search="bLUE") == [one.id]
    assert await ids(search="SECOND@") == [two.id]
    assert await ids(search="%") == [one.id]
    async with refused("UNKNOWN_ENUM", field="status"):
        await ids(status="gone")


async def test_suspending_against_deleting_has_right_codes_only(plane: Plane) -> None:
    tenant = await plane.tenant()

    suspended = [outcome(admin(plane)("SuspendTenant", id=tenant.id)) for _ in range(25)]
    deleted = [outcome(admin(plane)("DeleteTenant", id=tenant.id)) for _ in range(25)]
    outcomes = await asyncio.gather(
        *(call for pair in zip(suspended, deleted, strict=True) for call in pair)
    )

    assert Counter(outcomes[1::2]) == {"OK": 1, "TENANT_DELETED": 24}
    assert outcomes[::2].count("OK") <= 1
    assert set(outcomes[::2]) <= {"OK", "TENANT_ALREADY_SUSPENDED", "TENANT_DELETED"}
    assert (await admin(plane)("GetTenant", id=tenant.id)).status == "deleted"
    async with refused("API_KEY_INVALID"):
        await holder(plane, tenant.key)("ListOwnApiKeys")
