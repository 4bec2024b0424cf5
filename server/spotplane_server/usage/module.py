"""Wiring of the usage feature."""

from __future__ import annotations

import hashlib
from typing import Final

from spotplane.v1 import usage_pb2_grpc

from spotplane_server.kernel.caches import TTLCache
from spotplane_server.kernel.module import AppContext, FeatureModule
from spotplane_server.usage import dead_letters
from spotplane_server.usage.cached_queries import LIFETIME, CachedQueries
from spotplane_server.usage.intake import Intake
from spotplane_server.usage.jobs import RequestIdRetention
from spotplane_server.usage.redis_cache import RedisCache
from spotplane_server.usage.service import UsageService

MIB: Final = 1024 * 1024


def assemble(kernel: AppContext, intake: Intake) -> FeatureModule:
    """Build the feature's service and jobs."""
    # Disabling the cache of the process disables the shared one too.
    shared_cache = _redis_cache(kernel) if kernel.config.analytics_cache_mib else None
    queries = CachedQueries(
        kernel.db,
        kernel.clock,
        TTLCache(kernel.config.analytics_cache_mib * MIB, LIFETIME),
        kernel.replica,
        shared_cache,
    )
    service = UsageService(kernel.db, queries, kernel.clock, kernel.tokens, intake)
    return FeatureModule(
        services=[(usage_pb2_grpc.add_UsageServiceServicer_to_server, service)],
        jobs=[RequestIdRetention(kernel.db)],
        background=[intake.taken.run],
        retention=dead_letters.RETENTION,
    )


def _redis_cache(kernel: AppContext) -> RedisCache | None:
    if kernel.redis is None:
        return None
    # Derived from a secret of the database: installations that share a Redis cannot read each
    # other's results.
    namespace = kernel.tokens.seal("usage answers", [])
    return RedisCache(kernel.redis, hashlib.sha256(namespace.encode()).digest())
