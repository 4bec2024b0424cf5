"""Clients as administrators manage them, and what a caller may know of itself."""

from __future__ import annotations

from datetime import timedelta

import pytest
from spotplane.v1 import api_key_pb2, api_key_pb2_grpc

from tests.legacy.field import ADMIN, NOBODY, UNKNOWN_ID, Field, covers
from tests.support.clock import FakeClock


async def _client(field: Field, name: str = "Acme Corp", **more: str) -> dict[str, str]:
    said = await field.post("/api/admin/clients/create", {"name": name, **more}, by=ADMIN)
    client: dict[str, str] = said["client"]
    return client


@covers("8", "good")
async def test_a_client_is_made_with_its_token(field: Field) -> None:
    """Members in their order; the token opens what the client owns."""
    said = await field.post("/api/admin/clients/create", {"name": "  Acme Corp "}, by=ADMIN)
    assert list(said) == ["success", "client"]
    client = said["client"]
    assert list(client) == ["id", "name", "token", "status", "email"]
    assert (said["success"], client["name"], client["status"]) == (True, "Acme Corp", "active")
    assert client["email"] == "acme_corp@example.com"
    known = await field.get("/api/client/validate", by=client["token"])
    assert (known["client_id"], known["role"]) == (client["id"], "admin")


@covers("8", "bad")
@pytest.mark.parametrize("body", [{}, {"name": " "}, {"name": "x" * 256}, {"name": None}])
async def test_a_client_needs_a_name(field: Field, body: dict[str, object]) -> None:
    """Of 1 to 255 characters."""
    said = await field.refused(
        "VALIDATION_ERROR", "POST", "/api/admin/clients/create", body, status=400, by=ADMIN
    )
    assert [detail["field"] for detail in said["details"]] == ["name"]


async def test_a_clients_name_is_its_own(field: Field) -> None:
    """Whatever its case, until it is deleted; a made-up address gets a number."""
    client = await _client(field, "Acme")
    body = {"name": "ACME"}
    await field.refused(
        "CLIENT_EXISTS", "POST", "/api/admin/clients/create", body, status=409, by=ADMIN
    )
    taken = await _client(field, "Other", email="third@example.com")
    assert taken["email"] == "third@example.com"
    assert (await _client(field, "Third"))["email"] == "third2@example.com"
    await field.delete(f"/api/admin/clients/{client['id']}", by=ADMIN)
    assert (await _client(field, "acme"))["id"] != client["id"]


@covers("9", "good")
async def test_a_deleted_client_is_gone_with_its_tokens(field: Field) -> None:
    """At once, and a second time it is not there."""
    client = await _client(field)
    path = f"/api/admin/clients/{client['id']}"
    said = await field.delete(path, by=ADMIN)
    assert list(said) == ["success", "message"]
    assert said["success"] is True
    await field.refused(
        "INVALID_TOKEN", "GET", "/api/client/validate", status=401, by=client["token"]
    )
    await field.refused("NOT_FOUND", "DELETE", path, status=404, by=ADMIN)


@covers("10", "good")
async def test_a_token_is_regenerated(field: Field) -> None:
    """The old one dies at once."""
    client = await _client(field)
    said = await field.post(f"/api/admin/clients/{client['id']}/regenerate-token", by=ADMIN)
    assert list(said) == ["success", "token", "message"]
    await field.get("/api/client/validate", by=said["token"])
    await field.refused(
        "INVALID_TOKEN", "GET", "/api/client/validate", status=401, by=client["token"]
    )


async def test_an_old_token_lives_through_its_grace(field: Field, clock: FakeClock) -> None:
    """And not a second longer."""
    client = await _client(field)
    path = f"/api/admin/clients/{client['id']}/regenerate-token"
    await field.post(path, {"grace_seconds": "60"}, by=ADMIN)
    await field.get("/api/client/validate", by=client["token"])
    clock.advance(timedelta(seconds=61))
    await field.refused(
        "INVALID_TOKEN", "GET", "/api/client/validate", status=401, by=client["token"]
    )


@covers("10", "bad")
@pytest.mark.parametrize("grace", [-1, 86_401, "soon", True])
async def test_a_grace_has_bounds(field: Field, grace: object) -> None:
    """0 to a day."""
    path = f"/api/admin/clients/{field.tenant.id}/regenerate-token"
    body = {"grace_seconds": grace}
    await field.refused("VALIDATION_ERROR", "POST", path, body, status=400, by=ADMIN)


@covers("11", "good")
async def test_a_token_is_shown_in_part(field: Field) -> None:
    """Where no copies are kept: its first six and last four characters."""
    client = await _client(field)
    said = await field.get(f"/api/admin/clients/{client['id']}/token", by=ADMIN)
    token = client["token"]
    assert said == {
        "token": f"{token[:6]}…{token[-4:]}",
        "client_name": "Acme Corp",
        "masked": True,
    }


@pytest.mark.parametrize("path", ["regenerate-token", "token"])
async def test_unknown_clients_have_no_token(field: Field, path: str) -> None:
    """Neither to show nor to renew."""
    method = "GET" if path == "token" else "POST"
    where = f"/api/admin/clients/{UNKNOWN_ID}/{path}"
    await field.refused("NOT_FOUND", method, where, status=404, by=ADMIN)


@covers("12", "good")
async def test_a_caller_learns_who_it_is(field: Field) -> None:
    """A tenant's key, and an administrator."""
    said = await field.get("/api/client/validate")
    assert list(said) == ["valid", "client_id", "name", "client_name", "email", "role"]
    assert (said["valid"], said["client_id"], said["role"]) == (True, field.tenant.id, "admin")
    assert said["name"] == said["client_name"] == "Test"
    admin = await field.get("/api/client/validate", by=ADMIN)
    assert (admin["client_id"], admin["email"], admin["role"]) == (None, None, "platform_admin")


@pytest.mark.parametrize(
    ("by", "code"), [(NOBODY, "UNAUTHORIZED"), ("sp_live_bad", "INVALID_TOKEN")]
)
async def test_whoever_is_nobody_is_told_so_twice(field: Field, by: str, code: str) -> None:
    """By the error, and by a member beside it."""
    said = await field.refused(code, "GET", "/api/client/validate", status=401, by=by)
    assert said["valid"] is False


async def test_an_inactive_client_is_told_so(field: Field) -> None:
    """Suspended, not unknown."""
    await field.post(f"/admin/tenants/{field.tenant.id}/suspend", {}, by=ADMIN)
    said = await field.refused("INACTIVE_CLIENT", "GET", "/api/client/validate", status=403)
    assert said["valid"] is False


@covers("X4", "good")
async def test_the_service_says_what_it_is(field: Field) -> None:
    """To whoever has a credential."""
    said = await field.get("/")
    assert list(said) == ["service", "version", "api"]
    assert said["service"] == "spotplane"
    assert "spotplane.v1.AgentService" in said["api"]
    await field.get("/", status=401, by=NOBODY)


async def test_tokens_are_keys_like_others(field: Field) -> None:
    """A client token can be listed and revoked as any key."""
    client = await _client(field)
    stub = field.plane.stub(api_key_pb2_grpc.ApiKeyServiceStub)
    listed = await stub.ListTenantApiKeys(
        api_key_pb2.ListTenantApiKeysRequest(id=client["id"]),
        metadata=(("x-admin-token", "test-admin-token"),),
    )
    assert [key.name for key in listed.data] == ["client token"]
