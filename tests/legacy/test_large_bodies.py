"""Request bodies that try to exhaust the bridge."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from tests.legacy.field import ADMIN, UNKNOWN_ID, Field
from tests.legacy.raw import head, send
from tests.legacy.test_agents import register
from tests.support.plane import ADMIN_TOKEN

REPORT = f"/api/agents/{UNKNOWN_ID}/pricing-report"
BATCH = "/v1/usage/records"
COMMANDS = f"/v1/agents/{UNKNOWN_ID}/commands"
UNKNOWN_KEY = f"sp_live_{'x' * 32}_000000"
MIB = 1024 * 1024


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_an_unknown_credential_is_refused_before_its_large_body(field: Field) -> None:
    for path, code in ((REPORT, "INVALID_TOKEN"), (BATCH, "API_KEY_INVALID")):
        announced = head("POST", path, Content_Length=MIB, **bearer(UNKNOWN_KEY))
        response = await send(field.http, announced)
        assert (response.status, response.code) == (401, code)
        assert response.headers["connection"] == "close"


async def test_an_unknown_credential_is_refused_after_64_kib_of_unknown_length(
    field: Field,
) -> None:
    start = head("POST", REPORT, Transfer_Encoding="chunked", **bearer(UNKNOWN_KEY))
    response = await send(field.http, start + b"11000\r\n" + b" " * 0x11000 + b"\r\n")
    assert (response.status, response.code) == (401, "INVALID_TOKEN")


async def test_the_credential_of_a_large_body_is_not_inside_of_it(field: Field) -> None:
    announced = head("POST", REPORT, Content_Length=MIB)
    response = await send(field.http, announced + b'{"client_token":"' + field.tenant.key.encode())
    assert (response.status, response.code) == (401, "UNAUTHORIZED")
    assert "header" in response.json["hint"]


async def test_each_route_has_a_limit_that_holds_before_the_body(field: Field) -> None:
    limits = {COMMANDS: 256 * 1024, REPORT: MIB, BATCH: 10 * MIB, "/v1/api-keys": 64 * 1024}
    for path, size in limits.items():
        announced = head("POST", path, Content_Length=size + 1, **bearer(field.tenant.key))
        response = await send(field.http, announced)
        assert (response.status, response.code) == (413, "PAYLOAD_TOO_LARGE")


async def test_a_body_of_unknown_length_ends_at_the_limit(field: Field) -> None:
    for path in (COMMANDS, REPORT):
        start = head("POST", path, Transfer_Encoding="chunked", **bearer(field.tenant.key))
        chunk = b"10000\r\n" + b"[" * 0x10000 + b"\r\n"
        response = await send(field.http, start + chunk * 18)
        assert (response.status, response.code) == (413, "PAYLOAD_TOO_LARGE")


async def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(field: Field) -> None:
    for path, body in (
        (BATCH, b'{"records":[%b{}]}' % (b"{}," * 3_300_000)),
        (REPORT, b'{"spot_pools":[%b{}]}' % (b"{}," * 340_000)),
        (COMMANDS, b'{"parameters":{"a":[%b[]]}}' % (b"[]," * 80_000)),
        (COMMANDS, b'{"a":%b}' % (b'{"a":{' * 40_000)),
    ):
        async with field.http.post(path, data=body, headers=_json(field)) as response:
            text = await response.text()
            assert response.status == 413, text
            assert "values" in text


async def test_deep_and_long_values_are_the_callers_fault(field: Field) -> None:
    for body in (
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"records":%b%b}' % (b"[" * 2000, b"]" * 2000),
        b'{"records":[{"prompt_tokens":%b}]}' % (b"1" * MIB),
        b'{"records":[{"prompt_tokens":"%b"}]}' % (b"1" * MIB),
        b'{"records":[{"metadata":%b1%b}]}' % (b'{"a":' * 500, b"}" * 500),
        b'{"%b":1}' % (b"\\ud800" * 1000),
    ):
        async with field.http.post(BATCH, data=body, headers=_json(field)) as response:
            assert 400 <= response.status < 500, await response.text()


async def test_the_last_of_duplicate_members_counts(field: Field) -> None:
    body = b'{%b"records":[]}' % (b'"records":[{}],' * 1000)
    async with field.http.post(BATCH, data=body, headers=_json(field)) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (400, "MISSING_FIELD")


async def test_a_price_beyond_any_exponent_is_no_price(field: Field) -> None:
    prices = {"spot_pools": [{"price": "1e999999999"}, {"price": "0." + "1" * 100_000}]}
    await field.call("POST", REPORT, prices, status=404, by=field.tenant)


async def test_the_largest_batch_is_stored_and_others_are_answered_meanwhile(
    field: Field,
) -> None:
    records = [_record() for _ in range(1000)]
    batch = asyncio.create_task(field.call("POST", BATCH, {"records": records}))
    answered = 0
    while not batch.done():
        async with field.http.get("/health") as health:
            assert health.status == 200
        answered += 1
    assert (await batch)["accepted"] + (await batch)["rejected"] == 1000
    assert answered > 1


async def test_the_largest_documented_messages_are_accepted(field: Field) -> None:
    agent_id = await register(field)
    path = f"/api/agents/{agent_id}"
    price = {"pool_id": "p" * 128, "az": "z" * 64, "instance_type": "t" * 64, "price": 0.123456}
    inventory = [{"instance_id": f"i-{n:0126}", "state": "running"} for n in range(1000)]
    command = {"type": "custom", "name": "n", "parameters": {"a": "\u00e9" * 32_000}}
    for route, message in (
        (f"{path}/pricing-report", {"spot_pools": [price] * 1000}),
        (f"{path}/heartbeat", {"inventory_snapshot": inventory}),
        (f"{path}/cleanup-report", {"errors": ["\u00e9" * 400] * 250}),
        (f"/v1/agents/{agent_id}/commands", command),
    ):
        body = json.dumps(message, indent=4).encode()
        assert len(body) > 64 * 1024
        async with field.http.post(route, data=body, headers=_json(field)) as response:
            assert response.status in {200, 201}, (route, await response.text())


async def test_a_credential_that_is_revoked_does_not_send_by_what_was_remembered(
    field: Field,
) -> None:
    key = await field.plane.key(field.tenant.id, role="admin", rate_limit_rpm=1000)
    body = {"records": [_record() for _ in range(200)]}
    assert len(json.dumps(body)) > 64 * 1024
    await field.call("POST", BATCH, body, by=key.key)
    await field.call("DELETE", f"/admin/api-keys/{key.id}", by=ADMIN)
    refused = await field.call("POST", BATCH, body, status=401, by=key.key)
    assert refused["error"]["code"] == "API_KEY_INVALID"


async def test_compressed_bodies_are_refused(field: Field) -> None:
    for path in (BATCH, REPORT, "/api/admin/ml-models/upload"):
        announced = head(
            "POST", path, Content_Length=100, Content_Encoding="gzip", **bearer(field.tenant.key)
        )
        response = await send(field.http, announced)
        assert (response.status, response.code) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_headers_of_parts_are_limited(field: Field) -> None:
    parts = b"--b\r\n" + b"A: %b\r\n" % (b"x" * 1000) * 100 + b"\r\n\r\n--b--\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=b", "X-Admin-Token": ADMIN_TOKEN}
    route = "/api/admin/ml-models/upload"
    async with field.http.post(route, data=parts, headers=form) as response:
        assert (response.status, (await response.json())["code"]) == (413, "PAYLOAD_TOO_LARGE")


async def test_thousands_of_parameters_are_refused(field: Field) -> None:
    for path in ("/v1/api-keys", f"/api/client/{UNKNOWN_ID}/agents"):
        for count, status in ((3000, 400), (30_000, 431)):
            request = head("GET", f"{path}?{'a&' * count}", **bearer(field.tenant.key))
            assert (await send(field.http, request)).status == status


def _json(field: Field) -> dict[str, str]:
    return {"Content-Type": "application/json", **bearer(field.tenant.key)}


def _record() -> dict[str, Any]:
    """A usage record with about 60 values."""
    return {
        "request_id": uuid4().hex,
        "timestamp": datetime.now(UTC).isoformat(),
        "model": "unknown",
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "metadata": {f"key{n}": "value" for n in range(50)},
    }
