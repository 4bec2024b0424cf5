"""Sums of every size are what the raw records say, and are made so again when they are not."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from tests.support.clock import FakeClock
from tests.support.plane import ADMIN, Plane
from tests.usage.world import Owner, World, record

RUIN = (
    "DELETE FROM usage_rollups WHERE tenant_id = $1 AND rollup = 'minute_model'",
    "UPDATE usage_rollups SET cost_nanos = 7 WHERE tenant_id = $1 AND rollup = 'hour_all'",
    "DELETE FROM usage_rollups WHERE tenant_id = $1 AND rollup IN ('hour_model', 'day_region')",
    "UPDATE usage_rollup_peaks SET requests = requests + 1 WHERE tenant_id = $1",
    "UPDATE usage_rollups SET latencies = 0 WHERE tenant_id = $1 AND rollup = 'day_model'",
)


@pytest.fixture
def usage(plane: Plane) -> Any:
    """A stub."""
    return plane.stub(usage_pb2_grpc.UsageServiceStub)


@pytest.fixture
async def owner(world: World, usage: Any, clock: FakeClock) -> Owner:
    """A tenant with late, repeated and unattributed records over four days."""
    made = await world.tenant()
    records = [
        record(
            f"r{n}",
            clock.now() - timedelta(minutes=97 * n),
            latency_ms=n * n * 37 % 3_600_000,
            **_attributed(n),
        )
        for n in range(60)
    ]
    for part in (records[:40], records[20:]):
        await usage.IngestUsageBatch(
            pb.IngestUsageBatchRequest(records=part), metadata=made.metadata
        )
    return made


def _attributed(n: int) -> dict[str, Any]:
    return {"model": "llama-3-70b"} if n % 3 else {}


async def wrong(usage: Any, owner: Owner) -> tuple[int, int, int]:
    answer = await usage.VerifyRollups(
        pb.VerifyRollupsRequest(tenant_id=str(owner.id)), metadata=ADMIN
    )
    return answer.wrong_hours, answer.wrong_days, answer.wrong_minutes


async def test_ingest_leaves_all_sums_right(usage: Any, owner: Owner) -> None:
    """Hours, days and minutes, their sketches too."""
    assert await wrong(usage, owner) == (0, 0, 0)


async def test_writers_at_once_leave_all_sums_right(
    usage: Any, owner: Owner, clock: FakeClock
) -> None:
    """Eight of them in the same minutes, of two models: the busiest minute is of all together."""
    batches = [
        [
            record(f"w{writer}-{n}", clock.now() - timedelta(seconds=30 * n), **_attributed(writer))
            for n in range(12)
        ]
        for writer in range(8)
    ]
    await asyncio.gather(
        *(
            usage.IngestUsageBatch(pb.IngestUsageBatchRequest(records=b), metadata=owner.metadata)
            for b in batches
        )
    )
    assert await wrong(usage, owner) == (0, 0, 0)


async def test_what_is_wrong_is_counted_and_mended(usage: Any, owner: Owner, world: World) -> None:
    """Whatever was lost or changed; a second time there is nothing to do."""
    for statement in RUIN:
        await world.conn.execute(statement, owner.id)
    assert all(await wrong(usage, owner))
    request = pb.RefreshRollupsRequest(tenant_id=str(owner.id))
    assert (await usage.RefreshRollups(request, metadata=ADMIN)).mended > 0
    assert await wrong(usage, owner) == (0, 0, 0)
    assert (await usage.RefreshRollups(request, metadata=ADMIN)).mended == 0


async def test_every_answer_adds_up(usage: Any, owner: Owner) -> None:
    """The same sixty requests, by whatever they are told."""
    caller = owner.metadata
    summary = await usage.GetUsageSummary(pb.GetUsageSummaryRequest(), metadata=caller)
    assert summary.total_requests == sum(m.requests for m in summary.by_model) == 60
    models = await usage.ListUsageByModel(pb.ListUsageByModelRequest(), metadata=caller)
    keys = await usage.ListUsageByKey(pb.ListUsageByKeyRequest(), metadata=caller)
    dates = await usage.ListUsageByDate(pb.ListUsageByDateRequest(), metadata=caller)
    for listed in (models, keys, dates):
        assert sum(row.requests for row in listed.data) == 60
        assert sum(row.cost_nanos for row in listed.data) == summary.total_cost_nanos
    weeks = await usage.GetUsageByWeek(pb.GetUsageByWeekRequest(), metadata=caller)
    assert len(weeks.data) == 12
    assert not weeks.data[0].HasField("change_pct")
    days = await usage.GetUsageByDay(pb.GetUsageByDayRequest(), metadata=caller)
    months = await usage.GetUsageByMonth(pb.GetUsageByMonthRequest(), metadata=caller)
    for series in (weeks, days, months):
        assert sum(row.total_requests for row in series.data) == 60
        assert [row.partial for row in series.data[-2:]] == [False, True]


async def test_metrics_add_up(usage: Any, owner: Owner) -> None:
    """Seven days hold all; the parts make a hundred percent."""
    caller = owner.metadata
    speed = await usage.GetPerformanceMetrics(
        pb.GetPerformanceMetricsRequest(period="7d"), metadata=caller
    )
    assert speed.overall.total_requests == sum(m.total_requests for m in speed.metrics) == 60
    one = await usage.GetPerformanceMetrics(
        pb.GetPerformanceMetricsRequest(period="7d", model="llama-3-70b"), metadata=caller
    )
    assert [m.total_requests for m in one.metrics] == [40]
    flow = await usage.GetThroughputMetrics(
        pb.GetThroughputMetricsRequest(period="7d"), metadata=caller
    )
    assert len(flow.time_series) == 60
    assert flow.throughput.peak_rps == 1 / 60
    parts = await usage.GetModelMetrics(pb.GetModelMetricsRequest(period="7d"), metadata=caller)
    assert sum(row.usage_percentage for row in parts.models) == pytest.approx(100)
    hours = await usage.ListHourlyUsage(
        pb.ListHourlyUsageRequest(tenant_id=str(owner.id)), metadata=ADMIN
    )
    assert sum(row.total_requests for row in hours.data) == 60
