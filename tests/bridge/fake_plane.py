"""A small real gRPC server that returns every kind of success and error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.api import httpbody_pb2
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health
from spotplane.v1 import (
    caller_pb2,
    caller_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    region_pb2,
    region_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

Context = Any


@dataclass
class Received:
    """One call as it arrived."""

    request: Message
    metadata: dict[str, str]
    seconds_left: float | None


@dataclass
class FakePlane:
    """Records calls; the tenant's id selects an error."""

    target: str = ""
    health: health.HealthServicer = field(default_factory=health.HealthServicer)
    calls: list[Received] = field(default_factory=list)
    exports_open: int = 0
    verified: int = 0
    held: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, request: Message, context: Context) -> None:
        metadata = dict(iter(context.invocation_metadata()))
        self.calls.append(Received(request, metadata, context.time_remaining()))


class Tenants(tenant_pb2_grpc.TenantServiceServicer):
    def __init__(self, plane: FakePlane) -> None:
        self._plane = plane

    async def CreateTenant(self, request: Any, context: Context) -> Any:
        self._plane.note(request, context)
        await context.send_initial_metadata(
            (
                ("x-spotplane-http-status", "201"),
                ("x-spotplane-secret", "never"),
                ("x-ratelimit-limit", "600"),
                ("x-ratelimit-remaining", "599"),
                ("x-ratelimit-reset", "1772366400"),
            )
        )
        return tenant_pb2.Tenant(
            name=request.name, metadata=request.metadata, total_spend_nanos=2**62
        )

    async def ListTenants(self, request: Any, context: Context) -> Any:
        self._plane.note(request, context)
        return tenant_pb2.ListTenantsResponse()

    async def GetTenant(self, request: Any, context: Context) -> Any:
        self._plane.note(request, context)
        fail = getattr(self, f"_{request.id}", None)
        if fail is not None:
            await fail(context)
        return tenant_pb2.Tenant(id=request.id)

    async def DeleteTenant(self, request: Any, context: Context) -> Any:
        self._plane.note(request, context)
        await context.send_initial_metadata((("x-spotplane-http-status", "204"),))
        return tenant_pb2.DeleteTenantResponse(status="deleted")

    async def ExportTenant(self, request: Any, context: Context) -> AsyncIterator[Any]:
        self._plane.note(request, context)
        if request.id == "refused":
            await _abort_with_line(context, 404, "TENANT_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
        await context.send_initial_metadata(
            (("content-disposition", 'attachment; filename="t.zip"'),)
        )
        self._plane.exports_open += 1
        try:
            for number in range(3):
                yield httpbody_pb2.HttpBody(
                    content_type="application/zip", data=f"part{number};".encode()
                )
                if request.id == "broken" and number == 1:
                    await context.abort(grpc.StatusCode.INTERNAL, "disk /var/lib/secret is full")
            while request.id == "endless":
                yield httpbody_pb2.HttpBody(data=b"x" * 65536)
        finally:
            self._plane.exports_open -= 1

    async def _line(self, context: Context) -> None:
        await _abort_with_line(
            context, 422, "SEMANTIC", grpc.StatusCode.INVALID_ARGUMENT, retry=("retry-after", "7")
        )

    async def _status(self, context: Context) -> None:
        info = error_details_pb2.ErrorInfo(
            reason="TENANT_LIMIT",
            domain="spotplane",
            metadata={"http_status": "429", "suggestion": "slow down"},
        )
        bad = error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field="id", description="too often")
            ]
        )
        retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=1))
        status = status_pb2.Status(code=8, message="the tenant's budget is used up")
        for detail in (info, bad, retry):
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        context.set_trailing_metadata(
            (
                ("grpc-status-details-bin", status.SerializeToString()),
                ("x-ratelimit-remaining", "0"),
                ("x-spotplane-secret", "never"),
            )
        )
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, status.message)

    async def _bare(self, context: Context) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, "password=hunter2 at db.internal:5432")

    async def _crash(self, _context: Context) -> None:
        raise RuntimeError("password=hunter2")

    async def _garbled(self, context: Context) -> None:
        context.set_trailing_metadata(
            (("x-spotplane-error", "{not json"), ("grpc-status-details-bin", b"\xff\xff"))
        )
        await context.abort(grpc.StatusCode.NOT_FOUND, "no")

    async def _slow(self, _context: Context) -> None:
        await asyncio.Event().wait()

    async def _held(self, _context: Context) -> None:
        self._plane.held.set()
        await self._plane.release.wait()


class Regions(region_pb2_grpc.RegionServiceServicer):
    def __init__(self, plane: FakePlane) -> None:
        self._plane = plane

    async def ListRegionsFlat(self, request: Any, context: Context) -> Any:
        self._plane.note(request, context)
        await context.send_initial_metadata((("x-total-count", "1"), ("link", "<next>")))
        return httpbody_pb2.HttpBody(content_type="application/json", data=b'[{"code":"us-east"}]')

    async def GetRegion(self, request: Any, context: Context) -> Any:
        self._plane.note(request, context)
        return region_pb2.Region(id=request.id)


class Models(model_pb2_grpc.ModelServiceServicer):
    def __init__(self, plane: FakePlane) -> None:
        self._plane = plane

    async def GetModel(self, request: Any, context: Context) -> Any:
        self._plane.note(request, context)
        return model_pb2.Model(id=request.id)


class Callers(caller_pb2_grpc.CallerServiceServicer):
    def __init__(self, plane: FakePlane) -> None:
        self._plane = plane

    async def ValidateCaller(self, request: Any, context: Context) -> Any:
        metadata = dict(iter(context.invocation_metadata()))
        self._plane.verified += 1
        match metadata.get("authorization", "").removeprefix("Bearer "):
            case "other-role":
                await _abort_with_line(
                    context, 403, "ROLE_FORBIDDEN", grpc.StatusCode.PERMISSION_DENIED
                )
            case "suspended":
                await _abort_with_line(
                    context, 403, "KEY_SUSPENDED", grpc.StatusCode.PERMISSION_DENIED
                )
        return caller_pb2.ValidateCallerResponse()


class Usage(usage_pb2_grpc.UsageServiceServicer):
    def __init__(self, plane: FakePlane) -> None:
        self._plane = plane

    async def GetUsageByHour(self, request: Any, context: Context) -> Any:
        self._plane.note(request, context)
        return usage_pb2.GetUsageByHourResponse(hours=request.hours)

    async def IngestUsageBatch(self, request: Any, context: Context) -> Any:
        self._plane.note(request, context)
        return usage_pb2.IngestUsageBatchResponse(accepted=len(request.records))


async def _abort_with_line(
    context: Context,
    http_status: int,
    code: str,
    status: grpc.StatusCode,
    retry: tuple[str, str] | None = None,
) -> None:
    error = {
        "message": "start is after end",
        "type": "validation_error",
        "code": code,
        "category": "validation",
        "status_code": http_status,
        "correlation_id": "of-the-server",
        "suggestion": "swap them",
        "details": [{"field": "start_date", "description": "after end_date"}],
    }
    trailing = [
        ("x-spotplane-http-status", str(http_status)),
        ("x-spotplane-error", json.dumps({"error": error})),
        *([retry] if retry else []),
    ]
    context.set_trailing_metadata(tuple(trailing))
    await context.abort(status, "start is after end")


@asynccontextmanager
async def fake_plane(port: int = 0) -> AsyncIterator[FakePlane]:
    """Run the server while the block runs."""
    plane = FakePlane()
    server = grpc.aio.server()
    # Missing methods of a servicer return UNIMPLEMENTED; the stubs require all of them.
    tenant_pb2_grpc.add_TenantServiceServicer_to_server(Tenants(plane), server)  # type: ignore[abstract]
    region_pb2_grpc.add_RegionServiceServicer_to_server(Regions(plane), server)  # type: ignore[abstract]
    model_pb2_grpc.add_ModelServiceServicer_to_server(Models(plane), server)  # type: ignore[abstract]
    caller_pb2_grpc.add_CallerServiceServicer_to_server(Callers(plane), server)  # type: ignore[abstract]
    usage_pb2_grpc.add_UsageServiceServicer_to_server(Usage(plane), server)  # type: ignore[abstract]
    health_pb2_grpc.add_HealthServicer_to_server(plane.health, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    plane.target = f"127.0.0.1:{bound}"
    await server.start()
    try:
        yield plane
    finally:
        await server.stop(0)
