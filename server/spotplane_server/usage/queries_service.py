"""UsageService: totals and series of a tenant's own usage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, cast

import asyncpg
import grpc.aio
from google.api import httpbody_pb2
from google.protobuf.message import Message
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import http_body, paging, wire
from spotplane_server.kernel.api.paging import PageTokens, Slice
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.usage import convert_totals as convert
from spotplane_server.usage import rollup_queries, time_windows
from spotplane_server.usage.cached_queries import CacheableQuery, CachedQueries
from spotplane_server.usage.rollup_queries import ModelTotal
from spotplane_server.usage.time_windows import Unit, Window

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_Periods: TypeAlias = Mapping[datetime, asyncpg.Record]
M = TypeVar("M", bound=Message)

MAX_HOURS: Final = 168
FILLS: Final = ("zero", "none")
GRANULARITIES: Final = ("day", "hour", "month")


@dataclass(frozen=True, slots=True)
class _Series:
    """One of the four series by period.

    Attributes:
        unit: Length of a period.
        response: The class of the response.
        count: The field of request and response with the number of periods.
        maximum: The largest number of periods.
        default: The number of periods unless the request has one.
        start: The field of a row with the start of its period.
        compared: Whether a row has its change against the period before.
    """

    unit: Unit
    response: type[Any]
    count: str
    maximum: int
    default: int
    start: str
    compared: bool = False


_HOURS: Final = _Series("hour", pb.GetUsageByHourResponse, "hours", MAX_HOURS, 24, "hour")
_DAYS: Final = _Series("day", pb.GetUsageByDayResponse, "days", 90, 30, "day")
_WEEKS: Final = _Series(
    "week", pb.GetUsageByWeekResponse, "weeks", 52, 12, "week_start", compared=True
)
_MONTHS: Final = _Series("month", pb.GetUsageByMonthResponse, "months", 24, 12, "month")


class QueryHandlers(usage_pb2_grpc.UsageServiceServicer):
    """Handlers; the proto comments are their contract."""

    _queries: CachedQueries
    _clock: Clock
    _tokens: PageTokens

    async def GetUsageSummary(
        self, request: pb.GetUsageSummaryRequest, context: Context
    ) -> pb.GetUsageSummaryResponse:
        return await self._by_model(request, pb.GetUsageSummaryResponse, convert.summary)

    async def ListUsageByModel(
        self, request: pb.ListUsageByModelRequest, context: Context
    ) -> pb.ListUsageByModelResponse:
        return await self._by_model(request, pb.ListUsageByModelResponse, convert.model_rows)

    async def ListUsageByKey(
        self, request: pb.ListUsageByKeyRequest, context: Context
    ) -> pb.ListUsageByKeyResponse:
        tenant_id = request_context.own_tenant()
        requested = time_windows.read(request, self._clock.now())
        window = requested.whole_hours
        query = CacheableQuery(
            tenant_id,
            request,
            window.bounds,
            pb.ListUsageByKeyResponse,
            partial(rollup_queries.sum_keys, tenant_id=tenant_id, window=window),
            convert.key_rows,
        )
        found = await self._queries.fetch(query)
        return convert.with_fields(found, **convert.windows(requested, window))

    async def ListUsageByDate(
        self, request: pb.ListUsageByDateRequest, context: Context
    ) -> pb.ListUsageByDateResponse:
        tenant_id = request_context.own_tenant()
        requested = time_windows.read(request, self._clock.now())
        name = wire.optional_one_of(request, "granularity", GRANULARITIES) or "day"
        unit, window = cast("Unit", name), requested.whole_hours
        starts = time_windows.touched(window, unit)
        query = CacheableQuery(
            tenant_id,
            request,
            window.bounds,
            pb.ListUsageByDateResponse,
            partial(rollup_queries.sum_periods, tenant_id=tenant_id, window=window, unit=unit),
            partial(convert.date_rows, starts, fill=fills_gaps(request)),
        )
        found = await self._queries.fetch(query)
        return convert.with_fields(found, granularity=name, **convert.windows(requested, window))

    async def GetUsageByHour(
        self, request: pb.GetUsageByHourRequest, context: Context
    ) -> pb.GetUsageByHourResponse:
        response: pb.GetUsageByHourResponse = await self._series(request, _HOURS)
        return response

    async def GetUsageByDay(
        self, request: pb.GetUsageByDayRequest, context: Context
    ) -> pb.GetUsageByDayResponse:
        response: pb.GetUsageByDayResponse = await self._series(request, _DAYS)
        return response

    async def GetUsageByWeek(
        self, request: pb.GetUsageByWeekRequest, context: Context
    ) -> pb.GetUsageByWeekResponse:
        response: pb.GetUsageByWeekResponse = await self._series(request, _WEEKS)
        return response

    async def GetUsageByMonth(
        self, request: pb.GetUsageByMonthRequest, context: Context
    ) -> pb.GetUsageByMonthResponse:
        response: pb.GetUsageByMonthResponse = await self._series(request, _MONTHS)
        return response

    async def ListHourlyUsage(
        self, request: pb.ListHourlyUsageRequest, context: Context
    ) -> pb.ListHourlyUsageResponse:
        return await self._hours(request)

    async def ListHourlyUsageFlat(
        self, request: pb.ListHourlyUsageRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        found = await self._hours(request)
        return http_body.answer(found.data, found.pagination, envelope=request.envelope)

    async def _by_model(
        self, request: Message, response: type[M], render: Callable[[list[ModelTotal]], M]
    ) -> M:
        tenant_id = request_context.own_tenant()
        requested = time_windows.read(request, self._clock.now())
        window = requested.whole_hours
        load = partial(
            rollup_queries.sum_models, tenant_id=tenant_id, window=window, order="total_tokens"
        )
        found = await self._queries.fetch(
            CacheableQuery(tenant_id, request, window.bounds, response, load, render)
        )
        return convert.with_fields(found, **convert.windows(requested, window))

    async def _series(self, request: Message, series: _Series) -> Any:
        tenant_id, now = request_context.own_tenant(), self._clock.now()
        count = wire.optional_integer(request, series.count, 1, series.maximum) or series.default
        starts = time_windows.last(count, series.unit, now)
        first = time_windows.step(starts[0], series.unit, -1) if series.compared else starts[0]
        window = Window(first, time_windows.step(starts[-1], series.unit, 1))
        fill = fills_gaps(request)

        def render(sums: _Periods) -> Any:
            rows = convert.period_rows(starts, sums, current=starts[-1], fill=fill)
            if series.compared:
                rows = [
                    (at, row | convert.changes(sums, at, time_windows.step(at, series.unit, -1)))
                    for at, row in rows
                ]
            row_of = series.response.Row
            return series.response(
                data=[row_of(**{series.start: wire.timestamp(at)}, **row) for at, row in rows]
            )

        load = partial(
            rollup_queries.sum_periods, tenant_id=tenant_id, window=window, unit=series.unit
        )
        found = await self._queries.fetch(
            CacheableQuery(tenant_id, request, window.bounds, series.response, load, render)
        )
        return convert.with_fields(
            found,
            start_date=wire.timestamp(starts[0]),
            end_date=wire.timestamp(now),
            **{series.count: count},
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

        async def load(conn: Conn) -> Slice[asyncpg.Record]:
            return await rollup_queries.list_hours(conn, tenant_id, before, page.limit)

        def render(found: Slice[asyncpg.Record]) -> pb.ListHourlyUsageResponse:
            rows, pagination = paging.answer(page, found, self._tokens, lambda row: [row["hour"]])
            return pb.ListHourlyUsageResponse(
                data=[convert.hourly(tenant_id, row) for row in rows], pagination=pagination
            )

        return await self._queries.fetch(
            CacheableQuery(tenant_id, request, [before], pb.ListHourlyUsageResponse, load, render)
        )


def fills_gaps(request: Message) -> bool:
    """Whether a series has rows for periods without traffic."""
    return (wire.optional_one_of(request, "fill", FILLS) or "zero") == "zero"
