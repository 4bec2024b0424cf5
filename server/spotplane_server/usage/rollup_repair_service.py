"""UsageService: verifying and rebuilding rollups, for operators."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, TypeAlias

import grpc.aio
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from spotplane_server import audit
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Database, retry_on_serialization_failure
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.tenants import store as tenants
from spotplane_server.usage import rollup_repair, time_windows
from spotplane_server.usage.rollup_repair import WrongRollups
from spotplane_server.usage.time_windows import DAY, Window

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class RollupRepairHandlers(usage_pb2_grpc.UsageServiceServicer):
    """Handlers; the proto comments are their contract."""

    _db: Database
    _clock: Clock

    async def VerifyRollups(
        self, request: pb.VerifyRollupsRequest, context: Context
    ) -> pb.VerifyRollupsResponse:
        now = self._clock.now()
        tenant_id, days = await self._days(request, now)
        wrong = WrongRollups()
        for day in days:
            async with self._db.transaction(
                tenant_id, isolation="repeatable_read", readonly=True
            ) as conn:
                wrong += await rollup_repair.count_wrong(conn, tenant_id, day, now)
        return pb.VerifyRollupsResponse(
            days=len(days),
            wrong_hours=wrong.hours,
            wrong_days=wrong.days,
            wrong_minutes=wrong.minutes,
        )

    async def RefreshRollups(
        self, request: pb.RefreshRollupsRequest, context: Context
    ) -> pb.RefreshRollupsResponse:
        now = self._clock.now()
        tenant_id, days = await self._days(request, now)
        rebuilt = 0
        for day in days:
            rebuilt += await self._rebuild(tenant_id, day, now)
        return pb.RefreshRollupsResponse(days=len(days), mended=rebuilt)

    async def _rebuild(self, tenant_id: TenantId, day: Window, now: datetime) -> int:
        async def once() -> int:
            # A rebuild needs a snapshot of its own and may be repeated.
            async with self._db.transaction(
                tenant_id, isolation="repeatable_read", is_independent=True
            ) as conn:
                rebuilt = await rollup_repair.rebuild(conn, tenant_id, day, now)
                change = audit.Change(
                    "usage.refresh_rollups",
                    "usage",
                    day.start.date().isoformat(),
                    tenant_id,
                    after={"mended": rebuilt},
                )
                await audit.record(conn, request_context.current(), change, now)
                return rebuilt

        return await retry_on_serialization_failure(once)

    async def _days(
        self, request: pb.VerifyRollupsRequest | pb.RefreshRollupsRequest, now: datetime
    ) -> tuple[TenantId, list[Window]]:
        tenant_id = TenantId(wire.uuid(request.tenant_id, "tenant_id", "tenant ID"))
        window = time_windows.read(request, now)
        time_windows.check_exact(window.whole_days, now, days=time_windows.MAX_REBUILT_DAYS)
        async with self._db.connection(tenant_id) as conn:
            await tenants.get_tenant(conn, tenant_id)
        return tenant_id, list(_each_day(window.whole_days))


def _each_day(window: Window) -> Iterator[Window]:
    start = window.start
    while start < window.end:
        yield Window(start, start + DAY)
        start += DAY
