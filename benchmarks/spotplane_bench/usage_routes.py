"""How long every analytics route takes, for a tenant with few records and for one with many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import aiohttp
import grpc.aio
from spotplane.v1 import usage_pb2 as pb
from spotplane.v1 import usage_pb2_grpc

from spotplane_bench import stack
from spotplane_bench.results import Aim, Row, quantile
from spotplane_bench.usage_world import Catalog, User

GROUPINGS: Final = ("model", "api_key", "region", "hour", "day")
PERIODS: Final = ("24h", "30d")
TOGETHER: Final = 8
# A route that takes long is asked less often, but not less than this.
ROUTE_SECONDS: Final = 10.0
LEAST_CALLS: Final = 5
# What the largest tenant's answer may take, and by how much it may grow.
P95_MS: Final = 25.0
GROWTH: Final = 4 / 3

# One call of a route; the number makes each window another one, by some hours.
Ask: TypeAlias = Callable[[int], Awaitable[Any]]


@dataclass(slots=True)
class Taken:
    """Seconds of each call, one after the other and eight at a time."""

    alone: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)


def routes(channel: grpc.aio.Channel, user: User, catalog: Catalog, days: int) -> dict[str, Ask]:
    """Every analytics route of a tenant, through gRPC, over so many days where it has dates."""
    stub = usage_pb2_grpc.UsageServiceStub(channel)
    own, tenant = user.tenant.metadata, user.tenant.id

    def call(method: Any, request: Any, *, dated: bool = False, admin: bool = False) -> Ask:
        def ask(number: int) -> Awaitable[Any]:
            asked = type(request)()
            asked.CopyFrom(request)
            if dated:
                asked.start_date = _start(days, number)
            answer: Awaitable[Any] = method(asked, metadata=stack.ADMIN if admin else own)
            return answer

        return ask

    found = {
        "use-01 summary": call(stub.GetUsageSummary, pb.GetUsageSummaryRequest(), dated=True),
        "use-02 by model": call(stub.ListUsageByModel, pb.ListUsageByModelRequest(), dated=True),
        "use-03 by key": call(stub.ListUsageByKey, pb.ListUsageByKeyRequest(), dated=True),
        "use-06 168 hours": call(stub.GetUsageByHour, pb.GetUsageByHourRequest(hours=168)),
        "use-07 90 days": call(stub.GetUsageByDay, pb.GetUsageByDayRequest(days=90)),
        "use-08 12 weeks": call(stub.GetUsageByWeek, pb.GetUsageByWeekRequest(weeks=12)),
        "use-09 12 months": call(stub.GetUsageByMonth, pb.GetUsageByMonthRequest(months=12)),
        "use-11 168 hours": call(
            stub.ListHourlyUsageFlat, pb.ListHourlyUsageRequest(tenant_id=tenant), admin=True
        ),
        "ten-10 deployments": call(
            stub.ListTenantDeployments,
            pb.ListTenantDeploymentsRequest(id=tenant),
            dated=True,
            admin=True,
        ),
    }
    for granularity in ("day", "hour", "month"):
        found[f"use-04 by date, {granularity}"] = call(
            stub.ListUsageByDate, pb.ListUsageByDateRequest(granularity=granularity), dated=True
        )
    for group_by in GROUPINGS:
        found[f"use-05 detailed by {group_by}"] = call(
            stub.GetUsageDetailed, pb.GetUsageDetailedRequest(group_by=group_by), dated=True
        )
        found[f"ten-11 detailed by {group_by}"] = call(
            stub.GetTenantUsageDetailed,
            pb.GetTenantUsageDetailedRequest(id=tenant, group_by=group_by),
            dated=True,
            admin=True,
        )
    for name, filters in _filters(user, catalog).items():
        request = pb.GetTenantUsageDetailedRequest(id=tenant)
        for field_name, value in filters.items():
            setattr(request, field_name, value)
        found[f"ten-11 {name}"] = call(stub.GetTenantUsageDetailed, request, dated=True, admin=True)
    for period in PERIODS:
        for name, method, kind in (
            ("met-01 performance", stub.GetPerformanceMetrics, pb.GetPerformanceMetricsRequest),
            ("met-02 throughput", stub.GetThroughputMetrics, pb.GetThroughputMetricsRequest),
            ("met-03 by model", stub.GetModelMetrics, pb.GetModelMetricsRequest),
            ("met-04 latency", stub.GetLatencyMetrics, pb.GetLatencyMetricsRequest),
            ("met-05 tokens", stub.GetTokenMetrics, pb.GetTokenMetricsRequest),
        ):
            found[f"{name}, {period}"] = call(method, kind(period=period))
    return dict(sorted(found.items()))


def _filters(user: User, catalog: Catalog) -> dict[str, dict[str, str]]:
    key, model, region = str(user.keys[0]), catalog.models[0].id, catalog.regions[0].id
    return {
        "days of one model": {"group_by": "day", "model_id": model},
        "models of one key": {"group_by": "model", "api_key_id": key},
        "days of one region": {"group_by": "day", "region_id": region},
    }


def bridged(
    http: aiohttp.ClientSession, bridge: stack.Child, user: User, days: int
) -> dict[str, Ask]:
    """Some of them as REST by the bridge."""
    headers = {"Authorization": f"Bearer {user.tenant.key}"}

    def call(path: str) -> Ask:
        async def ask(number: int) -> None:
            dates = {"start_date": _start(days, number)} if path.startswith("/v1/usage") else {}
            url = f"http://{bridge.target}{path}"
            async with http.get(url, params=dates, headers=headers) as answer:
                await answer.read()
                answer.raise_for_status()

        return ask

    return {
        "use-01 summary, bridge": call("/v1/usage"),
        "use-05 detailed by model, bridge": call("/v1/usage/detailed"),
        "met-01 performance, 24h, bridge": call("/v1/metrics/performance"),
    }


async def measure(sides: Sequence[Mapping[str, Ask]], calls: int) -> list[dict[str, Taken]]:
    """Ask every route of every side so often, the sides in turns, alone and eight at a time."""
    found: list[dict[str, Taken]] = [{name: Taken() for name in side} for side in sides]
    for name in sides[0]:
        for side in sides:
            await side[name](0)  # to warm up
        until = time.perf_counter() + ROUTE_SECONDS
        for number in range(calls):
            if number >= LEAST_CALLS and time.perf_counter() > until:
                break
            for side, taken in zip(sides, found, strict=True):
                taken[name].alone.append(await _timed(side[name], number))
        for side, taken in zip(sides, found, strict=True):
            numbers = iter(range(len(taken[name].alone)))
            callers = [_caller(side[name], numbers, taken[name].together) for _ in range(TOGETHER)]
            await asyncio.gather(*callers)
    return found


async def _caller(ask: Ask, numbers: Iterator[int], taken: list[float]) -> None:
    taken.extend([await _timed(ask, number) for number in numbers])


async def _timed(ask: Ask, number: int) -> float:
    started = time.perf_counter()
    await ask(number)
    return time.perf_counter() - started


def rows(few: dict[str, Taken], many: dict[str, Taken], titles: tuple[str, str]) -> list[Row]:
    """p95 of each route with its growth, and whether all are as they should be."""
    told, growths = [], []
    for name, taken in many.items():
        ours, base = _p95(taken.alone), _p95(few[name].alone)
        growths.append(quantile(taken.alone, 0.5) / quantile(few[name].alone, 0.5))
        told.append(
            Row(
                f"{name}, p95, {titles[1]} records",
                ours,
                "ms",
                base,
                aim=Aim(P95_MS, at_most=True),
            )
        )
    worst = Row("largest growth of a median", max(growths), "", aim=Aim(GROWTH, at_most=True))
    return [*told, worst]


def details(found: dict[str, Taken]) -> dict[str, dict[str, float]]:
    """p50, p95 and p99 of each, in milliseconds."""
    return {
        name: {
            f"{how}_p{round(q * 100)}_ms": round(quantile(values, q) * 1000, 2)
            for how, values in (("alone", taken.alone), ("together", taken.together))
            for q in (0.5, 0.95, 0.99)
        }
        for name, taken in found.items()
    }


def _start(days: int, number: int) -> str:
    """Where a window begins: another hour for each number."""
    start = datetime.now(UTC) - timedelta(days=days) + timedelta(hours=number % min(48, 12 * days))
    return start.isoformat()


def _p95(values: Sequence[float]) -> float:
    return quantile(values, 0.95) * 1000
