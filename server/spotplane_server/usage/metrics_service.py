"""The part of UsageService that tells metrics of the last hour, day, week or month."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import grpc.aio
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from spotplane_server.kernel import wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import Database
from spotplane_server.usage import total_answers as answers
from spotplane_server.usage import totals, windows
from spotplane_server.usage.rules import MAX_NAME
from spotplane_server.usage.totals import ModelTotal
from spotplane_server.usage.totals_service import filled, own_tenant
from spotplane_server.usage.windows import MINUTE

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

SERIES_MINUTES: Final = 60

_ByModel: TypeAlias = (
    pb.GetPerformanceMetricsRequest
    | pb.GetModelMetricsRequest
    | pb.GetLatencyMetricsRequest
    | pb.GetTokenMetricsRequest
)


class MetricsHandlers(usage_pb2_grpc.UsageServiceServicer):
    """Handlers; the proto comments are their contract."""

    _db: Database
    _clock: Clock

    async def GetPerformanceMetrics(
        self, request: pb.GetPerformanceMetricsRequest, context: Context
    ) -> pb.GetPerformanceMetricsResponse:
        found, echo = await self._measured(request, order="requests")
        return pb.GetPerformanceMetricsResponse(
            overall=answers.performance(totals.together(found)),
            metrics=[answers.performance(total) for total in found],
            **echo,
        )

    async def GetThroughputMetrics(
        self, request: pb.GetThroughputMetricsRequest, context: Context
    ) -> pb.GetThroughputMetricsResponse:
        tenant_id, now, fill = own_tenant(), self._clock.now(), filled(request)
        period, asked = windows.read_period(request, now)
        window = asked.whole_minutes
        first = windows.floor_minute(now) - MINUTE * (SERIES_MINUTES - 1)
        async with self._db.transaction(
            tenant_id, isolation="repeatable_read", readonly=True
        ) as conn:
            total = totals.together(
                await totals.sum_models(conn, tenant_id, window, order="requests")
            )
            peak = await totals.find_peak(conn, tenant_id, window)
            minutes = await totals.sum_minutes(conn, tenant_id, first, SERIES_MINUTES)
        return pb.GetThroughputMetricsResponse(
            period=period,
            throughput=answers.throughput(total, peak, window),
            cache_distribution=answers.cache(total),
            time_series=answers.points(first, SERIES_MINUTES, minutes, fill=fill),
            **answers.echo(asked, window),
        )

    async def GetModelMetrics(
        self, request: pb.GetModelMetricsRequest, context: Context
    ) -> pb.GetModelMetricsResponse:
        found, echo = await self._measured(request, order="total_tokens")
        tokens = totals.together(found).sums["total_tokens"]
        return pb.GetModelMetricsResponse(
            models=[answers.model_metrics(total, tokens) for total in found], **echo
        )

    async def GetLatencyMetrics(
        self, request: pb.GetLatencyMetricsRequest, context: Context
    ) -> pb.GetLatencyMetricsResponse:
        found, echo = await self._measured(request, order="requests")
        return pb.GetLatencyMetricsResponse(
            data=[answers.latency_row(total) for total in found], **echo
        )

    async def GetTokenMetrics(
        self, request: pb.GetTokenMetricsRequest, context: Context
    ) -> pb.GetTokenMetricsResponse:
        found, echo = await self._measured(request, order="requests", latencies=False)
        return pb.GetTokenMetricsResponse(
            data=[answers.token_row(total) for total in found], **echo
        )

    async def _measured(
        self, request: _ByModel, *, order: str, latencies: bool = True
    ) -> tuple[list[ModelTotal], dict[str, Any]]:
        tenant_id = own_tenant()
        period, asked = windows.read_period(request, self._clock.now())
        model = None
        if not isinstance(request, pb.GetModelMetricsRequest):
            model = wire.optional_text(request, "model", maximum=MAX_NAME)
        window = asked.whole_minutes
        async with self._db.transaction(
            tenant_id, isolation="repeatable_read", readonly=True
        ) as conn:
            found = await totals.sum_models(
                conn, tenant_id, window, order=order, model=model, latencies=latencies
            )
        return found, {"period": period, **answers.echo(asked, window)}
