"""The plane's health as administrators see it."""

from __future__ import annotations

import pytest
from spotplane.v1 import insight_pb2 as pb
from spotplane.v1 import insight_pb2_grpc
from spotplane_server.decisions.engines.hedge import HedgeEngine
from spotplane_server.decisions.engines.risk import PriceAndRisk
from spotplane_server.decisions.engines.rules import BuiltInRules

from tests.support.eventually import eventually
from tests.support.plane import ADMIN, running


@pytest.mark.parametrize("engine", [BuiltInRules, PriceAndRisk, HedgeEngine])
async def test_the_engine_is_the_one_that_decides(
    database_url: str, engine: type[BuiltInRules | PriceAndRisk | HedgeEngine]
) -> None:
    async with running(database_url, decision_engine=engine.name) as plane:
        stub = insight_pb2_grpc.InsightServiceStub(plane.channel)

        async def reported() -> bool:
            health = await stub.GetSystemHealth(pb.GetSystemHealthRequest(), metadata=ADMIN)
            return (health.engine_name, health.engine_version, health.engine_loaded) == (
                engine.name,
                engine.version,
                True,
            )

        await eventually(reported)
