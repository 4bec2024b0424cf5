"""Builds the feature."""

from __future__ import annotations

from spotplane.v1 import savings_pb2_grpc

from spotplane_server.kernel.module import AppContext, FeatureModule
from spotplane_server.savings.jobs import SavingsJob
from spotplane_server.savings.service import SavingsService


def assemble(kernel: AppContext) -> FeatureModule:
    """Build the feature's services and jobs."""
    service = SavingsService(kernel.db, kernel.clock)
    return FeatureModule(
        services=[(savings_pb2_grpc.add_SavingsServiceServicer_to_server, service)],
        jobs=[SavingsJob(kernel.db)],
    )
