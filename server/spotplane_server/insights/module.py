"""Builds the feature."""

from __future__ import annotations

from spotplane.v1 import insight_pb2_grpc

from spotplane_server.decisions.engine_registry import Panel
from spotplane_server.insights.jobs import ActivityJob
from spotplane_server.insights.service import InsightService
from spotplane_server.kernel.module import AppContext, FeatureModule


def assemble(kernel: AppContext, panel: Panel) -> FeatureModule:
    """Build the feature's services and jobs."""
    service = InsightService(
        kernel.db, kernel.clock, kernel.tokens, panel, connections=kernel.config.db_pool_size
    )
    return FeatureModule(
        services=[(insight_pb2_grpc.add_InsightServiceServicer_to_server, service)],
        jobs=[ActivityJob(kernel.db)],
    )
