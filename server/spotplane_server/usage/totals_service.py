"""The part of UsageService that tells totals and series of a tenant's own usage."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar, cast

import grpc.aio
from google.api import httpbody_pb2
from google.protobuf.message import Message
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from spotplane_server.kernel import calls, flat, paging, wire
from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import Conn
from spotplane_server.kernel.paging import PageTokens
from spotplane_server.usage import total_answers as answers
from spotplane_server.usage import totals, windows
from spotplane_server.usage.reading import Question, Reading
from spotplane_server.usage.totals import ModelTotal
from spotplane_server.usage.windows import Unit, Window

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
# Periods, each with what its row tells.
Series: TypeAlias = list[tuple[datetime, dict[str, Any]]]
M = TypeVar("M", bound=Message)

MAX_HOURS: Final = 168
FILLS: Final = ("zero", "none")
GRANULARITIES: Final = ("day", "hour", "month")


class TotalsHandlers(usage_pb2_grpc.UsageServiceServicer):
    """Handlers; the proto comments are their contract."""

    _reading: Reading
    _clock: Clock
    _tokens: PageTokens

    async def GetUsageSummary(
        self, request: pb.GetUsageSummaryRequest, context: Context
    ) -> pb.GetUsageSummaryResponse:
        def tell(found: list[ModelTotal]) -> pb.GetUsageSummaryResponse:
            of = totals.together(found).sums
            return pb.GetUsageSummaryResponse(
                total_tokens=of["total_tokens"],
                total_requests=of["requests"],
                by_model=[answers.summary(total) for total in found],
                **answers.cost(of["cost_nanos"], "total_cost"),
            )

        return await self._by_model(request, pb.GetUsageSummaryResponse, tell)

    async def ListUsageByModel(
        self, request: pb.ListUsageByModelRequest, context: Context
    ) -> pb.ListUsageByModelResponse:
        def tell(found: list[ModelTotal]) -> pb.ListUsageByModelResponse:
            return pb.ListUsageByModelResponse(data=[answers.model_row(total) for total in found])

        return await self._by_model(request, pb.ListUsageByModelResponse, tell)

    async def ListUsageByKey(
        self, request: pb.ListUsageByKeyRequest, context: Context
    ) -> pb.ListUsageByKeyResponse:
        tenant_id = calls.own_tenant()
        asked = windows.read(request, self._clock.now())
        window = asked.whole_hours

        async def work(conn: Conn) -> pb.ListUsageByKeyResponse:
            rows = await totals.sum_keys(conn, tenant_id, window)
            return pb.ListUsageByKeyResponse(data=[answers.key_row(row) for row in rows])

        question = Question(tenant_id, request, window.bounds)
        found = await self._reading.ask(question, pb.ListUsageByKeyResponse, work)
        return answers.told(found, **answers.echo(asked, window))

    async def ListUsageByDate(
        self, request: pb.ListUsageByDateRequest, context: Context
    ) -> pb.ListUsageByDateResponse:
        tenant_id = calls.own_tenant()
        asked = windows.read(request, self._clock.now())
        name = wire.optional_one_of(request, "granularity", GRANULARITIES) or "day"
        unit, fill = cast("Unit", name), filled(request)
        window = asked.whole_hours

        async def work(conn: Conn) -> pb.ListUsageByDateResponse:
            sums = await totals.sum_periods(conn, tenant_id, window, unit)
            rows = answers.date_rows(windows.touched(window, unit), sums, fill=fill)
            return pb.ListUsageByDateResponse(data=rows)

        question = Question(tenant_id, request, window.bounds)
        found = await self._reading.ask(question, pb.ListUsageByDateResponse, work)
        return answers.told(found, granularity=name, **answers.echo(asked, window))

    async def GetUsageByHour(
        self, request: pb.GetUsageByHourRequest, context: Context
    ) -> pb.GetUsageByHourResponse:
        count = wire.optional_integer(request, "hours", 1, MAX_HOURS) or 24

        def tell(rows: Series) -> pb.GetUsageByHourResponse:
            row = pb.GetUsageByHourResponse.Row
            return pb.GetUsageByHourResponse(
                data=[row(hour=wire.timestamp(start), **of) for start, of in rows]
            )

        found = await self._series(request, count, "hour", pb.GetUsageByHourResponse, tell)
        return answers.told(found, hours=count)

    async def GetUsageByDay(
        self, request: pb.GetUsageByDayRequest, context: Context
    ) -> pb.GetUsageByDayResponse:
        count = wire.optional_integer(request, "days", 1, 90) or 30

        def tell(rows: Series) -> pb.GetUsageByDayResponse:
            row = pb.GetUsageByDayResponse.Row
            return pb.GetUsageByDayResponse(
                data=[row(day=wire.timestamp(start), **of) for start, of in rows]
            )

        found = await self._series(request, count, "day", pb.GetUsageByDayResponse, tell)
        return answers.told(found, days=count)

    async def GetUsageByWeek(
        self, request: pb.GetUsageByWeekRequest, context: Context
    ) -> pb.GetUsageByWeekResponse:
        count = wire.optional_integer(request, "weeks", 1, 52) or 12

        def tell(rows: Series) -> pb.GetUsageByWeekResponse:
            row = pb.GetUsageByWeekResponse.Row
            return pb.GetUsageByWeekResponse(
                data=[row(week_start=wire.timestamp(start), **of) for start, of in rows]
            )

        found = await self._series(
            request, count, "week", pb.GetUsageByWeekResponse, tell, compared=True
        )
        return answers.told(found, weeks=count)

    async def GetUsageByMonth(
        self, request: pb.GetUsageByMonthRequest, context: Context
    ) -> pb.GetUsageByMonthResponse:
        count = wire.optional_integer(request, "months", 1, 24) or 12

        def tell(rows: Series) -> pb.GetUsageByMonthResponse:
            row = pb.GetUsageByMonthResponse.Row
            return pb.GetUsageByMonthResponse(
                data=[row(month=wire.timestamp(start), **of) for start, of in rows]
            )

        found = await self._series(request, count, "month", pb.GetUsageByMonthResponse, tell)
        return answers.told(found, months=count)

    async def ListHourlyUsage(
        self, request: pb.ListHourlyUsageRequest, context: Context
    ) -> pb.ListHourlyUsageResponse:
        return await self._hours(request)

    async def ListHourlyUsageFlat(
        self, request: pb.ListHourlyUsageRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        found = await self._hours(request)
        return flat.answer(found.data, found.pagination, envelope=request.envelope)

    async def _by_model(
        self, request: Message, kind: type[M], tell: Callable[[list[ModelTotal]], M]
    ) -> M:
        tenant_id = calls.own_tenant()
        asked = windows.read(request, self._clock.now())
        window = asked.whole_hours

        async def work(conn: Conn) -> M:
            return tell(await totals.sum_models(conn, tenant_id, window, order="total_tokens"))

        found = await self._reading.ask(Question(tenant_id, request, window.bounds), kind, work)
        return answers.told(found, **answers.echo(asked, window))

    async def _series(
        self,
        request: Message,
        count: int,
        unit: Unit,
        kind: type[M],
        tell: Callable[[Series], M],
        *,
        compared: bool = False,
    ) -> M:
        tenant_id, now, fill = calls.own_tenant(), self._clock.now(), filled(request)
        starts = windows.last(count, unit, now)
        before: Callable[[datetime], datetime] = lambda start: windows.step(start, unit, -1)  # noqa: E731
        first = before(starts[0]) if compared else starts[0]
        window = Window(first, windows.step(starts[-1], unit, 1))

        async def work(conn: Conn) -> M:
            sums = await totals.sum_periods(conn, tenant_id, window, unit)
            rows = answers.period_rows(starts, sums, current=starts[-1], fill=fill)
            if compared:
                rows = [
                    (start, row | answers.changes(sums, start, before(start)))
                    for start, row in rows
                ]
            return tell(rows)

        found = await self._reading.ask(Question(tenant_id, request, window.bounds), kind, work)
        return answers.told(
            found, start_date=wire.timestamp(starts[0]), end_date=wire.timestamp(now)
        )

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

        async def work(conn: Conn) -> pb.ListHourlyUsageResponse:
            rows, total = await totals.list_hours(conn, tenant_id, before, page.limit)
            rows, pagination = paging.answer(
                page, paging.Slice(rows, total), self._tokens, lambda row: [row["hour"]]
            )
            return pb.ListHourlyUsageResponse(
                data=[answers.hourly(tenant_id, row) for row in rows], pagination=pagination
            )

        question = Question(tenant_id, request, [before])
        return await self._reading.ask(question, pb.ListHourlyUsageResponse, work)


def filled(request: Message) -> bool:
    """Whether a series has rows for periods without traffic."""
    return (wire.optional_one_of(request, "fill", FILLS) or "zero") == "zero"
