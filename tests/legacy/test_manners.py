"""What all routes of the field have in common: credentials, errors, envelopes, ids."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tests.legacy.field import ADMIN, NOBODY, UNKNOWN_ID, Field, covers
from tests.legacy.raw import head, send
from tests.support.plane import ADMIN_TOKEN

ROUTE = f"/api/admin/clients/{UNKNOWN_ID}"
MACHINE = {
    "instance_id": "i-1",
    "instance_type": "m5.large",
    "region": "us-east-1",
    "az": "us-east-1a",
}


async def test_no_token_is_told_so(field: Field) -> None:
    """The text is one that clients compare."""
    said = await field.refused("UNAUTHORIZED", "DELETE", ROUTE, status=401, by=NOBODY)
    assert said["error"] == "Missing client token"


@pytest.mark.parametrize("token", ["nonsense", "sp_live_x", "sp_admin_x"])
async def test_a_bad_token_is_told_so(field: Field, token: str) -> None:
    """Whatever it looks like."""
    said = await field.refused("INVALID_TOKEN", "DELETE", ROUTE, status=401, by=token)
    assert said["error"] == "Invalid client token"


async def test_a_header_that_cannot_be_read_is_told_apart(field: Field) -> None:
    """No scheme, no bearer."""
    headers = {"Authorization": "Token abc"}
    await field.refused(
        "INVALID_AUTH_FORMAT", "DELETE", ROUTE, status=401, by=NOBODY, headers=headers
    )


async def test_a_tenants_key_opens_no_administrators_route(field: Field) -> None:
    """It is known, and it is not enough."""
    await field.refused("FORBIDDEN", "DELETE", ROUTE, status=403)


async def test_an_administrator_may_come_as_bearer(field: Field) -> None:
    """As the dashboards do."""
    await field.refused("NOT_FOUND", "DELETE", ROUTE, status=404, by=ADMIN_TOKEN)


async def test_an_administrators_header_decides_alone(field: Field) -> None:
    """A bad one does not fall through to a good bearer."""
    headers = {"X-Admin-Token": "wrong"}
    await field.refused(
        "INVALID_TOKEN", "DELETE", ROUTE, status=401, by=ADMIN_TOKEN, headers=headers
    )


async def test_a_tenants_key_makes_no_administrator(field: Field) -> None:
    """Not even when the server has just seen it elsewhere."""
    await field.get("/api/client/validate")
    headers = {"X-Admin-Token": field.tenant.key}
    await field.refused("INVALID_TOKEN", "GET", "/api/client/validate", status=401, headers=headers)


@pytest.mark.parametrize("instance_id", ["%00", "%20", "x" * 300, "%ED%A0%80"])
async def test_malformed_instance_ids_are_unknown_ones(field: Field, instance_id: str) -> None:
    """Whatever is wrong with them."""
    unknown = await field.get("/api/client/instances/i-unknown/pricing", status=404)
    malformed = await field.get(f"/api/client/instances/{instance_id}/pricing", status=404)
    del unknown["correlation_id"], malformed["correlation_id"]
    assert unknown == malformed


async def test_unknown_and_malformed_ids_are_one_answer(field: Field) -> None:
    """But for the correlation id."""
    unknown = await field.delete(ROUTE, status=404, by=ADMIN)
    malformed = await field.delete("/api/admin/clients/nope", status=404, by=ADMIN)
    del unknown["correlation_id"], malformed["correlation_id"]
    assert unknown == malformed


async def test_an_envelope_is_for_those_who_ask(field: Field) -> None:
    """The same body, wrapped, with its message copied."""
    path = f"/api/admin/clients/{field.foreign.id}"
    headers = {"X-Response-Format": "envelope"}
    said = await field.delete(path, by=ADMIN, headers=headers)
    assert list(said) == ["status", "data", "error", "message"]
    assert said["status"] == "success"
    assert said["data"]["message"] == said["message"]


async def test_a_media_type_has_no_case(field: Field) -> None:
    """Nor the wish for an envelope."""
    headers = {"Accept": "Application/VND.Spotplane.Envelope+JSON"}
    said = await field.get("/api/client/validate", headers=headers)
    assert list(said) == ["status", "data", "error"]


async def test_an_error_names_what_the_caller_sent(field: Field) -> None:
    """Members have the names of these routes, not those of the calls behind them."""
    said = await field.get(f"/api/client/{field.tenant.id}/instances?cursor=none", status=400)
    assert said["details"] == [{"field": "cursor", "message": said["error"]}]
    assert "page_token" not in said["error"]
    said = await field.post("/api/agents/register", MACHINE, status=400, by=ADMIN)
    assert said["error"] == "client_id is required"
    assert said["details"] == [{"field": "client_id", "message": "client_id is required"}]


async def test_a_correlation_id_is_taken_over(field: Field) -> None:
    """In the body and in the header."""
    async with field.send(
        "DELETE", ROUTE, by=ADMIN, headers={"X-Correlation-ID": "abc-123"}
    ) as answer:
        assert answer.headers["X-Correlation-ID"] == "abc-123"
        assert (await answer.json())["correlation_id"] == "abc-123"


async def test_an_empty_json_body_is_an_empty_object(field: Field) -> None:
    """On every method."""
    headers = {"Content-Type": "application/json"}
    await field.refused("NOT_FOUND", "DELETE", ROUTE, status=404, by=ADMIN, headers=headers)


@covers("32", "bad")
async def test_a_parameter_that_says_nothing_is_refused_by_name(field: Field) -> None:
    """Never taken for the one or the other."""
    path = f"/api/agents/{UNKNOWN_ID}/replicas?include_terminated=perhaps"
    said = await field.refused("VALIDATION_ERROR", "GET", path, status=400)
    assert said["details"] == [{"field": "include_terminated", "message": "must be true or false"}]


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
            answer = await send(field.http, request + b"\r\n\r\n")
        assert (answer.status, answer.code) == (401, code)
        assert [line["event"] for line in lines if "path" in line] == ["request"]
        assert not [line for line in lines if line["log_level"] in {"error", "critical"}]
    request = head("GET", "/v1/api-keys").removesuffix(b"\r\n") + b"Authorization: Bearer \xff"
    assert (await send(field.http, request + b"\r\n\r\n")).status == 401


async def test_a_header_that_is_not_utf8_is_refused_by_name(field: Field) -> None:
    request = head(
        "GET", f"/api/agents/{UNKNOWN_ID}/config", Authorization=f"Bearer {field.tenant.key}"
    )
    broken = request.removesuffix(b"\r\n") + b"X-Instance-Id: \xff\r\n\r\n"
    answer = await send(field.http, broken)
    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")
    assert answer.json["details"][0]["field"] == "X-Instance-Id"


async def test_headers_of_the_product_itself_have_no_effect(field: Field) -> None:
    """They are metadata between our own processes."""
    headers = {
        "X-Spotplane-Ticket": "t",
        "X-Spotplane-Path": "/api/client/validate",
        "X-Spotplane-Family": "other",
        "X-Idempotency-Scope": "x",
    }
    await field.refused(
        "UNAUTHORIZED", "GET", "/api/client/validate", status=401, by=NOBODY, headers=headers
    )
    await field.get("/api/client/validate", headers=headers)
