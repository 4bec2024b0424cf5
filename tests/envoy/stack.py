"""Upstreams of the edge in these tests: a small gRPC server and a small HTTP server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from aiohttp import web
from google.api import httpbody_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from spotplane.v1 import (
    agent_stream_pb2,
    model_pb2,
    region_pb2,
    tenant_pb2,
    usage_pb2,
)

EXPORT_CHUNKS = (b"PK\x03\x04first", b"second" * 20_000, b"third")
LARGE = 3_000_000


@dataclass
class Seen:
    """The last call that the gRPC server received."""

    method: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    request: Any = None
    seconds_left: float | None = None


class Backend:
    """A gRPC server that records its calls; the request determines the response."""

    def __init__(self) -> None:
        self.seen = Seen()

    def _note(self, method: str, request: Any, context: Any) -> None:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        self.seen = Seen(method, metadata, request, context.time_remaining())

    async def create_tenant(self, request: Any, context: Any) -> tenant_pb2.Tenant:
        self._note("CreateTenant", request, context)
        await context.send_initial_metadata((("x-spotplane-http-status", "201"),))
        return tenant_pb2.Tenant(id="t1", name=request.name, total_spend_nanos=12)

    async def get_tenant(self, request: Any, context: Any) -> tenant_pb2.Tenant:
        self._note("GetTenant", request, context)
        match request.id:
            case "missing":
                await fail(context, 404, grpc.StatusCode.NOT_FOUND, "TENANT_NOT_FOUND")
            case "odd":
                await fail(context, 422, grpc.StatusCode.INVALID_ARGUMENT, "SEMANTIC")
            case "busy":
                await fail(context, 429, grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_LIMIT")
            case "plain":
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "plain <text>")
            case "bug":
                raise RuntimeError("secret of the inside")
            case "large":
                return tenant_pb2.Tenant(id="large", name="x" * LARGE)
        return tenant_pb2.Tenant(id=request.id)

    async def delete_tenant(self, request: Any, context: Any) -> tenant_pb2.DeleteTenantResponse:
        self._note("DeleteTenant", request, context)
        return tenant_pb2.DeleteTenantResponse(status="deleted")

    async def list_tenants(self, request: Any, context: Any) -> tenant_pb2.ListTenantsResponse:
        self._note("ListTenants", request, context)
        return tenant_pb2.ListTenantsResponse()

    async def update_tenant(self, request: Any, context: Any) -> tenant_pb2.Tenant:
        self._note("UpdateTenant", request, context)
        return tenant_pb2.Tenant(id=request.id)

    async def suspend_tenant(self, request: Any, context: Any) -> tenant_pb2.SuspendTenantResponse:
        self._note("SuspendTenant", request, context)
        return tenant_pb2.SuspendTenantResponse(status="suspended")

    async def export_tenant(
        self, request: Any, context: Any
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        self._note("ExportTenant", request, context)
        if request.id == "missing":
            await fail(context, 404, grpc.StatusCode.NOT_FOUND, "TENANT_NOT_FOUND")
        for chunk in EXPORT_CHUNKS:
            yield httpbody_pb2.HttpBody(content_type="application/zip", data=chunk)

    async def list_regions_flat(self, request: Any, context: Any) -> httpbody_pb2.HttpBody:
        self._note("ListRegionsFlat", request, context)
        await context.send_initial_metadata((("x-total-count", "2"),))
        text = json.dumps([{"code": "us-east", "note": "y" * 100_000}, {"code": "eu-west"}])
        return httpbody_pb2.HttpBody(content_type="application/json", data=text.encode())

    async def get_model(self, request: Any, context: Any) -> model_pb2.Model:
        self._note("GetModel", request, context)
        await context.send_initial_metadata((("x-spotplane-http-status", "204"),))
        return model_pb2.Model()

    async def ingest(self, request: Any, context: Any) -> usage_pb2.IngestUsageBatchResponse:
        self._note("IngestUsageBatch", request, context)
        return usage_pb2.IngestUsageBatchResponse(accepted=len(request.records))

    async def usage_by_hour(self, request: Any, context: Any) -> usage_pb2.GetUsageByHourResponse:
        self._note("GetUsageByHour", request, context)
        return usage_pb2.GetUsageByHourResponse()

    async def connect(
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[agent_stream_pb2.ConnectResponse]:
        self._note("Connect", None, context)
        async for _ in requests:
            yield agent_stream_pb2.ConnectResponse()

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """The handlers, by service."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return [
            _service(
                "TenantService",
                CreateTenant=_method(unary, self.create_tenant, tenant_pb2.CreateTenantRequest),
                GetTenant=_method(unary, self.get_tenant, tenant_pb2.GetTenantRequest),
                DeleteTenant=_method(unary, self.delete_tenant, tenant_pb2.DeleteTenantRequest),
                ListTenants=_method(unary, self.list_tenants, tenant_pb2.ListTenantsRequest),
                UpdateTenant=_method(unary, self.update_tenant, tenant_pb2.UpdateTenantRequest),
                SuspendTenant=_method(unary, self.suspend_tenant, tenant_pb2.SuspendTenantRequest),
                ExportTenant=_method(stream, self.export_tenant, tenant_pb2.ExportTenantRequest),
            ),
            _service(
                "RegionService",
                ListRegionsFlat=_method(
                    unary, self.list_regions_flat, region_pb2.ListRegionsRequest
                ),
            ),
            _service(
                "ModelService",
                GetModel=_method(unary, self.get_model, model_pb2.GetModelRequest),
            ),
            _service(
                "UsageService",
                IngestUsageBatch=_method(unary, self.ingest, usage_pb2.IngestUsageBatchRequest),
                GetUsageByHour=_method(unary, self.usage_by_hour, usage_pb2.GetUsageByHourRequest),
            ),
            _service(
                "AgentService",
                Connect=_method(
                    grpc.stream_stream_rpc_method_handler,
                    self.connect,
                    agent_stream_pb2.ConnectRequest,
                ),
            ),
        ]


def _service(name: str, **methods: grpc.RpcMethodHandler[Any, Any]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(f"spotplane.v1.{name}", methods)


def _method(kind: Any, behaviour: Any, request_class: Any) -> grpc.RpcMethodHandler[Any, Any]:
    handler: grpc.RpcMethodHandler[Any, Any] = kind(
        behaviour,
        request_deserializer=request_class.FromString,
        response_serializer=lambda response: response.SerializeToString(),
    )
    return handler


async def fail(context: Any, http: int, code: grpc.StatusCode, reason: str) -> None:
    """End the call as the contract requires: no initial metadata, everything in the trailers."""
    error = {"message": "no \u00e9vidence", "code": reason, "status_code": http}
    status = status_pb2.Status(code=code.value[0], message="no")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="spotplane"))
    context.set_trailing_metadata(
        (
            ("grpc-status-details-bin", status.SerializeToString()),
            ("x-spotplane-http-status", str(http)),
            ("x-spotplane-error", json.dumps({"error": error})),
            ("retry-after", "7"),
            ("x-ratelimit-limit", "60"),
        )
    )
    await context.abort(code, "no")


@asynccontextmanager
async def grpc_server(backend: Backend) -> AsyncIterator[int]:
    """Serve the backend; yields the port."""
    server = aio.server(
        options=[
            ("grpc.max_receive_message_length", 32 * 1024 * 1024),
            ("grpc.max_metadata_size", 40 * 1024),
            ("grpc.absolute_max_metadata_size", 64 * 1024),
        ]
    )
    server.add_generic_rpc_handlers(tuple(backend.handlers()))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@asynccontextmanager
async def http_server() -> AsyncIterator[int]:
    """Run a substitute of the bridge that returns the request; yields the port."""

    async def tell(request: web.Request) -> web.Response:
        reported = {name.lower(): value for name, value in request.headers.items()}
        return web.json_response({"path": request.raw_path, "headers": reported})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", tell)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
