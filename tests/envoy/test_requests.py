"""The edge's treatment of every request: ids, headers, CORS, routing, logs, gRPC."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID

import grpc
import pytest
from grpc import aio
from spotplane.v1 import agent_pb2_grpc, agent_stream_pb2, tenant_pb2, tenant_pb2_grpc

from tests.envoy.conftest import Edge
from tests.support.eventually import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORIGIN = "http://localhost:3000"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"x-request-id": "Order-1.a_b"}, "Order-1.a_b"),
        ({"x-request-id": "x" * 128}, "x" * 128),
        ({"x-request-id": "x" * 129}, None),
        ({"x-request-id": "two words"}, None),
        ({"x-request-id": "no;good", "x-correlation-id": "good"}, "good"),
        ({"x-correlation-id": "synonym"}, "synonym"),
        ({"x-request-id": "wins", "x-correlation-id": "loses"}, "wins"),
        (
            {"x-request-id": "11111111-2222-4333-8444-555555555555"},
            "11111111-2222-4333-8444-555555555555",
        ),
        ({}, None),
    ],
)
async def test_request_id_is_kept_when_well_formed(
    edge: Edge, sent: dict[str, str], kept: str | None
) -> None:
    """The server and the client see one id: the client's, or a new UUID."""
    response = await edge.call("GET", "/admin/tenants/t1", headers=sent)
    given = response.headers["x-request-id"]

    assert given == edge.backend.seen.metadata["x-request-id"]
    if kept is None:
        assert str(UUID(given)) == given
    else:
        assert given == kept
    if "x-correlation-id" in sent:
        assert response.headers["x-correlation-id"] == given


async def test_bridge_gets_the_clients_request_id_only(edge: Edge) -> None:
    """Under /api an X-Request-ID makes a write repeatable, so the edge must not invent one."""
    with_id = await edge.call("POST", "/api/things", headers={"x-request-id": "mine"})
    without = await edge.call("POST", "/api/things", headers={"x-correlation-id": "c1"})

    assert with_id.json["headers"]["x-request-id"] == "mine"
    assert "x-request-id" not in without.json["headers"]
    assert without.json["headers"]["x-correlation-id"] == "c1"


@pytest.mark.parametrize(
    "path", ["/api/agents?x=%2F", "/health", "/ready", "/openapi.json", "/api/v1/adminx", "/v1x"]
)
async def test_everything_else_goes_to_the_bridge(edge: Edge, path: str) -> None:
    response = await edge.call("GET", path)

    assert response.json["path"] == path


async def test_credentials_reach_the_server(edge: Edge) -> None:
    """Both kinds of credentials are passed as metadata."""
    headers = {"authorization": "Bearer k", "x-admin-token": "t"}
    await edge.call("GET", "/admin/tenants/t1", headers=headers)

    seen = edge.backend.seen.metadata
    assert (seen["authorization"], seen["x-admin-token"]) == ("Bearer k", "t")


async def test_no_caller_is_internal(edge: Edge) -> None:
    """Headers that steer Envoy are dropped, even from loopback."""
    headers = {"x-envoy-max-retries": "9", "x-envoy-upstream-rq-timeout-ms": "1"}
    response = await edge.call("GET", "/admin/tenants/t1", headers=headers)

    assert response.status == 200
    assert not headers.keys() & edge.backend.seen.metadata.keys()
    assert "x-envoy-internal" not in edge.backend.seen.metadata


@pytest.mark.parametrize("path", ["/admin/tenants/t1", "/admin/nope", "/api/x"])
async def test_every_response_has_the_security_headers(edge: Edge, path: str) -> None:
    response = await edge.call("GET", path)

    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["server"] == "spotplane"
    for name in ("strict-transport-security", "content-security-policy", "referrer-policy"):
        assert response.headers[name]
    assert "x-envoy-upstream-service-time" not in response.headers


async def test_underscore_in_a_header_is_refused(edge: Edge) -> None:
    """`x_admin_token` could pass for `x-admin-token` further in."""
    response = await edge.call("GET", "/admin/tenants/t1", headers={"x_admin_token": "t"})

    assert response.status == 400
    assert response.error["category"] == "validation"


@pytest.mark.parametrize("path", ["/admin/tenants", "/api/agents"])
async def test_preflight_is_answered_by_the_bridge(edge: Edge, path: str) -> None:
    asked = {"access-control-request-method": "PUT", "origin": ORIGIN}
    response = await edge.call("OPTIONS", path, headers=asked)

    assert response.json["path"] == path
    assert response.json["headers"]["origin"] == ORIGIN


@pytest.mark.parametrize("path", ["//admin/tenants", "/admin//tenants", "/v1/models//", "/api//x"])
async def test_a_path_with_an_empty_segment_is_the_bridges(edge: Edge, path: str) -> None:
    response = await edge.call("GET", path)

    assert response.json["path"] == path


@pytest.mark.parametrize("path", ["/admin/tenants/t1", "/api/x"])
async def test_internal_headers_of_clients_are_removed(edge: Edge, path: str) -> None:
    sent = {
        "x-spotplane-family": "fleet",
        "X-Spotplane-Ticket": "t",
        "x-spotplane-door": "bridge",
        "x-spotplane-client-id": "c",
    }
    response = await edge.call("GET", path, headers=sent)
    arrived = response.json["headers"] if path == "/api/x" else edge.backend.seen.metadata

    assert response.status == 200
    kept = {name: arrived[name] for name in arrived if name.startswith("x-spotplane")}
    assert kept == ({} if path == "/api/x" else {"x-spotplane-door": "edge"})


async def test_internal_headers_of_grpc_clients_are_removed(edge: Edge) -> None:
    stub = tenant_pb2_grpc.TenantServiceStub(edge.channel)
    await stub.GetTenant(
        tenant_pb2.GetTenantRequest(id="t9"), metadata=(("x-spotplane-ticket", "t"),)
    )

    assert not [name for name in edge.backend.seen.metadata if name.startswith("x-spotplane")]


@pytest.mark.parametrize("path", ["/admin/tenants/missing", "/admin/nope"])
async def test_errors_are_readable_by_a_page(edge: Edge, path: str) -> None:
    """CORS headers are on errors too, Envoy's own included."""
    response = await edge.call("GET", path, headers={"origin": ORIGIN})

    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Request-ID" in response.headers["access-control-expose-headers"]


async def test_access_log_names_the_request_and_no_secret(edge: Edge) -> None:
    """One JSON line, without query and credentials."""
    headers = {"x-request-id": "logged-1", "authorization": "Bearer hush", "x-admin-token": "hush"}
    await edge.call("GET", "/admin/tenants?search=hush", headers=headers)

    def lines() -> list[str]:
        text = edge.log_path.read_text(encoding="utf-8")
        return [line for line in text.splitlines() if "logged-1" in line]

    # Envoy flushes its access log now and then.
    (line,) = await eventually(lines)
    entry = json.loads(line)
    assert (entry["method"], entry["path"], entry["status"]) == ("GET", "/admin/tenants", 200)
    assert "hush" not in line


async def test_grpc_passes_untouched(edge: Edge) -> None:
    """A unary call and its error arrive as gRPC, with the trailers."""
    stub = tenant_pb2_grpc.TenantServiceStub(edge.channel)
    found = await stub.GetTenant(tenant_pb2.GetTenantRequest(id="t9"))
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.GetTenant(tenant_pb2.GetTenantRequest(id="missing"))

    trailers = {str(key) for key, _ in caught.value.trailing_metadata() or ()}
    assert found.id == "t9"
    assert "x-spotplane-client-id" not in edge.backend.seen.metadata
    assert {"grpc-status-details-bin", "x-spotplane-error"} <= trailers


async def test_grpc_stream_talks_both_ways(edge: Edge) -> None:
    stub = agent_pb2_grpc.AgentServiceStub(edge.channel)
    call = stub.Connect()
    for _ in range(3):
        await call.write(agent_stream_pb2.ConnectRequest())
        assert await call.read() == agent_stream_pb2.ConnectResponse()
    await call.done_writing()

    assert await call.code() is grpc.StatusCode.OK


async def test_many_streams_of_one_edge_spread_over_connections(edge: Edge) -> None:
    """More streams than one upstream connection takes are open at once."""
    stub = agent_pb2_grpc.AgentServiceStub(edge.channel)
    async with aio.insecure_channel(edge.target, [("grpc.use_local_subchannel_pool", 1)]) as other:
        stubs = [stub, agent_pb2_grpc.AgentServiceStub(other)]
        calls = [stubs[i % 2].Connect() for i in range(150)]
        await asyncio.gather(*(call.write(agent_stream_pb2.ConnectRequest()) for call in calls))
        answers = await asyncio.gather(*(call.read() for call in calls))
        for call in calls:
            call.cancel()

    assert answers == [agent_stream_pb2.ConnectResponse()] * 150
