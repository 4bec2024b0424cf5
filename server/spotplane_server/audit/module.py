"""Builds the feature."""

from __future__ import annotations

from spotplane.v1 import audit_pb2_grpc

from spotplane_server.audit.service import AuditService
from spotplane_server.kernel.module import Kernel, Parts


def assemble(kernel: Kernel) -> Parts:
    """Build the feature's service."""
    service = AuditService(kernel.db, kernel.clock, kernel.tokens)
    return Parts(services=[(audit_pb2_grpc.add_AuditServiceServicer_to_server, service)])
