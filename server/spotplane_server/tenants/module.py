"""Assembly of the feature: its services and jobs."""

from __future__ import annotations

from datetime import timedelta

from spotplane.v1 import api_key_pb2_grpc, caller_pb2_grpc, tenant_pb2_grpc

from spotplane_server.kernel.auth.encryption import SecretBox
from spotplane_server.kernel.jobs.retention import Rule
from spotplane_server.kernel.module import AppContext, FeatureModule
from spotplane_server.kernel.rpc import idempotency
from spotplane_server.tenants.callers_service import CallerService
from spotplane_server.tenants.clients_service import ClientSettings
from spotplane_server.tenants.export import Exporter
from spotplane_server.tenants.jobs import EscrowJob, LastUsedJob, TenantMetricsJob
from spotplane_server.tenants.keys_service import ApiKeyService, KeyDefaults
from spotplane_server.tenants.service import TenantService


def assemble(kernel: AppContext) -> FeatureModule:
    """Build the feature's services and jobs."""
    config, common = kernel.config, (kernel.db, kernel.clock, kernel.tokens)
    box = None if config.token_escrow_key is None else SecretBox(config.token_escrow_key)
    settings = ClientSettings(
        config.default_region_code, config.key_default_rpm, config.key_default_concurrency, box
    )
    tenants = TenantService(*common, Exporter(kernel.db), settings=settings)
    keys = ApiKeyService(
        *common, defaults=KeyDefaults(config.key_default_rpm, config.key_default_concurrency)
    )
    callers = CallerService(kernel.db, kernel.clock, kernel.tickets)
    return FeatureModule(
        services=[
            (tenant_pb2_grpc.add_TenantServiceServicer_to_server, tenants),
            (api_key_pb2_grpc.add_ApiKeyServiceServicer_to_server, keys),
            (caller_pb2_grpc.add_CallerServiceServicer_to_server, callers),
        ],
        jobs=[
            LastUsedJob(kernel.db, kernel.auth),
            TenantMetricsJob(kernel.db),
            EscrowJob(kernel.db, keeps=box is not None),
        ],
        retention=[
            Rule("idempotency_keys", "created_at", idempotency.KEEP),
            Rule("tickets", "expires_at", timedelta(days=1)),
        ],
    )
