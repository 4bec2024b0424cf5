"""Converts grouped usage to messages; ratios with a zero denominator are 0."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC
from typing import Final
from uuid import UUID

import asyncpg
from spotplane.v1 import usage_pb2 as pb

from spotplane_server.kernel.api import wire
from spotplane_server.usage.group_queries import NO_DIMENSION, Group, Grouping
from spotplane_server.usage.ingest import RecordError

NANOS_PER_USD: Final = 1_000_000_000


def ratio(part: int, whole: int) -> float:
    """Return ``part / whole``; 0 if ``whole`` is 0."""
    return part / whole if whole else 0.0


def percent(part: int, whole: int) -> float:
    """Return ``part`` in percent of ``whole``; 0 if ``whole`` is 0."""
    return part * 100 / whole if whole else 0.0


def record_errors(errors: Iterable[RecordError], first: int = 0) -> list[pb.UsageRecordError]:
    """Return errors of records; their positions are counted from ``first``."""
    return [
        pb.UsageRecordError(
            index=first + e.index,
            request_id=e.request_id,
            code=e.code,
            field=e.field,
            description=e.description,
        )
        for e in errors
    ]


def usage_row(group: Group, group_by: Grouping) -> pb.UsageRow:
    """Return the row of one group."""
    row = group.row
    p50, p95, p99 = group.percentiles
    answer = pb.UsageRow(
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        total_tokens=row["total_tokens"],
        cached_tokens=row["cached_tokens"],
        cache_hit_rate_pct=percent(row["cached_tokens"], row["total_tokens"]),
        total_requests=row["requests"],
        successful_requests=row["successes"],
        failed_requests=row["requests"] - row["successes"],
        success_rate_pct=percent(row["successes"], row["requests"]),
        avg_latency_ms=ratio(row["latency_sum"], row["latency_count"]),
        min_latency_ms=row["latency_min"] or 0,
        max_latency_ms=row["latency_max"] or 0,
        p50_latency_ms=p50,
        p95_latency_ms=p95,
        p99_latency_ms=p99,
        total_cost_usd=ratio(row["cost_nanos"], NANOS_PER_USD),
        total_cost_nanos=row["cost_nanos"],
        period=wire.timestamp(row["period"]),
    )
    group_id: UUID | None = row["group_id"]
    if group_id is not None:
        setattr(answer, f"{group_by}_id", str(group_id))
        for name, value in group.names:
            if value is not None:
                setattr(answer, name, value)
    return answer


def usage_row_key(row: pb.UsageRow, group_by: Grouping) -> tuple[str | None, int, str]:
    """Return the sort key of a row: period, tokens and id."""
    period = row.period.ToDatetime(UTC).isoformat() if row.HasField("period") else None
    group_id: str = getattr(row, f"{group_by}_id", "") or str(NO_DIMENSION)
    return period, row.total_tokens, group_id


def deployment(row: asyncpg.Record) -> pb.ListTenantDeploymentsResponse.Deployment:
    """Return the usage of one model."""
    return pb.ListTenantDeploymentsResponse.Deployment(
        model_id=str(row["model_id"]),
        model_name=row["model_name"],
        family=row["family"],
        type=row["type"],
        first_used=wire.timestamp(row["first_used"]),
        last_used=wire.timestamp(row["last_used"]),
        total_tokens=row["total_tokens"],
        total_requests=row["requests"],
        total_cost_usd=ratio(row["cost_nanos"], NANOS_PER_USD),
        total_cost_nanos=row["cost_nanos"],
    )
