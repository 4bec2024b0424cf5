"""What callers may not do is kept."""

from __future__ import annotations

from typing import Any

from spotplane.v1 import region_pb2, region_pb2_grpc
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.support.plane import Plane, refused


async def test_refused_call_leaves_one_audit_row_a_minute(plane: Plane) -> None:
    """A tenant's key on an administrator's method; trying again at once adds nothing."""
    tenant = await plane.tenant(role="agent")
    stub: Any = region_pb2_grpc.RegionServiceStub(plane.channel)
    usage: Any = plane.channel.unary_unary("/spotplane.v1.UsageService/GetUsageByHour")
    for _ in range(2):
        async with refused("ROLE_FORBIDDEN"):
            await usage(b"", metadata=tenant.metadata)
    async with refused("ADMIN_TOKEN_MISSING"):
        await stub.GetRegion(region_pb2.GetRegionRequest(id="x"), metadata=tenant.metadata)

    async with plane.db.connection(ALL_TENANTS) as conn:
        rows = await conn.fetch("SELECT resource_id FROM audit_logs WHERE result = 'failure'")
    assert [row["resource_id"] for row in rows] == ["/spotplane.v1.UsageService/GetUsageByHour"]
