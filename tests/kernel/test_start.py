"""The server starts and says so."""

from __future__ import annotations

from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.eventually import eventually
from tests.support.plane import Plane


async def test_server_reports_serving_once_its_database_is_ready(plane: Plane) -> None:
    """Health turns to SERVING without help."""
    stub = health_pb2_grpc.HealthStub(plane.channel)

    async def serving() -> bool:
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    assert await eventually(serving)
