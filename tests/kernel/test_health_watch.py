"""Health watch: its handler writes the responses itself, unlike the handlers of other streams."""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.plane import Plane

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_watch_reports_changes_of_health(plane: Plane) -> None:
    watch = health_pb2_grpc.HealthStub(plane.channel).Watch(health_pb2.HealthCheckRequest())
    async with asyncio.timeout(10):
        while (await watch.read()).status != SERVING:
            pass
        await plane.server.leave_balancing()
        assert (await watch.read()).status == NOT_SERVING
    watch.cancel()
