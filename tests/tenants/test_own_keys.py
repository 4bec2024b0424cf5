"""A tenant's own keys: roles, and walls between tenants."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.support.plane import ADMIN, Plane, refused
from tests.tenants.api import Api, admin, holder, http_status, outcome

ROLES = ("read_only", "developer", "admin", "agent")
# Roles whose keys a key of this role may create, revoke and rotate.
MANAGED = {
    "read_only": (),
    "developer": ("read_only", "developer"),
    "admin": ROLES,
    "agent": (),
}


@pytest.mark.parametrize("role", ROLES)
async def test_a_key_manages_keys_of_roles_not_above_its_own(plane: Plane, role: str) -> None:
    tenant = await plane.tenant()
    caller = holder(plane, (await plane.key(tenant.id, role=role, rate_limit_rpm=1000)).key)

    for target in ROLES:
        expected = "OK" if target in MANAGED[role] else "ROLE_FORBIDDEN"
        one, two = [await plane.key(tenant.id, role=target) for _ in range(2)]
        assert await outcome(caller("CreateOwnApiKey", role=target)) == expected
        assert await outcome(caller("RotateOwnApiKey", key_id=one.id)) == expected
        assert await outcome(caller("RevokeOwnApiKey", key_id=two.id)) == expected
        keys = (await admin(plane)("ListTenantApiKeys", id=tenant.id)).data
        status = {key.id: key.status for key in keys}
        assert (status[two.id] == "revoked") is (expected == "OK")


@pytest.mark.parametrize("role", ROLES)
async def test_reading_keys_is_for_people_and_not_for_agents(plane: Plane, role: str) -> None:
    """Roles read_only and above may list."""
    tenant = await plane.tenant()
    key = await plane.key(tenant.id, role=role)

    expected = "ROLE_FORBIDDEN" if role == "agent" else "OK"
    assert await outcome(holder(plane, key.key)("ListOwnApiKeys")) == expected


async def test_an_own_key_is_made_in_the_callers_tenant(plane: Plane) -> None:
    tenant = await plane.tenant()
    call = holder(plane, tenant.key)("CreateOwnApiKey", name="ci", rate_limit=9)

    assert await http_status(call) == 201
    key = await call
    assert (key.tenant_id, key.role, key.rate_limit_rpm) == (tenant.id, "developer", 9)
    listed = await holder(plane, key.key)("ListOwnApiKeys")
    assert {item.id for item in listed.data} == {tenant.key_id, key.id}


@pytest.mark.parametrize("method", ["RevokeOwnApiKey", "RotateOwnApiKey"])
async def test_another_tenants_key_is_simply_not_found(plane: Plane, method: str) -> None:
    one, two = await plane.tenant(), await plane.tenant()
    caller = holder(plane, one.key)

    async with refused("API_KEY_NOT_FOUND"):
        await caller(method, key_id=two.key_id)
    async with refused("API_KEY_NOT_FOUND"):
        await caller(method, key_id=str(uuid4()))
    async with refused("INVALID_ID", field="key_id"):
        await caller(method, key_id="7")
    spare = await plane.key(one.id)
    await caller("RevokeOwnApiKey", key_id=spare.id)
    async with refused("KEY_REVOKED"):
        await caller(method, key_id=spare.id)
    assert await outcome(holder(plane, two.key)("ListOwnApiKeys")) == "OK"


async def test_a_tenant_sees_its_own_keys_and_puts_keys_into_its_own_environments(
    plane: Plane,
) -> None:
    one, two = await plane.tenant(), await plane.tenant()
    foreign = (await admin(plane)("ListTenantApiKeys", id=two.id)).data[0].environment_id
    caller = holder(plane, one.key)

    async with refused("ENVIRONMENT_NOT_FOUND"):
        await caller("CreateOwnApiKey", environment_id=foreign)
    assert [key.id for key in (await caller("ListOwnApiKeys")).data] == [one.key_id]


async def test_tenants_keys_and_administrators_keep_to_their_own_methods(plane: Plane) -> None:
    """A key opens no admin method, and an administrator has no own keys."""
    tenant = await plane.tenant()
    caller = holder(plane, tenant.key)

    async with refused("ADMIN_TOKEN_MISSING"):
        await caller("ListTenants")
    async with refused("ADMIN_TOKEN_MISSING"):
        await caller("SuspendTenant", id=tenant.id)
    async with refused("ADMIN_TOKEN_INVALID"):
        await Api(plane.channel, (("x-admin-token", "wrong"),))("ListTenants")
    async with refused("SCOPE_FORBIDDEN"):
        await Api(plane.channel, ADMIN)("ListOwnApiKeys")
    async with refused("API_KEY_MISSING"):
        await Api(plane.channel, ())("ListOwnApiKeys")
    async with refused("API_KEY_INVALID"):
        await holder(plane, tenant.key[:-1] + "!")("ListOwnApiKeys")
