"""Converts totals and series to messages; ratios with a zero denominator are 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final, TypeAlias, TypeVar
from uuid import NAMESPACE_URL, uuid5

import asyncpg
from google.protobuf.message import Message
from spotplane.v1 import usage_pb2 as pb

from spotplane_server.kernel.api import wire
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.usage.convert import NANOS_PER_USD, percent, ratio
from spotplane_server.usage.rollup_queries import ModelTotal, add_up
from spotplane_server.usage.time_windows import MINUTE, Window

# Rows by the start of their period.
Sums: TypeAlias = Mapping[datetime, Any]
M = TypeVar("M", bound=Message)

MINUTE_SECONDS: Final = 60
NANOS_PER_MICRODOLLAR: Final = 1000

_NO_TRAFFIC: Final[Mapping[str, int]] = dict.fromkeys(
    (
        "requests",
        "prompt_tokens",
        "completion_tokens",
        "cost_nanos",
        "latency_count",
        "latency_sum",
    ),
    0,
)


def windows(requested: Window, effective: Window, source: str = "rollup") -> dict[str, Any]:
    """Return the fields with the requested window, the window that was summed, and its source."""
    return {
        "start_date": wire.timestamp(requested.start),
        "end_date": wire.timestamp(requested.end),
        "effective_start": wire.timestamp(effective.start),
        "effective_end": wire.timestamp(effective.end),
        "source": source,
    }


def with_fields(found: M, **fields: Any) -> M:
    """Add the fields that depend on the caller and are therefore not cached."""
    found.MergeFrom(type(found)(**fields))
    return found


def cost(nanos: int, name: str = "cost") -> dict[str, Any]:
    """Return a cost in USD and in nano-dollars."""
    return {f"{name}_usd": ratio(nanos, NANOS_PER_USD), f"{name}_nanos": nanos}


def change(this: int, before: int) -> float | None:
    """Return the change from ``before`` to ``this`` in percent; None if ``before`` is 0."""
    return (this - before) * 100 / before if before else None


def names(total: ModelTotal, *fields: str) -> dict[str, Any]:
    """Return a model's id and names; nothing for usage without a model."""
    row = total.row
    if row is None:
        return {}
    return {field: str(row[field]) for field in fields if row[field] is not None}


def period_rows(
    starts: Sequence[datetime], sums: Sums, *, current: datetime, fill: bool
) -> list[tuple[datetime, dict[str, Any]]]:
    """Return the fields of every period; without ``fill`` only of periods with traffic."""
    return [
        (start, _period(sums.get(start, _NO_TRAFFIC), partial=start == current))
        for start in starts
        if fill or start in sums
    ]


def changes(sums: Sums, period: datetime, before: datetime) -> dict[str, float | None]:
    """Return the changes of a period against the one before it, in percent."""
    this, last = sums.get(period, _NO_TRAFFIC), sums.get(before, _NO_TRAFFIC)
    return {
        "change_pct": change(_tokens(this), _tokens(last)),
        "requests_change_pct": change(this["requests"], last["requests"]),
        "cost_change_pct": change(this["cost_nanos"], last["cost_nanos"]),
    }


def date_rows(starts: Sequence[datetime], sums: Sums, *, fill: bool) -> pb.ListUsageByDateResponse:
    """Return one row per period; without ``fill`` only for periods with traffic."""
    rows = []
    for start in starts:
        if fill or start in sums:
            of = sums.get(start, _NO_TRAFFIC)
            rows.append(
                pb.ListUsageByDateResponse.Row(
                    period=wire.timestamp(start),
                    total_tokens=_tokens(of),
                    requests=of["requests"],
                    **cost(of["cost_nanos"]),
                )
            )
    return pb.ListUsageByDateResponse(data=rows)


def summary(found: list[ModelTotal]) -> pb.GetUsageSummaryResponse:
    """Return the total of all models and a short row for each."""
    of = add_up(found).sums
    return pb.GetUsageSummaryResponse(
        total_tokens=of["total_tokens"],
        total_requests=of["requests"],
        by_model=[
            pb.GetUsageSummaryResponse.ModelUsage(
                tokens=total.sums["total_tokens"],
                requests=total.sums["requests"],
                **cost(total.sums["cost_nanos"]),
                **names(total, "model_name"),
            )
            for total in found
        ],
        **cost(of["cost_nanos"], "total_cost"),
    )


def model_rows(found: list[ModelTotal]) -> pb.ListUsageByModelResponse:
    """Return one row per model."""
    return pb.ListUsageByModelResponse(data=[_model_row(total) for total in found])


def _model_row(total: ModelTotal) -> pb.ListUsageByModelResponse.Row:
    of = total.sums
    return pb.ListUsageByModelResponse.Row(
        prompt_tokens=of["prompt_tokens"],
        completion_tokens=of["completion_tokens"],
        total_tokens=of["total_tokens"],
        requests=of["requests"],
        avg_latency_ms=ratio(of["latency_sum"], of["latency_count"]),
        **cost(of["cost_nanos"]),
        **names(total, "model_id", "model_name", "family", "type"),
    )


def key_rows(rows: Sequence[asyncpg.Record]) -> pb.ListUsageByKeyResponse:
    """Return one row per key."""
    return pb.ListUsageByKeyResponse(data=[_key_row(row) for row in rows])


def _key_row(row: asyncpg.Record) -> pb.ListUsageByKeyResponse.Row:
    answer = pb.ListUsageByKeyResponse.Row(
        total_tokens=row["total_tokens"], requests=row["requests"], **cost(row["cost_nanos"])
    )
    if row["api_key_id"] is not None:
        answer.key_id = str(row["api_key_id"])
        answer.key_name = row["key_name"]
        answer.key_prefix = row["key_prefix"]
    return answer


def performance_rows(found: list[ModelTotal]) -> pb.GetPerformanceMetricsResponse:
    """Return the performance of all models together and of each."""
    return pb.GetPerformanceMetricsResponse(
        overall=_performance(add_up(found)), metrics=[_performance(total) for total in found]
    )


def _performance(total: ModelTotal) -> pb.PerformanceMetrics:
    of = total.sums
    p50, p95, p99 = total.percentiles
    return pb.PerformanceMetrics(
        total_requests=of["requests"],
        successful_requests=of["successes"],
        failed_requests=of["requests"] - of["successes"],
        success_rate_pct=percent(of["successes"], of["requests"]),
        total_tokens=of["total_tokens"],
        cached_tokens=of["cached_tokens"],
        cache_hit_rate_pct=percent(of["cached_tokens"], of["total_tokens"]),
        tokens_per_second=ratio(of["total_tokens"] * 1000, of["latency_sum"]),
        latency=pb.PerformanceMetrics.Latency(
            avg_ms=ratio(of["latency_sum"], of["latency_count"]),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
        ),
        **names(total, "model_name"),
    )


def throughput(
    total: ModelTotal, peak: asyncpg.Record | None, window: Window
) -> pb.GetThroughputMetricsResponse.Throughput:
    """Return the average throughput of a window and that of its busiest minute."""
    of = total.sums
    return pb.GetThroughputMetricsResponse.Throughput(
        total_requests=of["requests"],
        total_tokens=of["total_tokens"],
        avg_tokens_per_request=ratio(of["total_tokens"], of["requests"]),
        avg_rps=of["requests"] / window.seconds,
        peak_rps=peak["requests"] / MINUTE_SECONDS if peak else 0.0,
        peak_timestamp=wire.timestamp(peak["minute"]) if peak else None,
    )


def cache(total: ModelTotal) -> pb.GetThroughputMetricsResponse.CacheDistribution:
    """Return how many tokens were read from a cache."""
    cached, tokens = total.sums["cached_tokens"], total.sums["total_tokens"]
    return pb.GetThroughputMetricsResponse.CacheDistribution(
        cached_tokens=cached,
        uncached_tokens=tokens - cached,
        cached_pct=percent(cached, tokens),
        uncached_pct=percent(tokens - cached, tokens),
    )


def points(
    first: datetime, count: int, sums: Sums, *, fill: bool
) -> list[pb.GetThroughputMetricsResponse.Point]:
    """Return one point per minute, newest first; without ``fill`` only minutes with traffic."""
    minutes = [first + MINUTE * n for n in range(count - 1, -1, -1)]
    return [_point(minute, sums.get(minute)) for minute in minutes if fill or minute in sums]


def model_metrics_rows(found: list[ModelTotal]) -> pb.GetModelMetricsResponse:
    """Return each model's share of a tenant's usage."""
    tokens = add_up(found).sums["total_tokens"]
    return pb.GetModelMetricsResponse(models=[_model_metrics(total, tokens) for total in found])


def _model_metrics(total: ModelTotal, tenant_tokens: int) -> pb.GetModelMetricsResponse.Row:
    of = total.sums
    return pb.GetModelMetricsResponse.Row(
        total_tokens=of["total_tokens"],
        prompt_tokens=of["prompt_tokens"],
        completion_tokens=of["completion_tokens"],
        total_requests=of["requests"],
        avg_tokens_per_request=ratio(of["total_tokens"], of["requests"]),
        usage_percentage=percent(of["total_tokens"], tenant_tokens),
        avg_latency_ms=ratio(of["latency_sum"], of["latency_count"]),
        p95_latency_ms=total.percentiles[1],
        **cost(of["cost_nanos"], "total_cost"),
        **names(total, "model_id", "model_name", "family", "type"),
    )


def latency_rows(found: list[ModelTotal]) -> pb.GetLatencyMetricsResponse:
    """Return each model's latencies."""
    return pb.GetLatencyMetricsResponse(data=[_latency_row(total) for total in found])


def _latency_row(total: ModelTotal) -> pb.GetLatencyMetricsResponse.Row:
    p50, p95, p99 = total.percentiles
    return pb.GetLatencyMetricsResponse.Row(
        avg_latency_ms=ratio(total.sums["latency_sum"], total.sums["latency_count"]),
        p50_latency_ms=p50,
        p95_latency_ms=p95,
        p99_latency_ms=p99,
        total_requests=total.sums["requests"],
        **names(total, "model_name"),
    )


def token_rows(found: list[ModelTotal]) -> pb.GetTokenMetricsResponse:
    """Return each model's tokens."""
    return pb.GetTokenMetricsResponse(data=[_token_row(total) for total in found])


def _token_row(total: ModelTotal) -> pb.GetTokenMetricsResponse.Row:
    of = total.sums
    return pb.GetTokenMetricsResponse.Row(
        prompt_tokens=of["prompt_tokens"],
        completion_tokens=of["completion_tokens"],
        total_tokens=of["total_tokens"],
        avg_prompt_tokens=ratio(of["prompt_tokens"], of["requests"]),
        avg_completion_tokens=ratio(of["completion_tokens"], of["requests"]),
        total_requests=of["requests"],
        **names(total, "model_name"),
    )


def hourly(tenant_id: TenantId, row: asyncpg.Record) -> pb.ListHourlyUsageResponse.HourlyUsage:
    """Return one hour; its id is derived from tenant and hour."""
    hour, nanos = row["hour"], row["cost_nanos"]
    micros = (Decimal(nanos) / NANOS_PER_MICRODOLLAR).quantize(Decimal(1), ROUND_HALF_EVEN)
    return pb.ListHourlyUsageResponse.HourlyUsage(
        id=str(uuid5(NAMESPACE_URL, f"usage:{tenant_id}:{hour:%Y-%m-%dT%H}")),
        hour=wire.timestamp(hour),
        tenant_id=str(tenant_id),
        total_tokens=row["total_tokens"],
        total_requests=row["requests"],
        total_cost_microdollars=int(micros),
        total_cost_usd=ratio(nanos, NANOS_PER_USD),
    )


def _period(of: Mapping[str, Any], *, partial: bool) -> dict[str, Any]:
    return {
        "total_tokens": _tokens(of),
        "prompt_tokens": of["prompt_tokens"],
        "completion_tokens": of["completion_tokens"],
        "total_requests": of["requests"],
        "avg_latency_ms": ratio(of["latency_sum"], of["latency_count"]),
        "partial": partial,
        **cost(of["cost_nanos"], "total_cost"),
    }


def _tokens(of: Mapping[str, Any]) -> int:
    tokens: int = of["prompt_tokens"] + of["completion_tokens"]
    return tokens


def _point(minute: datetime, sums: asyncpg.Record | None) -> pb.GetThroughputMetricsResponse.Point:
    requests = sums["requests"] if sums else 0
    return pb.GetThroughputMetricsResponse.Point(
        timestamp=wire.timestamp(minute),
        requests=requests,
        tokens=sums["total_tokens"] if sums else 0,
        rps=requests / MINUTE_SECONDS,
    )
