"""Audit rows and events: one each for every change, none for a refusal."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

from tests.support.plane import Plane, Tenant
from tests.tenants.api import admin, email, holder, outcome, rows

# Clients of the field hear of a tenant's end by an event of their own.
COUNT = """
    SELECT (SELECT count(*) FROM audit_logs) AS audit,
           (SELECT count(*) FROM outbox_events WHERE event_type <> 'client.deleted') AS events
"""


async def call(plane: Plane, method: str, tenant: Tenant) -> str:
    """Call a method on the tenant, or its key, with what it needs."""
    fields: dict[str, Any] = {
        "CreateTenant": {"name": "A", "email": email()},
        "ResolveTenant": {"email": email()},
        "UpdateTenant": {"id": tenant.id, "name": "B"},
        "CreateApiKey": {"tenant_id": tenant.id},
        "CreateOwnApiKey": {},
        "UpdateApiKey": {"key_id": tenant.key_id, "name": "k"},
    }.get(method, {"id": tenant.id} if "Tenant" in method else {"key_id": tenant.key_id})
    api = holder(plane, tenant.key) if "Own" in method else admin(plane)
    return await outcome(api(method, **fields))


CHANGES = {
    "CreateTenant": ("tenant.create", "tenant.created"),
    "ResolveTenant": ("tenant.create", "tenant.created"),
    "UpdateTenant": ("tenant.update", "tenant.updated"),
    "DeleteTenant": ("tenant.delete", "tenant.deleted"),
    "SuspendTenant": ("tenant.suspend", "tenant.suspended"),
    "ActivateTenant": ("tenant.activate", "tenant.activated"),
    "CreateApiKey": ("api_key.create", "apikey.created"),
    "UpdateApiKey": ("api_key.update", "apikey.updated"),
    "RotateApiKey": ("api_key.rotate", "apikey.rotated"),
    "SuspendApiKey": ("api_key.suspend", "apikey.suspended"),
    "ActivateApiKey": ("api_key.activate", "apikey.activated"),
    "RevokeApiKey": ("api_key.revoke", "apikey.revoked"),
    "CreateOwnApiKey": ("api_key.create", "apikey.created"),
    "RotateOwnApiKey": ("api_key.rotate", "apikey.rotated"),
    "RevokeOwnApiKey": ("api_key.revoke", "apikey.revoked"),
}


@pytest.mark.parametrize("method", CHANGES)
async def test_a_change_leaves_one_audit_row_and_one_event_and_its_refusal_none(
    plane: Plane, method: str
) -> None:
    tenant = await plane.tenant()
    if method.startswith("Activate"):
        await call(plane, method.replace("Activate", "Suspend"), tenant)
    [before] = await rows(plane, COUNT)

    assert await call(plane, method, tenant) == "OK"

    [after] = await rows(plane, COUNT)
    assert (after["audit"], after["events"]) == (before["audit"] + 1, before["events"] + 1)
    [audit] = await rows(
        plane,
        "SELECT action, actor_type, actor_name, resource_id, tenant_id::text, correlation_id,"
        " to_jsonb(a)::text AS text FROM audit_logs a ORDER BY occurred_at DESC LIMIT 1",
    )
    [event] = await rows(
        plane,
        "SELECT event_type, aggregate_id, tenant_id::text, data::text FROM outbox_events"
        " ORDER BY seq DESC LIMIT 1",
    )
    assert (audit["action"], event["event_type"]) == CHANGES[method]
    assert audit["resource_id"] == event["aggregate_id"]
    assert audit["tenant_id"] == event["tenant_id"]
    assert audit["correlation_id"] == orjson.loads(event["data"])["correlation_id"]
    by = ("api_key", tenant.key[:12]) if "Own" in method else ("admin", "bootstrap")
    assert (audit["actor_type"], audit["actor_name"]) == by
    assert not re.search(r"sp_live_\w{10}|hash", audit["text"] + event["data"])

    if method in ("DeleteTenant", "SuspendTenant", "ActivateTenant", "RevokeApiKey"):
        assert await call(plane, method, tenant) != "OK"
        assert await rows(plane, COUNT) == [after]


async def test_tenant_state_events_have_the_documented_fields(plane: Plane) -> None:
    """Counts of keys, the reason, and the state before."""
    api, tenant = admin(plane), await plane.tenant()
    spare = await plane.key(tenant.id)
    await api("SuspendApiKey", key_id=spare.id)
    await api("SuspendTenant", id=tenant.id, reason="unpaid")
    await api("ActivateTenant", id=tenant.id)
    deleted = await api("DeleteTenant", id=tenant.id)

    events = {
        row["event_type"]: orjson.loads(row["data"])
        for row in await rows(plane, "SELECT event_type, data::text FROM outbox_events")
    }
    assert deleted.status == "deleted"
    suspended = events["tenant.suspended"]
    assert {key: suspended[key] for key in ("reason", "previous_status", "suspended_keys")} == {
        "reason": "unpaid",
        "previous_status": "active",
        "suspended_keys": 1,
    }
    assert events["tenant.activated"]["restored_keys"] == 1
    assert events["tenant.deleted"]["previous_status"] == "active"
    assert events["tenant.deleted"]["deleted_at"]
