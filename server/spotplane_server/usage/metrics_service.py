"""The part of UsageService that tells metrics of the last hour, day, week or month."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

import grpc.aio
from google.protobuf.message import Message
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from spotplane_server.kernel import calls, wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import Conn
from spotplane_server.usage import total_answers as answers
from spotplane_server.usage import totals, windows
from spotplane_server.usage.reading import Question, Reading
from spotplane_server.usage.rules import MAX_NAME
from spotplane_server.usage.totals import ModelTotal
from spotplane_server.usage.totals_service import filled
from spotplane_server.usage.windows import MINUTE

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
M = TypeVar("M", bound=Message)

SERIES_MINUTES: Final = 60

_ByModel: TypeAlias = (
    pb.GetPerformanceMetricsRequest
    | pb.GetModelMetricsRequest
    | pb.GetLatencyMetricsRequest
    | pb.GetTokenMetricsRequest
)


class MetricsHandlers(usage_pb2_grpc.UsageServiceServicer):
    """Handlers; the proto comments are their contract."""

    _reading: Reading
    _clock: Clock

    async def GetPerformanceMetrics(
        self, request: pb.GetPerformanceMetricsRequest, context: Context
    ) -> pb.GetPerformanceMetricsResponse:
        def tell(found: list[ModelTotal]) -> pb.GetPerformanceMetricsResponse:
            return pb.GetPerformanceMetricsResponse(
                overall=answers.performance(totals.together(found)),
                metrics=[answers.performance(total) for total in found],
            )

        return await self._measured(
            request, pb.GetPerformanceMetricsResponse, tell, order="requests"
        )

    async def GetThroughputMetrics(
        self, request: pb.GetThroughputMetricsRequest, context: Context
    ) -> pb.GetThroughputMetricsResponse:
        tenant_id, now, fill = calls.own_tenant(), self._clock.now(), filled(request)
        period, asked = windows.read_period(request, now)
        window = asked.whole_minutes
        first = windows.floor_minute(now) - MINUTE * (SERIES_MINUTES - 1)

        async def work(conn: Conn) -> pb.GetThroughputMetricsResponse:
            found = await totals.sum_models(conn, tenant_id, window, order="requests")
            peak = await totals.find_peak(conn, tenant_id, window)
            minutes = await totals.sum_minutes(conn, tenant_id, first, SERIES_MINUTES)
            total = totals.together(found)
            return pb.GetThroughputMetricsResponse(
                throughput=answers.throughput(total, peak, window),
                cache_distribution=answers.cache(total),
                time_series=answers.points(first, SERIES_MINUTES, minutes, fill=fill),
            )

        question = Question(tenant_id, request, [*window.bounds, first])
        found = await self._reading.ask(question, pb.GetThroughputMetricsResponse, work)
        return answers.told(found, period=period, **answers.echo(asked, window))

    async def GetModelMetrics(
        self, request: pb.GetModelMetricsRequest, context: Context
    ) -> pb.GetModelMetricsResponse:
        def tell(found: list[ModelTotal]) -> pb.GetModelMetricsResponse:
            tokens = totals.together(found).sums["total_tokens"]
            return pb.GetModelMetricsResponse(
                models=[answers.model_metrics(total, tokens) for total in found]
            )

        return await self._measured(request, pb.GetModelMetricsResponse, tell, order="total_tokens")

    async def GetLatencyMetrics(
        self, request: pb.GetLatencyMetricsRequest, context: Context
    ) -> pb.GetLatencyMetricsResponse:
        def tell(found: list[ModelTotal]) -> pb.GetLatencyMetricsResponse:
            return pb.GetLatencyMetricsResponse(
                data=[answers.latency_row(total) for total in found]
            )

        return await self._measured(request, pb.GetLatencyMetricsResponse, tell, order="requests")

    async def GetTokenMetrics(
        self, request: pb.GetTokenMetricsRequest, context: Context
    ) -> pb.GetTokenMetricsResponse:
        def tell(found: list[ModelTotal]) -> pb.GetTokenMetricsResponse:
            return pb.GetTokenMetricsResponse(data=[answers.token_row(total) for total in found])

        return await self._measured(
            request, pb.GetTokenMetricsResponse, tell, order="requests", latencies=False
        )

    async def _measured(
        self,
        request: _ByModel,
        kind: type[M],
        tell: Callable[[list[ModelTotal]], M],
        *,
        order: str,
        latencies: bool = True,
    ) -> M:
        tenant_id = calls.own_tenant()
        period, asked = windows.read_period(request, self._clock.now())
        model = None
        if not isinstance(request, pb.GetModelMetricsRequest):
            model = wire.optional_text(request, "model", maximum=MAX_NAME)
        window = asked.whole_minutes

        async def work(conn: Conn) -> M:
            return tell(
                await totals.sum_models(
                    conn, tenant_id, window, order=order, model=model, latencies=latencies
                )
            )

        found = await self._reading.ask(Question(tenant_id, request, window.bounds), kind, work)
        return answers.told(found, period=period, **answers.echo(asked, window))
