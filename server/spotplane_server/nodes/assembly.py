"""Builds the feature."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from spotplane.v1 import node_pb2_grpc

from spotplane_server.kernel.parts import Kernel, Parts
from spotplane_server.kernel.retention import Rule
from spotplane_server.nodes.service import NodeService

# As long as the usage records that may name a node.
RETENTION: Final = (Rule("nodes", "terminated_at", timedelta(days=400)),)


def assemble(kernel: Kernel) -> Parts:
    """Build the feature's service and jobs."""
    service = NodeService(kernel.db, kernel.clock, kernel.tokens)
    return Parts(
        services=[(node_pb2_grpc.add_NodeServiceServicer_to_server, service)],
        retention=RETENTION,
    )
