"""Health, readiness, metrics and the API's description."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from aiohttp import ClientSession
from grpc_health.v1 import health_pb2
from openapi_spec_validator import validate
from spotplane_bridge.app import running
from spotplane_bridge.config import BridgeConfig
from spotplane_bridge.ops import CHECKS, DECISIONS, WARNINGS
from spotplane_bridge.routes import load_routes

from tests.bridge.fake_plane import FakePlane
from tests.support.eventually import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
KEY = "sp_live_0123456789ABCDEFGHIJKLMNOPQRSTUV_2aCHuP"


async def test_health_covers_only_the_process() -> None:
    async with (
        running(BridgeConfig(port=0, grpc_target="127.0.0.1:1")) as port,
        ClientSession(f"http://127.0.0.1:{port}") as session,
    ):

        async def checked() -> Any:
            async with session.get("/health") as response:
                assert response.status == 200
                body = await response.json()
                return body if "error" in body else None

        body = await eventually(checked)
        assert (body["status"], body["database"]) == ("unhealthy", "disconnected")
        assert body["error"] == "the server cannot be reached"
        assert {"time", "timestamp", "version"} <= body.keys()
        async with session.get("/ready") as response:
            assert response.status == 503


async def test_ready_follows_the_servers_health(http: ClientSession, plane: FakePlane) -> None:
    """One failed check is enough, and is named."""
    async with http.get("/ready") as response:
        assert response.status == 200
        assert set((await response.json())["checks"].values()) == {"ok"}
    for name, status in (("", NOT_SERVING), ("database", NOT_SERVING), ("migrations", SERVING)):
        await plane.health.set(name, status)
    async with http.get("/ready") as response:
        body = await response.json()
    assert response.status == 503
    assert body["status"] == "not_ready"
    assert body["checks"]["database"] == "failed"
    assert body["checks"]["migrations"] == "ok"


@pytest.mark.parametrize(
    ("failing", "ready", "status", "error"),
    [
        ((), 200, "healthy", None),
        (("", "rollups"), 503, "unhealthy", "not working: rollups"),
        (("", "partitions", "jobs"), 503, "unhealthy", "not working: partitions, jobs"),
        (("", "database", "migrations"), 503, "unhealthy", "not working: database"),
        (("", *CHECKS), 503, "unhealthy", "the server is starting or stopping"),
        ((DECISIONS,), 200, "degraded", "not working: decision engine"),
    ],
)
async def test_health_names_what_fails_and_agrees_with_ready(
    http: ClientSession,
    plane: FakePlane,
    failing: Sequence[str],
    ready: int,
    status: str,
    error: str | None,
) -> None:
    for name in ("", DECISIONS, *CHECKS):
        await plane.health.set(name, NOT_SERVING if name in failing else SERVING)
    async with http.get("/ready") as response:
        assert response.status == ready
    # At once, without the next round of the background check.
    async with http.get("/health") as response:
        body = await response.json()
    assert response.status == 200
    assert (body["status"], body.get("error")) == (status, error)


async def test_health_follows_the_server_by_itself(http: ClientSession, plane: FakePlane) -> None:
    async def reported(status: str) -> bool:
        async with http.get("/health") as response:
            return bool((await response.json())["status"] == status)

    await plane.health.set("", NOT_SERVING)
    await eventually(lambda: reported("unhealthy"))
    await plane.health.set("", SERVING)
    await eventually(lambda: reported("healthy"))


async def test_what_impairs_a_server_is_a_warning(http: ClientSession, plane: FakePlane) -> None:
    await plane.health.set("sandbox", NOT_SERVING)
    async with http.get("/ready") as response:
        assert response.status == 200
        assert (await response.json())["warnings"] == [WARNINGS["sandbox"]]
    await plane.health.set("sandbox", SERVING)
    async with http.get("/ready") as response:
        assert "warnings" not in await response.json()


async def test_metrics_have_templates_never_paths(http: ClientSession) -> None:
    """No caller can add a time series."""
    for path in ("/admin/tenants/line", "/secret-path-1", "/admin/tenants/a/b/c"):
        async with http.get(path):
            pass
    async with http.get("/metrics") as response:
        text = await response.text()
    counted = 'http_requests_total{method="GET",path="/admin/tenants/{id}",status="422"} 1.0'
    assert counted in text
    assert 'path="unmatched",status="404"} 2.0' in text
    assert "secret-path" not in text
    assert re.search(r'active_connections\{door="rest"\} [1-9]', text)


async def test_the_log_line_has_no_secret(http: ClientSession) -> None:
    """Template, status, times and at most the start of the key."""
    with structlog.testing.capture_logs() as lines:
        headers = {"Authorization": f"Bearer {KEY}", "X-Request-ID": "r-9"}
        async with http.get("/admin/tenants/x?status=hunter2", headers=headers):
            pass
    line = next(line for line in lines if line["event"] == "request")
    assert line["path"] == "/admin/tenants/{id}"
    assert (line["request_id"], line["status"], line["client_ip"]) == ("r-9", 400, "127.0.0.1")
    assert line["key_prefix"] == KEY[:12]
    assert KEY not in str(line)
    assert "hunter2" not in str(line)


async def test_openapi_is_valid_and_complete(http: ClientSession) -> None:
    """Every route with an example, its parameters, its errors and its credentials."""
    async with http.get("/openapi.json") as response:
        document: dict[str, Any] = await response.json()
    validate(document)
    operations = {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    # What takes slashes too is written like any other parameter.
    wanted = {(route.method, route.template.replace("=**}", "}")) for route in load_routes()}
    wanted |= {("GET", path) for path in ("/health", "/ready", "/metrics", "/api-docs")}
    assert wanted <= operations.keys()
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)
    for name, operation in operations.items():
        contents = [
            content
            for response in operation["responses"].values()
            for kind, content in response.get("content", {}).items()
            if "zip" not in kind
        ]
        contents += operation.get("requestBody", {}).get("content", {}).values()
        assert all("example" in content for content in contents), name
        assert {"tags", "summary", "security", "operationId"} <= operation.keys(), name


async def test_openapi_gives_the_unit_of_prices_that_requests_carry(http: ClientSession) -> None:
    """US dollars on `/api/**`, where the gRPC field has nano-dollars."""
    async with http.get("/openapi.json") as response:
        document = await response.json()
    create = document["paths"]["/api/client/{client_id}/pricing-alerts"]["post"]
    body = create["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert body["threshold"]["type"] == "number"
    assert "US dollars per hour" in body["threshold"]["description"]


async def test_openapi_contains_the_comments(http: ClientSession) -> None:
    """Statuses, reasons, required members and nulls come from the API's own files."""
    async with http.get("/openapi.json") as response:
        document = await response.json()
    create = document["paths"]["/admin/tenants"]["post"]
    assert next(iter(create["responses"])) == "201"
    assert "EMAIL_TAKEN" in create["responses"]["409"]["description"]
    assert create["requestBody"]["required"]
    schemas = document["components"]["schemas"]
    assert schemas["CreateTenantRequest"]["required"] == ["name", "email"]
    assert "id" not in schemas["UpdateTenantRequest"]["properties"]
    assert schemas["Tenant"]["properties"]["suspension_reason"]["type"] == ["string", "null"]
    assert schemas["Tenant"]["properties"]["total_spend_nanos"]["format"] == "int64"
    flat = document["paths"]["/admin/regions"]["get"]["responses"]["200"]["content"]
    bare, envelope = flat["application/json"]["schema"]["oneOf"]
    assert bare["type"] == "array"
    assert envelope["$ref"].endswith("ListRegionsResponse")
    resolve = document["paths"]["/admin/tenants/resolve"]["post"]["responses"]
    assert {"200", "201"} <= resolve.keys()


async def test_the_description_comes_as_yaml_and_as_a_page(http: ClientSession) -> None:
    """The same document; the page loads nothing from elsewhere and runs nothing."""
    async with http.get("/openapi.json") as response:
        document = await response.json()
    async with http.get("/api/v1/admin/openapi.yaml") as response:
        text = await response.text()
        assert yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) == document
    async with http.get("/api-docs") as response:
        page = await response.text()
        assert "/admin/tenants/{id}/suspend" in page
        assert "<script" not in page
        assert "src=" not in page
        assert "style-src 'sha256-" in response.headers["Content-Security-Policy"]


async def test_a_process_reports_its_port_and_ends_on_sigterm(
    plane: FakePlane, tmp_path: Path
) -> None:
    """A supervisor learns the port from a file and an orderly end from the exit code."""
    port_file = tmp_path / "port"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import os; from spotplane_bridge import app, config; "
        "app.run(config.BridgeConfig.from_env(os.environ))",
        env={
            **os.environ,
            "SPOTPLANE_BRIDGE_PORT": "0",
            "SPOTPLANE_BRIDGE_PORT_FILE": str(port_file),
            "SPOTPLANE_GRPC_TARGET": plane.target,
        },
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await eventually(port_file.exists)
        async with (
            ClientSession() as session,
            session.get(f"http://127.0.0.1:{int(port_file.read_text())}/admin/tenants") as response,
        ):
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        _, logged = await process.communicate()
        assert process.returncode == 0
        assert b'"event":"bridge_stopped"' in logged
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
