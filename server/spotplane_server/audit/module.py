"""Feature module of the audit log."""

from __future__ import annotations

from spotplane.v1 import audit_pb2_grpc

from spotplane_server.audit.service import AuditService
from spotplane_server.kernel.module import AppContext, FeatureModule


def assemble(kernel: AppContext) -> FeatureModule:
    """Build the feature's service."""
    service = AuditService(kernel.db, kernel.clock, kernel.tokens)
    return FeatureModule(services=[(audit_pb2_grpc.add_AuditServiceServicer_to_server, service)])
