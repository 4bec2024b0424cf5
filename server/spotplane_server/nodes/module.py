"""Builds the feature."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from spotplane.v1 import node_pb2_grpc

from spotplane_server.kernel.jobs.retention import Rule
from spotplane_server.kernel.module import AppContext, FeatureModule
from spotplane_server.nodes import logs_store
from spotplane_server.nodes.bells import Bells
from spotplane_server.nodes.jobs import FiguresJob, OverdueJob, SilenceJob
from spotplane_server.nodes.service import NodeService

RETENTION: Final = (
    # As long as the usage records that may name a node; its operations go with it.
    Rule("nodes", "terminated_at", timedelta(days=400)),
    Rule("node_logs", "logged_at", logs_store.KEPT_FOR),
)


def assemble(kernel: AppContext) -> FeatureModule:
    """Build the feature's service and jobs."""
    work, lines = Bells(kernel.wakeups, "node-work"), Bells(kernel.wakeups, "node-lines")
    service = NodeService(
        kernel.db, kernel.clock, kernel.tokens, kernel.config, work=work, lines=lines
    )
    return FeatureModule(
        services=[(node_pb2_grpc.add_NodeServiceServicer_to_server, service)],
        jobs=[SilenceJob(kernel.db, work), OverdueJob(kernel.db, work), FiguresJob(kernel.db)],
        retention=RETENTION,
    )
