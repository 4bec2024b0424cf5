"""Suspension memory: activating a tenant restores what its suspension took, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import grpc.aio
import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.plane import Plane, refused
from tests.tenants.api import Api, admin, holder, outcome, rows


async def statuses(api: Api, tenant_id: str) -> dict[str, str]:
    """Each key's status by its name."""
    keys = (await api("ListTenantApiKeys", id=tenant_id)).data
    return {key.name: key.status for key in keys}


async def test_activating_restores_exactly_the_keys_that_the_suspension_took(plane: Plane) -> None:
    """Keys that were suspended before or during, or revoked, stay as they are."""
    api, tenant = admin(plane), await plane.tenant(name="main")
    made = {name: await plane.key(tenant.id, name=name) for name in ("before", "during", "gone")}
    await api("SuspendApiKey", key_id=made["before"].id)
    await api("RevokeApiKey", key_id=made["gone"].id)

    await api("SuspendTenant", id=tenant.id)
    assert await statuses(api, tenant.id) == {
        "main": "suspended",
        "before": "suspended",
        "during": "suspended",
        "gone": "revoked",
    }
    await api("SuspendApiKey", key_id=made["during"].id)
    await api("ActivateTenant", id=tenant.id)

    assert await statuses(api, tenant.id) == {
        "main": "active",
        "before": "suspended",
        "during": "suspended",
        "gone": "revoked",
    }
    async with refused("KEY_SUSPENDED"):
        await holder(plane, made["during"].key)("ListOwnApiKeys")
    await api("ActivateApiKey", key_id=made["during"].id)
    await holder(plane, made["during"].key)("ListOwnApiKeys")


async def test_each_suspension_remembers_its_own_keys(plane: Plane) -> None:
    """A key suspended on its own between two suspensions is not the second one's."""
    api, tenant = admin(plane), await plane.tenant(name="main")
    spare = await plane.key(tenant.id, name="spare")
    await api("SuspendTenant", id=tenant.id)
    await api("ActivateTenant", id=tenant.id)
    await api("SuspendApiKey", key_id=spare.id)
    await api("SuspendTenant", id=tenant.id)

    await api("ActivateTenant", id=tenant.id)

    assert await statuses(api, tenant.id) == {"main": "active", "spare": "suspended"}


async def test_suspended_tenant_shows_time_and_reason_until_activated(
    plane: Plane,
) -> None:
    api, tenant = admin(plane), await plane.tenant()

    down = await api("SuspendTenant", id=tenant.id, reason="unpaid", notes="ticket 7")
    assert (down.status, down.reason, down.tenant.suspension_notes) == (
        "suspended",
        "unpaid",
        "ticket 7",
    )
    assert down.tenant.HasField("suspended_at")
    assert down.tenant == await api("GetTenant", id=tenant.id)

    up = await api("ActivateTenant", id=tenant.id)
    assert (up.status, up.reason, up.tenant.status) == ("active", "unpaid", "active")
    assert not up.tenant.HasField("suspended_at")
    assert not up.tenant.HasField("suspension_reason")


async def test_suspending_and_activating_are_refused_in_the_wrong_state(plane: Plane) -> None:
    api, tenant = admin(plane), await plane.tenant()

    async with refused("TENANT_ALREADY_ACTIVE"):
        await api("ActivateTenant", id=tenant.id)
    async with refused("OUT_OF_RANGE", field="reason"):
        await api("SuspendTenant", id=tenant.id, reason="x" * 501)
    async with refused("OUT_OF_RANGE", field="notes"):
        await api("SuspendTenant", id=tenant.id, notes="x" * 2001)
    await api("SuspendTenant", id=tenant.id)
    async with refused("TENANT_ALREADY_SUSPENDED"):
        await api("SuspendTenant", id=tenant.id)
    await api("DeleteTenant", id=tenant.id)
    async with refused("TENANT_DELETED"):
        await api("SuspendTenant", id=tenant.id)
    async with refused("TENANT_DELETED"):
        await api("ActivateTenant", id=tenant.id)


async def test_suspended_tenant_cannot_create_or_activate_keys(plane: Plane) -> None:
    """Revoking still works."""
    api, tenant = admin(plane), await plane.tenant()
    await api("SuspendTenant", id=tenant.id)

    async with refused("TENANT_NOT_ACTIVE"):
        await plane.key(tenant.id)
    async with refused("TENANT_NOT_ACTIVE"):
        await api("ActivateApiKey", key_id=tenant.key_id)
    async with refused("KEY_NOT_ACTIVE"):
        await api("RotateApiKey", key_id=tenant.key_id)
    assert (await api("RevokeApiKey", key_id=tenant.key_id)).status == "revoked"


async def test_key_errors_follow_the_documented_order(plane: Plane, clock: FakeClock) -> None:
    """Expired before suspended, the tenant before the environment before the key, revoked first."""
    api, tenant = admin(plane), await plane.tenant()
    soon = (clock.now() + timedelta(hours=1)).isoformat()
    key = await plane.key(tenant.id, expires_at=soon)
    caller = holder(plane, key.key)
    assert await outcome(caller("ListOwnApiKeys")) == "OK"

    await api("SuspendApiKey", key_id=key.id)
    assert await outcome(caller("ListOwnApiKeys")) == "KEY_SUSPENDED"
    await rows(plane, "UPDATE environments SET status = 'suspended'")
    await rows(plane, "UPDATE auth_epoch SET epoch = epoch + 1")
    assert await outcome(caller("ListOwnApiKeys")) == "ENVIRONMENT_SUSPENDED"
    await api("SuspendTenant", id=tenant.id)
    assert await outcome(caller("ListOwnApiKeys")) == "TENANT_SUSPENDED"
    clock.advance(timedelta(hours=2))
    assert await outcome(caller("ListOwnApiKeys")) == "API_KEY_EXPIRED"
    await api("RevokeApiKey", key_id=key.id)
    assert await outcome(caller("ListOwnApiKeys")) == "API_KEY_INVALID"


@pytest.mark.parametrize("method", ["SuspendTenant", "ActivateTenant", "DeleteTenant"])
async def test_a_change_whose_audit_cannot_be_written_does_not_happen(
    plane: Plane, clock: FakeClock, method: str
) -> None:
    api, tenant = admin(plane), await plane.tenant()
    if method == "ActivateTenant":
        await api("SuspendTenant", id=tenant.id)
    before = await api("GetTenant", id=tenant.id)
    counts = "SELECT (SELECT count(*) FROM outbox_events), (SELECT epoch FROM auth_epoch)"
    seen = await rows(plane, counts)
    # Far beyond the partitions that exist, so that no audit row can be placed.
    clock.advance(timedelta(days=400))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api(method, id=tenant.id)

    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert await rows(plane, counts) == seen
    async with plane.db.connection(ALL_TENANTS) as conn:
        status = await conn.fetchval("SELECT status FROM tenants")
    assert status == before.status
    assert await eventually(lambda: api("GetTenant", id=tenant.id)) == before
