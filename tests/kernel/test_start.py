"""The server starts and says so."""

from __future__ import annotations

from typing import Final

import asyncpg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from spotplane_server.app import Server

from tests.support.eventually import eventually
from tests.support.plane import Plane, config

CONNECTED: Final = """
    SELECT count(*)
      FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'spotplane'
"""


async def test_server_reports_serving_once_its_database_is_ready(plane: Plane) -> None:
    """Health turns to SERVING without help."""
    stub = health_pb2_grpc.HealthStub(plane.channel)

    async def serving() -> bool:
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    assert await eventually(serving)


async def test_a_server_that_cannot_start_leaves_nothing_open(database_url: str) -> None:
    """What was opened until then is closed; here there is no such address to listen on."""
    owner = await asyncpg.connect(database_url)
    with pytest.raises(RuntimeError):
        await Server.start(config(database_url, host="192.0.2.1"))

    async def gone() -> bool:
        return bool(await owner.fetchval(CONNECTED) == 0)

    assert await eventually(gone)
    await owner.close()
