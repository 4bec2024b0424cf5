"""Traces: one call's way from REST through the RPC to its statements."""

from __future__ import annotations

import subprocess
import sys

import pytest
from aiohttp import ClientSession
from spotplane_bridge.app import running as bridge_running
from spotplane_bridge.config import BridgeConfig
from spotplane_server import config as settings

from tests.support.collector import Collector, Seen, collecting
from tests.support.eventually import eventually
from tests.support.plane import ADMIN_TOKEN, running

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Admin-Token": ADMIN_TOKEN}


async def _traced(database_url: str, path: str, *, bridge_collects: bool = True) -> Collector:
    """What a collector holds of one request, once the processes have ended."""
    async with collecting() as collector:
        async with running(database_url, otlp_endpoint=collector.endpoint) as plane:
            config = BridgeConfig(
                port=0,
                grpc_target=plane.target,
                otlp_endpoint=collector.endpoint if bridge_collects else None,
                log_level="WARNING",
            )
            async with (
                bridge_running(config) as port,
                ClientSession(f"http://127.0.0.1:{port}") as session,
                session.get(path, headers=HEADERS) as response,
            ):
                assert response.status == 200, await response.text()
        # What a server's end sends may still be on its way into the list.
        await eventually(lambda: bool(collector.of(TRACE, "spotplane-server")))
        return collector


@pytest.mark.parametrize(
    ("path", "route", "method"),
    [
        ("/admin/tenants?limit=1", "/admin/tenants", "TenantService/ListTenants"),
        ("/api/admin/clients", "/api/admin/clients", "InsightService/ListTenantSummaries"),
    ],
)
async def test_request_rpc_and_statements_are_one_trace(
    database_url: str, path: str, route: str, method: str
) -> None:
    """Each span is below the one that caused it, and the first below the caller's own."""
    collector = await _traced(database_url, path)

    (request,) = collector.of(TRACE, "spotplane-bridge")
    rpc, statements = _apart(collector.of(TRACE, "spotplane-server"))
    assert (request.name, request.parent) == (f"GET {route}", CALLER)
    assert (rpc.name, rpc.parent) == (f"spotplane.v1.{method}", request.id)
    assert statements
    assert {statement.parent for statement in statements} == {rpc.id}
    assert all("SELECT" in statement.texts["db.query.text"].upper() for statement in statements)


async def test_callers_trace_goes_through_a_bridge_that_collects_none(database_url: str) -> None:
    """The server's span is then right below the caller's."""
    collector = await _traced(database_url, "/admin/tenants?limit=1", bridge_collects=False)

    rpc, _ = _apart(collector.of(TRACE, "spotplane-server"))
    assert rpc.parent == CALLER
    assert collector.of(TRACE, "spotplane-bridge") == []


async def test_spans_tell_no_values(database_url: str) -> None:
    """The text of a statement is ours; what it was run with may be a secret."""
    collector = await _traced(database_url, "/admin/tenants?search=Geheimnis&limit=1")

    told = [text for span in collector.spans for text in span.texts.values()]
    assert told
    assert not any("Geheimnis" in text or ADMIN_TOKEN in text for text in told)


async def test_collector_that_is_away_costs_no_answer(database_url: str) -> None:
    """Spans are lost then, and nothing else; the process ends nonetheless."""
    async with running(database_url, otlp_endpoint="http://127.0.0.1:1") as plane:
        tenant = await plane.tenant()

    assert tenant.key


def test_without_a_collector_nothing_is_loaded() -> None:
    """Neither process imports OpenTelemetry, so an installation without it works."""
    code = (
        "import sys, spotplane_server.app, spotplane_bridge.app;"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["SPOTPLANE_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
def test_collector_is_named_by_our_variable_or_the_usual_one(name: str) -> None:
    """For both processes alike."""
    env = {"SPOTPLANE_DATABASE_URL": "postgresql://", name: "http://collector:4317"}

    assert settings.load(env).otlp_endpoint == "http://collector:4317"
    assert BridgeConfig.from_env(env).otlp_endpoint == "http://collector:4317"


def test_collector_that_is_no_address_is_refused() -> None:
    """With the other bad settings, before anything starts."""
    env = {"SPOTPLANE_DATABASE_URL": "postgresql://", "SPOTPLANE_OTLP_ENDPOINT": "collector:4317"}

    with pytest.raises(settings.ConfigError, match="SPOTPLANE_OTLP_ENDPOINT: must be http"):
        settings.load(env)


def _apart(spans: list[Seen]) -> tuple[Seen, list[Seen]]:
    """The span of the RPC, and those of its statements."""
    (rpc,) = [span for span in spans if "rpc.method" in span.texts]
    return rpc, [span for span in spans if span is not rpc]
