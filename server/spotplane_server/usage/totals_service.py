"""The part of UsageService that tells totals and series of a tenant's own usage."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeAlias, cast

import grpc.aio
from google.api import httpbody_pb2
from google.protobuf.message import Message
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from spotplane_server.kernel import calls, flat, paging, wire
from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import Conn, Database
from spotplane_server.kernel.paging import PageTokens
from spotplane_server.tenants.errors import TenantNotFound
from spotplane_server.tenants.store import find_tenant
from spotplane_server.usage import total_answers as answers
from spotplane_server.usage import totals, windows
from spotplane_server.usage.totals import ModelTotal
from spotplane_server.usage.windows import Unit, Window

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

MAX_HOURS: Final = 168
FILLS: Final = ("zero", "none")
GRANULARITIES: Final = ("day", "hour", "month")


class TotalsHandlers(usage_pb2_grpc.UsageServiceServicer):
    """Handlers; the proto comments are their contract."""

    _db: Database
    _clock: Clock
    _tokens: PageTokens

    async def GetUsageSummary(
        self, request: pb.GetUsageSummaryRequest, context: Context
    ) -> pb.GetUsageSummaryResponse:
        asked, found = await self._by_model(request)
        of = totals.together(found).sums
        return pb.GetUsageSummaryResponse(
            total_tokens=of["total_tokens"],
            total_requests=of["requests"],
            by_model=[answers.summary(total) for total in found],
            **answers.cost(of["cost_nanos"], "total_cost"),
            **answers.echo(asked, asked.whole_hours),
        )

    async def ListUsageByModel(
        self, request: pb.ListUsageByModelRequest, context: Context
    ) -> pb.ListUsageByModelResponse:
        asked, found = await self._by_model(request)
        return pb.ListUsageByModelResponse(
            data=[answers.model_row(total) for total in found],
            **answers.echo(asked, asked.whole_hours),
        )

    async def ListUsageByKey(
        self, request: pb.ListUsageByKeyRequest, context: Context
    ) -> pb.ListUsageByKeyResponse:
        tenant_id = own_tenant()
        asked = windows.read(request, self._clock.now())
        async with self._db.read(tenant_id) as conn:
            rows = await totals.sum_keys(conn, tenant_id, asked.whole_hours)
        return pb.ListUsageByKeyResponse(
            data=[answers.key_row(row) for row in rows], **answers.echo(asked, asked.whole_hours)
        )

    async def ListUsageByDate(
        self, request: pb.ListUsageByDateRequest, context: Context
    ) -> pb.ListUsageByDateResponse:
        tenant_id = own_tenant()
        asked = windows.read(request, self._clock.now())
        name = wire.optional_one_of(request, "granularity", GRANULARITIES) or "day"
        unit, fill = cast("Unit", name), filled(request)
        window = asked.whole_hours
        async with self._db.read(tenant_id) as conn:
            sums = await totals.sum_periods(conn, tenant_id, window, unit)
        return pb.ListUsageByDateResponse(
            granularity=name,
            data=answers.date_rows(windows.touched(window, unit), sums, fill=fill),
            **answers.echo(asked, window),
        )

    async def GetUsageByHour(
        self, request: pb.GetUsageByHourRequest, context: Context
    ) -> pb.GetUsageByHourResponse:
        count = wire.optional_integer(request, "hours", 1, MAX_HOURS) or 24
        rows, span = await self._series(request, count, "hour")
        data = [
            pb.GetUsageByHourResponse.Row(hour=wire.timestamp(start), **row) for start, row in rows
        ]
        return pb.GetUsageByHourResponse(hours=count, data=data, **span)

    async def GetUsageByDay(
        self, request: pb.GetUsageByDayRequest, context: Context
    ) -> pb.GetUsageByDayResponse:
        count = wire.optional_integer(request, "days", 1, 90) or 30
        rows, span = await self._series(request, count, "day")
        data = [
            pb.GetUsageByDayResponse.Row(day=wire.timestamp(start), **row) for start, row in rows
        ]
        return pb.GetUsageByDayResponse(days=count, data=data, **span)

    async def GetUsageByWeek(
        self, request: pb.GetUsageByWeekRequest, context: Context
    ) -> pb.GetUsageByWeekResponse:
        count = wire.optional_integer(request, "weeks", 1, 52) or 12
        rows, span = await self._series(request, count, "week", compared=True)
        data = [
            pb.GetUsageByWeekResponse.Row(week_start=wire.timestamp(start), **row)
            for start, row in rows
        ]
        return pb.GetUsageByWeekResponse(weeks=count, data=data, **span)

    async def GetUsageByMonth(
        self, request: pb.GetUsageByMonthRequest, context: Context
    ) -> pb.GetUsageByMonthResponse:
        count = wire.optional_integer(request, "months", 1, 24) or 12
        rows, span = await self._series(request, count, "month")
        data = [
            pb.GetUsageByMonthResponse.Row(month=wire.timestamp(start), **row)
            for start, row in rows
        ]
        return pb.GetUsageByMonthResponse(months=count, data=data, **span)

    async def ListHourlyUsage(
        self, request: pb.ListHourlyUsageRequest, context: Context
    ) -> pb.ListHourlyUsageResponse:
        return await self._hours(request)

    async def ListHourlyUsageFlat(
        self, request: pb.ListHourlyUsageRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        found = await self._hours(request)
        return flat.answer(found.data, found.pagination, envelope=request.envelope)

    async def _by_model(self, request: Message) -> tuple[Window, list[ModelTotal]]:
        tenant_id = own_tenant()
        asked = windows.read(request, self._clock.now())
        async with self._db.read(tenant_id) as conn:
            found = await totals.sum_models(
                conn, tenant_id, asked.whole_hours, order="total_tokens"
            )
        return asked, found

    async def _series(
        self, request: Message, count: int, unit: Unit, *, compared: bool = False
    ) -> tuple[list[tuple[datetime, dict[str, Any]]], dict[str, Any]]:
        tenant_id, now, fill = own_tenant(), self._clock.now(), filled(request)
        starts = windows.last(count, unit, now)
        before: Callable[[datetime], datetime] = lambda start: windows.step(start, unit, -1)  # noqa: E731
        first = before(starts[0]) if compared else starts[0]
        window = Window(first, windows.step(starts[-1], unit, 1))
        async with self._db.read(tenant_id) as conn:
            sums = await totals.sum_periods(conn, tenant_id, window, unit)
        rows = answers.period_rows(starts, sums, current=starts[-1], fill=fill)
        if compared:
            rows = [
                (start, row | answers.changes(sums, start, before(start))) for start, row in rows
            ]
        return rows, {
            "start_date": wire.timestamp(starts[0]),
            "end_date": wire.timestamp(now),
        }

    async def _hours(self, request: pb.ListHourlyUsageRequest) -> pb.ListHourlyUsageResponse:
        tenant_id = TenantId(wire.uuid(request.tenant_id, "tenant_id", "tenant ID"))
        page = paging.read(
            request,
            self._tokens,
            default=MAX_HOURS,
            maximum=MAX_HOURS,
            filters={"tenant_id": tenant_id},
        )
        before = datetime.fromisoformat(page.after[0]) if page.after else None
        async with self._db.read(tenant_id) as conn:
            await check_tenant(conn, tenant_id)
            rows, total = await totals.list_hours(conn, tenant_id, before, page.limit)
        rows, pagination = paging.answer(
            page, paging.Slice(rows, total), self._tokens, lambda row: [row["hour"]]
        )
        return pb.ListHourlyUsageResponse(
            data=[answers.hourly(tenant_id, row) for row in rows], pagination=pagination
        )


def own_tenant() -> TenantId:
    """The caller's.

    Raises:
        LookupError: The policy table let a caller without a tenant through.
    """
    tenant_id = calls.current().caller.tenant_id
    if tenant_id is None:
        raise LookupError("the policy table let a caller without a tenant through")
    return tenant_id


async def check_tenant(conn: Conn, tenant_id: TenantId) -> None:
    """Hold a path to a tenant that exists.

    Raises:
        TenantNotFound: It does not.
    """
    if await find_tenant(conn, tenant_id) is None:
        raise TenantNotFound(tenant_id)


def filled(request: Message) -> bool:
    """Whether a series has rows for periods without traffic."""
    return (wire.optional_one_of(request, "fill", FILLS) or "zero") == "zero"
