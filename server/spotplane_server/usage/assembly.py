"""Builds the feature."""

from __future__ import annotations

import hashlib
from typing import Final

from spotplane.v1 import usage_pb2_grpc

from spotplane_server.kernel.caches import Kept
from spotplane_server.kernel.parts import Kernel, Parts
from spotplane_server.usage import dead_letters
from spotplane_server.usage.intake import Intake
from spotplane_server.usage.jobs import RequestIdRetention
from spotplane_server.usage.reading import LIFETIME, Reading
from spotplane_server.usage.service import UsageService
from spotplane_server.usage.shared import SharedAnswers

MIB: Final = 1024 * 1024


def assemble(kernel: Kernel, intake: Intake) -> Parts:
    """Build the feature's service and jobs."""
    # Keeping none here means keeping none.
    shared = _shared(kernel) if kernel.config.analytics_cache_mib else None
    reading = Reading(
        kernel.db,
        kernel.clock,
        Kept(kernel.config.analytics_cache_mib * MIB, LIFETIME),
        kernel.replica,
        shared,
    )
    service = UsageService(kernel.db, reading, kernel.clock, kernel.tokens, intake)
    return Parts(
        services=[(usage_pb2_grpc.add_UsageServiceServicer_to_server, service)],
        jobs=[RequestIdRetention(kernel.db)],
        background=[intake.taken.run],
        retention=dead_letters.RETENTION,
    )


def _shared(kernel: Kernel) -> SharedAnswers | None:
    if kernel.redis is None:
        return None
    # Sealed by a secret of the database: planes that share a Redis read nothing of each other.
    plane = kernel.tokens.seal("usage answers", [])
    return SharedAnswers(kernel.redis, hashlib.sha256(plane.encode()).digest())
