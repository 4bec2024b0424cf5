"""HTTP conventions of all legacy routes: credentials, errors, envelopes, ids."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tests.legacy.field import ADMIN, ANONYMOUS, UNKNOWN_ID, Field, covers
from tests.legacy.raw import head, send
from tests.support.plane import ADMIN_TOKEN

ROUTE = f"/api/admin/clients/{UNKNOWN_ID}"
MACHINE = {
    "instance_id": "i-1",
    "instance_type": "m5.large",
    "region": "us-east-1",
    "az": "us-east-1a",
}


async def test_missing_token_is_401(field: Field) -> None:
    reply = await field.refused("UNAUTHORIZED", "DELETE", ROUTE, status=401, by=ANONYMOUS)
    assert reply["error"] == "Missing client token"


@pytest.mark.parametrize("token", ["nonsense", "sp_live_x", "sp_admin_x"])
async def test_invalid_token_is_401(field: Field, token: str) -> None:
    reply = await field.refused("INVALID_TOKEN", "DELETE", ROUTE, status=401, by=token)
    assert reply["error"] == "Invalid client token"


async def test_malformed_authorization_header_has_its_own_error(field: Field) -> None:
    headers = {"Authorization": "Token abc"}
    await field.refused(
        "INVALID_AUTH_FORMAT", "DELETE", ROUTE, status=401, by=ANONYMOUS, headers=headers
    )


async def test_a_tenants_key_opens_no_administrators_route(field: Field) -> None:
    await field.refused("FORBIDDEN", "DELETE", ROUTE, status=403)


async def test_an_administrator_may_come_as_bearer(field: Field) -> None:
    await field.refused("NOT_FOUND", "DELETE", ROUTE, status=404, by=ADMIN_TOKEN)


async def test_an_administrators_header_decides_alone(field: Field) -> None:
    headers = {"X-Admin-Token": "wrong"}
    await field.refused(
        "INVALID_TOKEN", "DELETE", ROUTE, status=401, by=ADMIN_TOKEN, headers=headers
    )


async def test_a_tenants_key_makes_no_administrator(field: Field) -> None:
    await field.get("/api/client/validate")
    headers = {"X-Admin-Token": field.tenant.key}
    await field.refused("INVALID_TOKEN", "GET", "/api/client/validate", status=401, headers=headers)


@pytest.mark.parametrize("instance_id", ["%00", "%20", "x" * 300, "%ED%A0%80"])
async def test_malformed_instance_ids_are_unknown_ones(field: Field, instance_id: str) -> None:
    unknown = await field.get("/api/client/instances/i-unknown/pricing", status=404)
    malformed = await field.get(f"/api/client/instances/{instance_id}/pricing", status=404)
    del unknown["correlation_id"], malformed["correlation_id"]
    assert unknown == malformed


async def test_unknown_and_malformed_ids_have_the_same_response(field: Field) -> None:
    unknown = await field.delete(ROUTE, status=404, by=ADMIN)
    malformed = await field.delete("/api/admin/clients/nope", status=404, by=ADMIN)
    del unknown["correlation_id"], malformed["correlation_id"]
    assert unknown == malformed


async def test_an_envelope_is_returned_on_request(field: Field) -> None:
    path = f"/api/admin/clients/{field.foreign.id}"
    headers = {"X-Response-Format": "envelope"}
    reply = await field.delete(path, by=ADMIN, headers=headers)
    assert list(reply) == ["status", "data", "error", "message"]
    assert reply["status"] == "success"
    assert reply["data"]["message"] == reply["message"]


async def test_a_media_type_has_no_case(field: Field) -> None:
    headers = {"Accept": "Application/VND.Spotplane.Envelope+JSON"}
    reply = await field.get("/api/client/validate", headers=headers)
    assert list(reply) == ["status", "data", "error"]


async def test_an_error_names_what_the_caller_sent(field: Field) -> None:
    reply = await field.get(f"/api/client/{field.tenant.id}/instances?cursor=none", status=400)
    assert reply["details"] == [{"field": "cursor", "message": reply["error"]}]
    assert "page_token" not in reply["error"]
    reply = await field.post("/api/agents/register", MACHINE, status=400, by=ADMIN)
    assert reply["error"] == "client_id is required"
    assert reply["details"] == [{"field": "client_id", "message": "client_id is required"}]


async def test_a_correlation_id_is_taken_over(field: Field) -> None:
    async with field.send(
        "DELETE", ROUTE, by=ADMIN, headers={"X-Correlation-ID": "abc-123"}
    ) as response:
        assert response.headers["X-Correlation-ID"] == "abc-123"
        assert (await response.json())["correlation_id"] == "abc-123"


async def test_an_empty_json_body_is_an_empty_object(field: Field) -> None:
    headers = {"Content-Type": "application/json"}
    await field.refused("NOT_FOUND", "DELETE", ROUTE, status=404, by=ADMIN, headers=headers)


@covers("32", "bad")
async def test_an_ambiguous_parameter_is_rejected_by_name(field: Field) -> None:
    path = f"/api/agents/{UNKNOWN_ID}/replicas?include_terminated=perhaps"
    reply = await field.refused("VALIDATION_ERROR", "GET", path, status=400)
    assert reply["details"] == [{"field": "include_terminated", "message": "must be true or false"}]


async def test_credentials_that_are_not_utf8_are_bad_ones_with_one_log_line(field: Field) -> None:
    sent = {
        b"Authorization: Bearer \xff\xfe": "INVALID_TOKEN",
        b"Authorization: \xff\xfe": "INVALID_AUTH_FORMAT",
        b"X-Client-Token: \xff\xfe": "INVALID_TOKEN",
        b"X-Admin-Token: \xff\xfe": "INVALID_TOKEN",
    }
    for header, code in sent.items():
        request = head("GET", "/api/client/validate").removesuffix(b"\r\n") + header
        with capture_logs() as lines:
            response = await send(field.http, request + b"\r\n\r\n")
        assert (response.status, response.code) == (401, code)
        assert [line["event"] for line in lines if "path" in line] == ["request"]
        assert not [line for line in lines if line["log_level"] in {"error", "critical"}]
    request = head("GET", "/v1/api-keys").removesuffix(b"\r\n") + b"Authorization: Bearer \xff"
    assert (await send(field.http, request + b"\r\n\r\n")).status == 401


async def test_a_header_that_is_not_utf8_is_refused_by_name(field: Field) -> None:
    request = head(
        "GET", f"/api/agents/{UNKNOWN_ID}/config", Authorization=f"Bearer {field.tenant.key}"
    )
    broken = request.removesuffix(b"\r\n") + b"X-Instance-Id: \xff\r\n\r\n"
    response = await send(field.http, broken)
    assert (response.status, response.code) == (400, "VALIDATION_ERROR")
    assert response.json["details"][0]["field"] == "X-Instance-Id"


async def test_headers_of_the_product_itself_have_no_effect(field: Field) -> None:
    headers = {
        "X-Spotplane-Ticket": "t",
        "X-Spotplane-Path": "/api/client/validate",
        "X-Spotplane-Family": "other",
        "X-Idempotency-Scope": "x",
    }
    await field.refused(
        "UNAUTHORIZED", "GET", "/api/client/validate", status=401, by=ANONYMOUS, headers=headers
    )
    await field.get("/api/client/validate", headers=headers)
