"""A call whose request does not arrive ends by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from spotplane_server.kernel import front

from tests.support.plane import Plane, refusal


@pytest.mark.parametrize("shape", ["stream_unary", "stream_stream"])
async def test_call_without_its_request_ends(plane: Plane, shape: str) -> None:
    """The client sends the headers only, as a method with a stream of requests lets it."""

    async def ignore(*_: Any) -> None:
        pass

    built = front.build(
        plane.server.kernel, refused=ignore, tell=ignore, traces=None, read_seconds=0.2
    )
    server = grpc.aio.server(interceptors=[built.gate])
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(10):
            name = "Check" if shape == "stream_unary" else "Watch"
            call = getattr(channel, shape)(f"/grpc.health.v1.Health/{name}")()
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await (call if shape == "stream_unary" else call.read())
            assert refusal(late.value).reason == "DEADLINE_EXCEEDED"

            # The connection serves on.
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest()
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        await server.stop(0)
