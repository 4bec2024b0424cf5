"""Tickets: single-use credentials of browsers for one path."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import quote

import pytest

from tests.legacy.field import ADMIN, ANONYMOUS, Field, covers
from tests.support.clock import FakeClock


def _savings(field: Field) -> str:
    return f"/api/client/{field.tenant.id}/export/savings"


@covers("X5", "good")
async def test_a_ticket_is_minted_for_a_path(field: Field) -> None:
    path = f"{_savings(field)}?format=json"
    reply = await field.post("/api/tickets", {"path": path}, status=201)
    assert list(reply) == ["ticket", "url", "expires_at", "expires_in_seconds"]
    assert reply["url"] == f"{path}&ticket={reply['ticket']}"
    assert reply["expires_in_seconds"] == 60


async def test_a_ticket_opens_its_path_once(field: Field) -> None:
    url = (await field.post("/api/tickets", {"path": _savings(field)}, status=201))["url"]
    async with field.send("GET", url, by=ANONYMOUS) as response:
        assert response.status == 200
        assert response.content_type == "text/csv"
    await field.refused("TICKET_INVALID", "GET", url, status=401, by=ANONYMOUS)


async def test_a_ticket_lives_for_a_minute(field: Field, clock: FakeClock) -> None:
    url = (await field.post("/api/tickets", {"path": _savings(field)}, status=201))["url"]
    clock.advance(timedelta(seconds=61))
    await field.refused("TICKET_INVALID", "GET", url, status=401, by=ANONYMOUS)


async def test_a_ticket_opens_nothing_else(field: Field) -> None:
    reply = await field.post("/api/tickets", {"path": _savings(field)}, status=201)
    for path in (
        f"/api/client/{field.tenant.id}/export/switch-history?",
        f"{_savings(field)}?format=json&",
        "/api/client/validate?",
    ):
        url = f"{path}ticket={reply['ticket']}"
        await field.refused("TICKET_INVALID", "GET", url, status=401, by=ANONYMOUS)
    async with field.send("GET", reply["url"], by=ANONYMOUS) as response:
        assert response.status == 200


@pytest.mark.parametrize("ticket", ["x", "AAAA", "A" * 64, quote("ä")])
async def test_a_made_up_ticket_is_none(field: Field, ticket: str) -> None:
    url = f"{_savings(field)}?ticket={ticket}"
    await field.refused("TICKET_INVALID", "GET", url, status=401, by=ANONYMOUS)


async def test_a_ticket_dies_with_the_credential_behind_it(field: Field) -> None:
    key = await field.plane.key(field.tenant.id, role="admin")
    body = {"path": _savings(field)}
    url = (await field.post("/api/tickets", body, status=201, by=key.key))["url"]
    await field.delete(f"/admin/api-keys/{key.id}", by=ADMIN)
    await field.refused("INVALID_TOKEN", "GET", url, status=401, by=ANONYMOUS)


@covers("X5", "bad")
@pytest.mark.parametrize(
    "path", ["/api/client/validate", "/nope", "/api/admin/export/global-stats"]
)
async def test_other_paths_take_no_tickets(field: Field, path: str) -> None:
    await field.refused("NOT_FOUND", "POST", "/api/tickets", {"path": path}, status=404)


async def test_a_ticket_needs_a_path(field: Field) -> None:
    await field.refused("VALIDATION_ERROR", "POST", "/api/tickets", {}, status=400)


async def test_no_ticket_leads_to_another_tenant(field: Field) -> None:
    body = {"path": _savings(field)}
    await field.refused("NOT_FOUND", "POST", "/api/tickets", body, status=404, by=field.foreign)
    await field.post("/api/tickets", body, status=201, by=ADMIN)


@covers("X5 72", "foreign")
async def test_no_ticket_leads_to_another_tenants_events(field: Field) -> None:
    path = f"/api/events/stream?client_id={field.tenant.id}"
    await field.post("/api/tickets", {"path": path}, status=201)
    await field.refused(
        "NOT_FOUND", "POST", "/api/tickets", {"path": path}, status=404, by=field.foreign
    )
