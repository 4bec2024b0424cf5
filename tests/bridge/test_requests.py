"""REST through a real bridge to a real gRPC server."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import Any

import orjson
import pytest
from aiohttp import ClientSession
from spotplane_bridge.app import running
from spotplane_bridge.config import BridgeConfig
from yarl import URL

from tests.bridge.fake_plane import FakePlane, fake_plane
from tests.support.eventually import eventually


async def test_a_success_has_the_servers_status_and_headers(http: ClientSession) -> None:
    async with http.post("/admin/tenants", json={"name": "A", "metadata": {"n": 1}}) as response:
        body = await response.json()
    assert response.status == 201
    assert body["name"] == "A"
    assert body["metadata"] == {"n": 1}
    assert body["total_spend_nanos"] == 2**62
    assert response.headers["X-RateLimit-Remaining"] == "599"
    assert not [name for name in response.headers if name.lower().startswith("x-spotplane")]


async def test_no_content_has_no_body(http: ClientSession) -> None:
    """204 means nothing, not an empty object."""
    async with http.delete("/admin/tenants/x") as response:
        assert (response.status, await response.read()) == (204, b"")


async def test_every_response_has_the_security_headers(http: ClientSession) -> None:
    """Successes, refusals, unknown paths and pages alike."""
    for path in ("/admin/tenants", "/admin/tenants?x=1", "/nope", "/health", "/api-docs"):
        async with http.get(path, headers={"X-Request-ID": "r-1"}) as response:
            assert response.headers["X-Request-ID"] == "r-1"
            assert response.headers["X-Correlation-ID"] == "r-1"
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["X-Frame-Options"] == "DENY"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "aiohttp" not in response.headers["Server"]
            for name in (
                "Strict-Transport-Security",
                "Content-Security-Policy",
                "Referrer-Policy",
                "Permissions-Policy",
            ):
                assert response.headers[name]


async def test_credentials_and_origin_reach_the_server(
    http: ClientSession, plane: FakePlane
) -> None:
    headers = {
        "Authorization": "Bearer k",
        "X-Admin-Token": "a",
        "X-Client-Token": "c",
        "Idempotency-Key": "i-12345678",
        "User-Agent": "test/1",
        "X-Request-ID": "r-2",
        "X-Forwarded-For": "6.6.6.6",
        "X-Spotplane-Path": "/x",
        "X-Spotplane-Ticket": "t",
        "X-Spotplane-Family": "fleet",
        "X-Spotplane-Idempotency-Scope": "x",
        "X-Idempotency-Scope": "x",
    }
    async with http.get("/admin/tenants", headers=headers) as response:
        assert response.status == 200
    metadata = plane.calls[-1].metadata
    assert metadata["authorization"] == "Bearer k"
    assert metadata["x-admin-token"] == "a"
    assert metadata["x-client-token"] == "c"
    assert metadata["idempotency-key"] == "i-12345678"
    assert metadata["x-user-agent"] == "test/1"
    assert metadata["x-request-id"] == "r-2"
    assert metadata["x-forwarded-for"] == "127.0.0.1"
    assert not [key for key in metadata if "spotplane" in key or "scope" in key]


@pytest.mark.parametrize(("path", "seconds"), [("/admin/tenants", 30), ("/v1/usage/by-hour", 60)])
async def test_every_call_has_a_deadline(
    http: ClientSession, plane: FakePlane, path: str, seconds: int
) -> None:
    """Reads of usage have more time than others."""
    async with http.get(path):
        pass
    left = plane.calls[-1].seconds_left
    assert left is not None
    assert seconds - 10 < left < seconds + 1


async def test_a_bare_list_is_passed_through(http: ClientSession) -> None:
    """The server prints it; its total stands in a header."""
    async with http.get("/admin/regions") as response:
        assert await response.json() == [{"code": "us-east"}]
    assert response.headers["X-Total-Count"] == "1"
    assert response.headers["Link"] == "<next>"


async def test_the_servers_error_object_is_returned(http: ClientSession) -> None:
    async with http.get("/admin/tenants/line") as response:
        error = (await response.json())["error"]
    assert response.status == error["status_code"] == 422
    assert (error["code"], error["type"]) == ("SEMANTIC", "validation_error")
    assert error["details"] == [{"field": "start_date", "description": "after end_date"}]
    assert error["suggestion"] == "swap them"
    assert error["correlation_id"] == response.headers["X-Request-ID"]
    assert response.headers["Retry-After"] == "7"


async def test_status_details_are_read_where_there_is_no_line(http: ClientSession) -> None:
    async with http.get("/admin/tenants/status") as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"], error["category"]) == (
        429,
        "TENANT_LIMIT",
        "rate_limit",
    )
    assert error["details"] == [{"field": "id", "description": "too often"}]
    assert error["suggestion"] == "slow down"
    assert response.headers["Retry-After"] == "1"
    assert response.headers["X-RateLimit-Remaining"] == "0"
    assert not [name for name in response.headers if name.lower().startswith("x-spotplane")]


@pytest.mark.parametrize(
    ("tenant", "status", "code"),
    [("bare", 500, "INTERNAL"), ("crash", 500, "INTERNAL"), ("garbled", 404, "NOT_FOUND")],
)
async def test_nothing_internal_leaks(
    http: ClientSession, tenant: str, status: int, code: str
) -> None:
    """A status without a reason is shown by its code only."""
    async with http.get(f"/admin/tenants/{tenant}") as response:
        text = await response.text()
        assert (response.status, (await response.json())["error"]["code"]) == (status, code)
    assert "hunter2" not in text
    assert "Traceback" not in text


async def test_an_rpc_that_the_server_lacks_is_501(http: ClientSession) -> None:
    """The route exists, its RPC does not yet."""
    async with http.post("/admin/tenants/resolve", json={}) as response:
        assert response.status == 501
        assert (await response.json())["error"]["code"] == "UNIMPLEMENTED"


async def test_a_call_past_its_deadline_is_504(plane: FakePlane, config: BridgeConfig) -> None:
    """The caller is not left waiting."""
    impatient = replace(config, unary_timeout_s=0.05)
    async with (
        running(impatient) as port,
        ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/admin/tenants/slow") as response,
    ):
        assert response.status == 504
        assert (await response.json())["error"]["code"] == "DEADLINE_EXCEEDED"


async def test_a_server_that_is_away_is_503_and_found_again() -> None:
    """No restart of the bridge is needed after one of the server."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    config = BridgeConfig(port=0, grpc_target=f"127.0.0.1:{port}")
    async with running(config) as own, ClientSession(f"http://127.0.0.1:{own}") as session:
        async with session.get("/admin/tenants") as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == "SERVICE_UNAVAILABLE"
            assert int(response.headers["Retry-After"]) >= 1

        async def answered() -> bool:
            async with session.get("/admin/tenants") as again:
                return again.status == 200

        async with fake_plane(port):
            found: bool = await eventually(answered)
            assert found


async def test_unknown_paths_and_methods_have_their_family_s_error(http: ClientSession) -> None:
    """404 and 405 with `Allow`; `/api/**` has its own shape, its admin part has not."""
    async with http.get("/nope") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (
            404,
            "ROUTE_NOT_FOUND",
        )
    async with http.patch("/admin/tenants") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, POST, OPTIONS"
        assert (await response.json())["error"]["code"] == "METHOD_NOT_ALLOWED"
    async with http.get("/api/nope") as response:
        body = await response.json()
        assert (response.status, body["status"], body["data"]) == (404, "error", None)
        assert body["code"] == "ROUTE_NOT_FOUND"
    async with http.get("/api/v1/admin/nope") as response:
        assert "error" in await response.json()


async def test_bodies_have_a_media_type_and_a_size(http: ClientSession) -> None:
    """415 and 413; an empty body is JSON under any name."""
    async with http.post("/admin/tenants", data=b"<x/>", headers={"Content-Type": "a/xml"}) as got:
        assert got.status == 415
    async with http.post("/admin/tenants", data=b"{}", skip_auto_headers=["Content-Type"]) as got:
        assert got.status == 201
    async with http.post("/admin/tenants", headers={"Content-Type": "text/plain"}) as got:
        assert got.status == 201
    async with http.post("/admin/tenants", data=b" " * 1_100_000) as got:
        assert got.status == 413
        assert (await got.json())["error"]["code"] == "PAYLOAD_TOO_LARGE"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HT\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: yyy\r\n" * 200 + b"\r\n", 431),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"GET /x HTTP/1.1\r\nHost: x\r\nExpect: yyy\r\nConnection: close\r\n\r\n", 404),
    ],
)
async def test_requests_that_no_route_sees_get_the_same_error_object(
    http: ClientSession, sent: bytes, status: int
) -> None:
    """Nothing is quoted back, and nothing names a library."""
    head, _, body = (await _send(http, sent)).partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode()
    assert b"X-Frame-Options: DENY" in head
    assert b"Server: spotplane\r\n" in head
    assert orjson.loads(body)["error"]["status_code"] == status
    assert not [word for word in (b"aiohttp", b"yyy", b"HT\\r", b"BREW") if word in head + body]


@pytest.mark.parametrize(
    ("path", "is_api"),
    [
        ("//admin/tenants", False),
        ("/admin//tenants", False),
        ("/admin/tenants/", False),
        ("/v1/models/a//b", False),
        ("/api//client/validate", True),
        ("/api/client/validate/", True),
    ],
)
async def test_no_route_has_an_empty_segment(
    http: ClientSession, plane: FakePlane, path: str, is_api: bool
) -> None:
    async with http.get(str(http._base_url).rstrip("/") + path) as response:
        body = await response.json()
    assert response.status == 404
    assert (body if is_api else body["error"])["code"] == "ROUTE_NOT_FOUND"
    assert not plane.calls


async def test_a_whole_address_is_a_path_too(http: ClientSession) -> None:
    request = b"GET http://h/admin/tenants?limit=x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    assert b"OUT_OF_RANGE" in await _send(http, request)


async def _send(http: ClientSession, data: bytes) -> bytes:
    """Send bytes as they stand, and read until the connection ends."""
    async with http.get("/health") as response:
        url = response.url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(data)
    received = await reader.read()
    writer.close()
    return received


async def test_a_line_s_end_in_a_path_is_a_letter_like_any_other(http: ClientSession) -> None:
    """The error is ours, not the library's."""
    async with http.get(URL("/admin/%0A/x", encoded=True)) as response:
        assert (await response.json())["error"]["code"] == "ROUTE_NOT_FOUND"


async def test_ids_in_paths_are_decoded(http: ClientSession, plane: FakePlane) -> None:
    async with http.get("/api/v1/admin/models/a%20b") as response:
        assert response.status == 200
    request: Any = plane.calls[-1].request
    assert request.id == "a b"


async def test_browsers_of_known_origins_may_call(http: ClientSession) -> None:
    asked = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "PUT"}
    async with http.options("/admin/tenants/x", headers=asked) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
        assert response.headers["Access-Control-Max-Age"] == "300"
        assert "PATCH" in response.headers["Access-Control-Allow-Methods"]
        assert "X-Admin-Token" in response.headers["Access-Control-Allow-Headers"]
    async with http.get("/admin/tenants", headers={"Origin": "http://localhost:3000"}) as response:
        assert "X-Total-Count" in response.headers["Access-Control-Expose-Headers"]


async def test_other_origins_get_no_permission(http: ClientSession) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "PUT"}
    for path in ("/admin/tenants/x", "/api/agents/x/heartbeat", "/health", "/nope", "/a//b"):
        async with http.options(path, headers=asked) as response:
            assert response.status == 204
            assert not [name for name in response.headers if name.lower().startswith("access-")]
    async with http.get("/admin/tenants", headers={"Origin": "https://evil.example"}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_open_requests_finish_when_the_bridge_ends(
    plane: FakePlane, config: BridgeConfig
) -> None:
    async with ClientSession() as session:
        serving = running(config)
        port = await serving.__aenter__()
        asked = asyncio.create_task(session.get(f"http://127.0.0.1:{port}/admin/tenants/held"))
        await plane.held.wait()
        ending = asyncio.create_task(serving.__aexit__(None, None, None))

        async def refused() -> bool:
            try:
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
            except ConnectionError:
                return True
            return False

        closed: bool = await eventually(refused)
        assert closed
        plane.release.set()
        async with await asked as response:
            assert response.status == 200
        await ending
