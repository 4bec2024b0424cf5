"""UsageService: metrics of the last hour, day, week or month."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg
import grpc.aio
from google.protobuf.message import Message
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Conn
from spotplane_server.usage import convert_totals as convert
from spotplane_server.usage import rollup_queries, time_windows
from spotplane_server.usage.cached_queries import CacheableQuery, CachedQueries
from spotplane_server.usage.queries_service import fills_gaps
from spotplane_server.usage.rollup_queries import ModelTotal
from spotplane_server.usage.rules import MAX_NAME
from spotplane_server.usage.time_windows import MINUTE

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

    _queries: CachedQueries
    _clock: Clock

    async def GetPerformanceMetrics(
        self, request: pb.GetPerformanceMetricsRequest, context: Context
    ) -> pb.GetPerformanceMetricsResponse:
        return await self._metrics_by_model(
            request, pb.GetPerformanceMetricsResponse, convert.performance_rows, order="requests"
        )

    async def GetThroughputMetrics(
        self, request: pb.GetThroughputMetricsRequest, context: Context
    ) -> pb.GetThroughputMetricsResponse:
        tenant_id, now, fill = request_context.own_tenant(), self._clock.now(), fills_gaps(request)
        period, requested = time_windows.read_period(request, now)
        window = requested.whole_minutes
        first = time_windows.floor_minute(now) - MINUTE * (SERIES_MINUTES - 1)

        async def load(conn: Conn) -> tuple[list[ModelTotal], asyncpg.Record | None, Any]:
            return (
                await rollup_queries.sum_models(conn, tenant_id, window, order="requests"),
                await rollup_queries.find_peak(conn, tenant_id, window),
                await rollup_queries.sum_minutes(conn, tenant_id, first, SERIES_MINUTES),
            )

        def render(
            found: tuple[list[ModelTotal], asyncpg.Record | None, Any],
        ) -> pb.GetThroughputMetricsResponse:
            models, peak, minutes = found
            total = rollup_queries.add_up(models)
            return pb.GetThroughputMetricsResponse(
                throughput=convert.throughput(total, peak, window),
                cache_distribution=convert.cache(total),
                time_series=convert.points(first, SERIES_MINUTES, minutes, fill=fill),
            )

        found = await self._queries.fetch(
            CacheableQuery(
                tenant_id,
                request,
                [*window.bounds, first],
                pb.GetThroughputMetricsResponse,
                load,
                render,
            )
        )
        return convert.with_fields(found, period=period, **convert.windows(requested, window))

    async def GetModelMetrics(
        self, request: pb.GetModelMetricsRequest, context: Context
    ) -> pb.GetModelMetricsResponse:
        return await self._metrics_by_model(
            request, pb.GetModelMetricsResponse, convert.model_metrics_rows, order="total_tokens"
        )

    async def GetLatencyMetrics(
        self, request: pb.GetLatencyMetricsRequest, context: Context
    ) -> pb.GetLatencyMetricsResponse:
        return await self._metrics_by_model(
            request, pb.GetLatencyMetricsResponse, convert.latency_rows, order="requests"
        )

    async def GetTokenMetrics(
        self, request: pb.GetTokenMetricsRequest, context: Context
    ) -> pb.GetTokenMetricsResponse:
        return await self._metrics_by_model(
            request,
            pb.GetTokenMetricsResponse,
            convert.token_rows,
            order="requests",
            latencies=False,
        )

    async def _metrics_by_model(
        self,
        request: _ByModel,
        response: type[M],
        render: Callable[[list[ModelTotal]], M],
        *,
        order: str,
        latencies: bool = True,
    ) -> M:
        tenant_id = request_context.own_tenant()
        period, requested = time_windows.read_period(request, self._clock.now())
        model = None
        if not isinstance(request, pb.GetModelMetricsRequest):
            model = wire.optional_text(request, "model", maximum=MAX_NAME)
        window = requested.whole_minutes
        load = partial(
            rollup_queries.sum_models,
            tenant_id=tenant_id,
            window=window,
            order=order,
            model=model,
            latencies=latencies,
        )
        found = await self._queries.fetch(
            CacheableQuery(tenant_id, request, window.bounds, response, load, render)
        )
        return convert.with_fields(found, period=period, **convert.windows(requested, window))
