"""Assembly of the feature: its services and jobs."""

from __future__ import annotations

from datetime import timedelta

from spotplane.v1 import budget_pb2_grpc

from spotplane_server.kernel.jobs.retention import Rule
from spotplane_server.kernel.module import AppContext, FeatureModule
from spotplane_server.spending.jobs import BudgetsJob
from spotplane_server.spending.service import BudgetService


def assemble(kernel: AppContext) -> FeatureModule:
    """Build the feature's service and job."""
    service = BudgetService(kernel.db, kernel.clock, kernel.tokens)
    return FeatureModule(
        services=[(budget_pb2_grpc.add_BudgetServiceServicer_to_server, service)],
        jobs=[BudgetsJob(kernel.db)],
        retention=[Rule("spend_budget_crossings", "crossed_at", timedelta(days=400))],
    )
