"""Builds the feature."""

from __future__ import annotations

from datetime import timedelta

from spotplane.v1 import fleet_pb2_grpc

from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.sessions.registry import Sessions
from spotplane_server.fleet.hooks import Standby
from spotplane_server.fleet.jobs import DowntimeJob, ZombieReportJob
from spotplane_server.fleet.service import FleetService
from spotplane_server.kernel.jobs.retention import Rule
from spotplane_server.kernel.module import AppContext, FeatureModule


def assemble(
    kernel: AppContext, ledger: Ledger, sessions: Sessions, standby: Standby
) -> FeatureModule:
    """Build the feature's services and jobs."""
    service = FleetService(kernel.db, kernel.clock, kernel.tokens, ledger, sessions, standby)
    return FeatureModule(
        services=[(fleet_pb2_grpc.add_FleetServiceServicer_to_server, service)],
        jobs=[ZombieReportJob(kernel.db), DowntimeJob(kernel.db)],
        retention=[Rule("cleanup_reports", "created_at", timedelta(days=90))],
    )
