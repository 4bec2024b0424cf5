"""SavingsService: what agents cost, and how long they were away."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from spotplane.v1 import savings_pb2 as pb
from spotplane.v1 import savings_pb2_grpc

from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import tenant_scope, wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Conn, Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.savings import rules, store
from spotplane_server.savings.rules import Range
from spotplane_server.savings.store import Downtimes, Longest, Sum, mean

DAYS_SHOWN: Final = 30
_RANGES: Final[dict[str, Range]] = {name: name for name in rules.RANGES}
_BEGINNING: Final = datetime.fromisoformat("2000-01-01T00:00:00Z")


class SavingsService(savings_pb2_grpc.SavingsServiceServicer):
    """Answers from the ledger and from the record of switches."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def GetSavings(
        self, request: pb.GetSavingsRequest, context: Context
    ) -> pb.GetSavingsResponse:
        tenant_id = tenant_scope.required_tenant(request_context.current().caller, request)
        span = _RANGES[wire.optional_one_of(request, "range", _RANGES) or "monthly"]
        async with self._db.connection(tenant_id) as conn:
            await tenant_scope.check_tenant_exists(conn, tenant_id)
            periods = await self._periods(conn, tenant_id, span)
        return pb.GetSavingsResponse(periods=periods)

    async def GetCharts(
        self, request: pb.GetChartsRequest, context: Context
    ) -> pb.GetChartsResponse:
        tenant_id = tenant_scope.required_tenant(request_context.current().caller, request)
        days = rules.days(self._clock.now(), DAYS_SHOWN)
        async with self._db.connection(tenant_id) as conn:
            await tenant_scope.check_tenant_exists(conn, tenant_id)
            trend = await self._periods(conn, tenant_id, "monthly")
            modes = await store.count_modes(conn, tenant_id)
            switches = await store.count_switches(conn, tenant_id, since=days[0])
        return pb.GetChartsResponse(
            savings_trend=trend,
            mode_distribution=[pb.ModeCount(mode=m.mode, count=m.count) for m in modes],
            switch_frequency=[
                pb.DaySwitches(day_time=wire.timestamp(day), switch_count=switches.get(day, 0))
                for day in days
            ],
        )

    async def ExportSavings(
        self, request: pb.ExportSavingsRequest, context: Context
    ) -> pb.ExportSavingsResponse:
        tenant_id = tenant_scope.required_tenant(request_context.current().caller, request)
        async with self._db.connection(tenant_id) as conn:
            await tenant_scope.check_tenant_exists(conn, tenant_id)
            found = await store.sums(
                conn, tenant_id, "monthly", since=_BEGINNING, now=self._clock.now()
            )
        return pb.ExportSavingsResponse(rows=[_month(row) for row in _without_gaps(found)])

    async def GetDowntime(
        self, request: pb.GetDowntimeRequest, context: Context
    ) -> pb.GetDowntimeResponse:
        tenant_id = tenant_scope.required_tenant(request_context.current().caller, request)
        window = timedelta(days=wire.optional_integer(request, "days", 1, 365) or DAYS_SHOWN)
        now = self._clock.now()
        async with self._db.connection(tenant_id) as conn:
            await tenant_scope.check_tenant_exists(conn, tenant_id)
            found = await store.downtimes(conn, tenant_id, since=now - window, until=now)
            before = await store.downtimes(
                conn, tenant_id, since=now - 2 * window, until=now - window
            )
            longest = await store.find_longest(conn, tenant_id, since=now - window, until=now)
        return _downtime(found, before, longest)

    async def _periods(
        self, conn: Conn, tenant_id: TenantId, span: Range
    ) -> list[pb.SavingsPeriod]:
        now = self._clock.now()
        found = await store.sums(conn, tenant_id, span, since=rules.earliest(span, now), now=now)
        by_start = {row.start_at: row for row in found}
        starts = rules.periods(span, now, found[0].start_at if found else None)
        return [_period(span, by_start.get(start, Sum(start, 0, 0))) for start in starts]


def _period(span: Range, row: Sum) -> pb.SavingsPeriod:
    return pb.SavingsPeriod(
        name=rules.name(span, row.start_at),
        start_time=wire.timestamp(row.start_at),
        savings_nanousd=row.on_demand_nanousd - row.actual_nanousd,
        on_demand_nanousd=row.on_demand_nanousd,
        actual_nanousd=row.actual_nanousd,
    )


def _without_gaps(found: list[Sum]) -> list[Sum]:
    """Every month from the first to the last, those in which nothing ran included."""
    by_start = {row.start_at: row for row in found}
    filled = found[-1:]
    while filled and filled[-1].start_at > found[0].start_at:
        start = rules.before("monthly", filled[-1].start_at)
        filled.append(by_start.get(start, Sum(start, 0, 0)))
    return filled[::-1]


def _month(row: Sum) -> pb.SavingsMonth:
    return pb.SavingsMonth(
        year=row.start_at.year,
        month=row.start_at.month,
        month_name=rules.month_name(row.start_at),
        on_demand_nanousd=row.on_demand_nanousd,
        actual_nanousd=row.actual_nanousd,
        savings_nanousd=row.on_demand_nanousd - row.actual_nanousd,
    )


def _downtime(
    found: Downtimes, before: Downtimes, longest: Longest | None
) -> pb.GetDowntimeResponse:
    return pb.GetDowntimeResponse(
        switch_count=found.switches,
        successful_count=found.successful,
        failed_count=found.switches - found.successful,
        with_downtime_count=found.interrupting,
        without_downtime_count=found.successful - found.interrupting,
        total_seconds=found.total_seconds,
        mean_seconds=found.mean_seconds,
        p95_seconds=found.p95_seconds,
        min_seconds=found.min_seconds,
        max_seconds=found.max_seconds,
        automatic=_trigger(found.automatic, found.automatic_seconds),
        manual=_trigger(found.manual, found.manual_seconds),
        emergency=_trigger(found.emergency, found.emergency_seconds),
        longest=None if longest is None else _longest(longest),
        trend_percent=rules.percent_change(
            found.mean_seconds if found.successful else None, before.mean_seconds
        ),
    )


def _longest(found: Longest) -> pb.LongestDowntime:
    return pb.LongestDowntime(
        switch_id=str(found.id),
        downtime_seconds=found.downtime_seconds,
        initiated_at=wire.timestamp(found.initiated_at),
        reason=found.cause,
    )


def _trigger(count: int, total: int) -> pb.TriggerDowntime:
    return pb.TriggerDowntime(count=count, total_seconds=total, mean_seconds=mean(total, count))
