"""Legacy API of tenants for administrators, and of the caller's own account."""

from __future__ import annotations

from datetime import timedelta

import pytest
from spotplane.v1 import api_key_pb2, api_key_pb2_grpc

from tests.legacy.field import ADMIN, ANONYMOUS, UNKNOWN_ID, Field, covers
from tests.support.clock import FakeClock


async def _client(field: Field, name: str = "Acme Corp", **more: str) -> dict[str, str]:
    reply = await field.post("/api/admin/clients/create", {"name": name, **more}, by=ADMIN)
    client: dict[str, str] = reply["client"]
    return client


@covers("8", "good")
async def test_a_client_is_made_with_its_token(field: Field) -> None:
    reply = await field.post("/api/admin/clients/create", {"name": "  Acme Corp "}, by=ADMIN)
    assert list(reply) == ["success", "client"]
    client = reply["client"]
    assert list(client) == ["id", "name", "token", "status", "email"]
    assert (reply["success"], client["name"], client["status"]) == (True, "Acme Corp", "active")
    assert client["email"] == "acme_corp@example.com"
    known = await field.get("/api/client/validate", by=client["token"])
    assert (known["client_id"], known["role"]) == (client["id"], "admin")


@covers("8", "bad")
@pytest.mark.parametrize("body", [{}, {"name": " "}, {"name": "x" * 256}, {"name": None}])
async def test_a_client_needs_a_name(field: Field, body: dict[str, object]) -> None:
    reply = await field.refused(
        "VALIDATION_ERROR", "POST", "/api/admin/clients/create", body, status=400, by=ADMIN
    )
    assert [detail["field"] for detail in reply["details"]] == ["name"]


async def test_a_clients_name_is_its_own(field: Field) -> None:
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
    client = await _client(field)
    path = f"/api/admin/clients/{client['id']}"
    reply = await field.delete(path, by=ADMIN)
    assert list(reply) == ["success", "message"]
    assert reply["success"] is True
    await field.refused(
        "INVALID_TOKEN", "GET", "/api/client/validate", status=401, by=client["token"]
    )
    await field.refused("NOT_FOUND", "DELETE", path, status=404, by=ADMIN)


@covers("10", "good")
async def test_a_token_is_regenerated(field: Field) -> None:
    client = await _client(field)
    reply = await field.post(f"/api/admin/clients/{client['id']}/regenerate-token", by=ADMIN)
    assert list(reply) == ["success", "token", "message"]
    await field.get("/api/client/validate", by=reply["token"])
    await field.refused(
        "INVALID_TOKEN", "GET", "/api/client/validate", status=401, by=client["token"]
    )


async def test_an_old_token_lives_through_its_grace(field: Field, clock: FakeClock) -> None:
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
    path = f"/api/admin/clients/{field.tenant.id}/regenerate-token"
    body = {"grace_seconds": grace}
    await field.refused("VALIDATION_ERROR", "POST", path, body, status=400, by=ADMIN)


@covers("11", "good")
async def test_a_token_is_shown_in_part(field: Field) -> None:
    client = await _client(field)
    reply = await field.get(f"/api/admin/clients/{client['id']}/token", by=ADMIN)
    token = client["token"]
    assert reply == {
        "token": f"{token[:6]}…{token[-4:]}",
        "client_name": "Acme Corp",
        "masked": True,
    }


@pytest.mark.parametrize("path", ["regenerate-token", "token"])
async def test_unknown_clients_have_no_token(field: Field, path: str) -> None:
    method = "GET" if path == "token" else "POST"
    where = f"/api/admin/clients/{UNKNOWN_ID}/{path}"
    await field.refused("NOT_FOUND", method, where, status=404, by=ADMIN)


@covers("12", "good")
async def test_a_caller_reads_its_own_identity(field: Field) -> None:
    reply = await field.get("/api/client/validate")
    assert list(reply) == ["valid", "client_id", "name", "client_name", "email", "role"]
    assert (reply["valid"], reply["client_id"], reply["role"]) == (True, field.tenant.id, "admin")
    assert reply["name"] == reply["client_name"] == "Test"
    admin = await field.get("/api/client/validate", by=ADMIN)
    assert (admin["client_id"], admin["email"], admin["role"]) == (None, None, "platform_admin")


@pytest.mark.parametrize(
    ("by", "code"), [(ANONYMOUS, "UNAUTHORIZED"), ("sp_live_bad", "INVALID_TOKEN")]
)
async def test_an_anonymous_caller_gets_the_error_and_a_member(
    field: Field, by: str, code: str
) -> None:
    reply = await field.refused(code, "GET", "/api/client/validate", status=401, by=by)
    assert reply["valid"] is False


async def test_a_suspended_client_is_not_unknown(field: Field) -> None:
    await field.post(f"/admin/tenants/{field.tenant.id}/suspend", {}, by=ADMIN)
    reply = await field.refused("INACTIVE_CLIENT", "GET", "/api/client/validate", status=403)
    assert reply["valid"] is False


@covers("X4", "good")
async def test_the_service_returns_its_name_and_version(field: Field) -> None:
    reply = await field.get("/")
    assert list(reply) == ["service", "version", "api"]
    assert reply["service"] == "spotplane"
    assert "spotplane.v1.AgentService" in reply["api"]
    await field.get("/", status=401, by=ANONYMOUS)


async def test_tokens_are_keys_like_others(field: Field) -> None:
    client = await _client(field)
    stub = field.plane.stub(api_key_pb2_grpc.ApiKeyServiceStub)
    listed = await stub.ListTenantApiKeys(
        api_key_pb2.ListTenantApiKeysRequest(id=client["id"]),
        metadata=(("x-admin-token", "test-admin-token"),),
    )
    assert [key.name for key in listed.data] == ["client token"]
