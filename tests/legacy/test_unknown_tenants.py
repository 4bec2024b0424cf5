"""Administrators get 404 for a tenant that does not exist or is deleted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.legacy.field import ADMIN, UNKNOWN_ID, Field
from tests.legacy.test_agents import machine

ROUTES = [
    ("POST", "/api/agents/register", machine()),
    ("POST", "/v1/agents/register", machine(logical_agent_id="chat")),
    ("GET", "/api/notifications?client_id={tenant}", None),
    ("POST", "/api/notifications/mark-all-read", {}),
    ("POST", "/api/client/{tenant}/pricing-alerts", {"threshold": 1}),
    ("GET", "/api/events/stream?client_id={tenant}", None),
    ("GET", "/api/events/stream/{tenant}", None),
    ("POST", "/api/tickets", {"path": "/api/client/{tenant}/export/savings"}),
    ("POST", "/api/tickets", {"path": "/api/events/stream/{tenant}"}),
    ("POST", "/api/tickets", {"path": "/api/events/stream?client_id={tenant}"}),
]


def naming(tenant_id: str, path: str, body: Any) -> Any:
    """Return the body with the tenant's id where the route expects it."""
    if path == "/v1/agents/register":
        return body | {"tenant_id": tenant_id}
    if path in {"/api/agents/register", "/api/notifications/mark-all-read"}:
        return body | {"client_id": tenant_id}
    if path == "/api/tickets":
        return {"path": body["path"].format(tenant=tenant_id)}
    return body


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_a_tenant_that_is_not_there_is_not_found(
    field: Field, method: str, path: str, body: Any
) -> None:
    deleted = await field.plane.tenant()
    await field.delete(f"/api/admin/clients/{deleted.id}", by=ADMIN)
    for tenant_id in (UNKNOWN_ID, deleted.id):
        sent = naming(tenant_id, path, body)
        await field.call(method, path.format(tenant=tenant_id), sent, status=404, by=ADMIN)


async def test_a_ticket_for_no_tenants_path_is_not_found(field: Field) -> None:
    body = {"path": "/api/client/nonsense/export/savings"}
    await field.refused("NOT_FOUND", "POST", "/api/tickets", body, status=404, by=ADMIN)
