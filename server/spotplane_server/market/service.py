"""MarketService: prices that agents tell, and answers from the clean series."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, cast

from spotplane.v1 import market_pb2 as pb
from spotplane.v1 import market_pb2_grpc

from spotplane_server.agents import access
from spotplane_server.agents.errors import (
    AgentNotFound,
    InstanceNotFound,
    PoolRequired,
    UnknownPool,
)
from spotplane_server.fleet import queries
from spotplane_server.fleet.queries import Found
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.market import convert
from spotplane_server.market import queries as store
from spotplane_server.market.convert import Steadiness
from spotplane_server.market.reports import AgentsPrices
from spotplane_server.prices import averages, job_runs, rules, statistics, volatility
from spotplane_server.prices import queries as queries_module
from spotplane_server.prices import store as market
from spotplane_server.prices.averages import INTERVALS, Interval
from spotplane_server.prices.store import Pool

PRICED: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
# Seconds that a manual switch takes an agent down, before it made any.
USUAL_DOWNTIME: Final = 12.0
# What a pool costs, of the on-demand price, before anybody told.
USUAL_SHARE: Final = 0.3


class MarketService(market_pb2_grpc.MarketServiceServicer):
    """What pools cost, how steady they are, and what moving would save."""

    def __init__(self, db: Database, clock: Clock, reports: AgentsPrices) -> None:
        self._db = db
        self._clock = clock
        self._reports = reports

    async def ReportPrices(
        self, request: pb.ReportPricesRequest, context: Context
    ) -> pb.ReportPricesResponse:
        caller = request_context.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        taken = await self._reports.report(
            access.scope(caller), agent_id, request, self._clock.now()
        )
        return pb.ReportPricesResponse(accepted=taken.accepted, dropped=taken.dropped)

    async def GetInstancePricing(
        self, request: pb.GetInstancePricingRequest, context: Context
    ) -> pb.GetInstancePricingResponse:
        now = self._clock.now()
        async with self._db.connection(access.scope(request_context.current().caller)) as conn:
            found = await _instance(conn, request.instance_id)
            pools = await market.list_pools(conn, found.region, found.instance_type, now=now)
            newest = await queries_module.list_newest(
                conn, [pool.id for pool in pools], now=now, within=PRICED
            )
            on_demand = await _on_demand(conn, found)
        return convert.pricing(found, pools, newest, on_demand)

    async def GetPriceHistory(
        self, request: pb.GetPriceHistoryRequest, context: Context
    ) -> pb.GetPriceHistoryResponse:
        interval = _interval(request)
        hours = wire.optional_integer(request, "hours", 1, 2160)
        days = wire.optional_integer(request, "days", 1, 90) or 7
        span = days * DAY if hours is None else timedelta(hours=hours)
        now = self._clock.now()
        async with self._db.connection(access.scope(request_context.current().caller)) as conn:
            found = await _instance(conn, request.instance_id)
            on_demand = await _on_demand(conn, found)
            pools, points = await _points(
                conn, found.region, found.instance_type, interval, span, now, on_demand
            )
        return pb.GetPriceHistoryResponse(
            points=points, pools=map(convert.pool, pools), on_demand_nanousd=on_demand
        )

    async def GetAgentPriceHistory(
        self, request: pb.GetAgentPriceHistoryRequest, context: Context
    ) -> pb.GetAgentPriceHistoryResponse:
        caller = request_context.current().caller
        agent_id = wire.optional_uuid(request, "agent_id", "agent ID")
        interval = _interval(request)
        days = wire.optional_integer(request, "days", 1, 30) or 7
        now = self._clock.now()
        async with self._db.connection(access.scope(caller)) as conn:
            place = await store.find_agents_place(conn, agent_id, caller.tenant_id)
            if place is None:
                raise AgentNotFound
            _, points = await _points(
                conn, place.region, place.instance_type, interval, days * DAY, now, None
            )
        return pb.GetAgentPriceHistoryResponse(
            points=points,
            days=days,
            point_count=len(points),
            agent_id=str(place.agent_id),
            instance_type=place.instance_type,
            region=place.region,
        )

    async def GetPoolStatistics(
        self, request: pb.GetPoolStatisticsRequest, context: Context
    ) -> pb.GetPoolStatisticsResponse:
        now = self._clock.now()
        async with self._db.connection(access.scope(request_context.current().caller)) as conn:
            return convert.statistics(
                await statistics.list_all(conn, now),
                await store.count_active(conn),
                await statistics.list_interruptions(conn, now),
                await statistics.list_on_demand_means(conn),
            )

    async def GetPoolVolatility(
        self, request: pb.GetPoolVolatilityRequest, context: Context
    ) -> pb.GetPoolVolatilityResponse:
        now = self._clock.now()
        async with self._db.connection(access.scope(request_context.current().caller)) as conn:
            found = await _instance(conn, request.instance_id)
            pools = await market.list_pools(conn, found.region, found.instance_type, now=now)
        steady = await self._steadiness([pool.id for pool in pools], now)
        return convert.volatilities(found.pool_id, steady)

    async def SimulateSwitch(
        self, request: pb.SimulateSwitchRequest, context: Context
    ) -> pb.SimulateSwitchResponse:
        target = _target(request)
        now = self._clock.now()
        async with self._db.connection(access.scope(request_context.current().caller)) as conn:
            found = await _instance(conn, request.instance_id)
            pools = {
                pool.id: pool
                for pool in await market.list_pools(
                    conn, found.region, found.instance_type, now=now
                )
            }
            on_demand = await _on_demand(conn, found)
            downtime = await store.read_manual_downtime(conn, found.tenant_id, found.agent_id)
        if target is not None and (target not in pools or pools[target].price_nanousd is None):
            raise UnknownPool(
                "target_pool is no known pool of the instance's type and region",
                field="target_pool_id",
            )
        current = found.pool_id if found.mode == "spot" else None
        steady = await self._steadiness([one for one in (current, target) if one], now)
        return convert.simulation(
            current_nanousd=_price(pools, current, on_demand),
            target_nanousd=_price(pools, target, on_demand),
            confidence=min([one.confidence for one in steady.values()], default=1.0),
            target=None if target is None else steady[target],
            downtime_seconds=USUAL_DOWNTIME if downtime is None else downtime,
        )

    async def ListPipelineRuns(
        self, request: pb.ListPipelineRunsRequest, context: Context
    ) -> pb.ListPipelineRunsResponse:
        days = wire.optional_integer(request, "days", 1, 90) or 7
        since = self._clock.now() - days * DAY
        async with self._db.connection(access.scope(request_context.current().caller)) as conn:
            found = await job_runs.list_runs(conn, since)
            total = await job_runs.count_runs(conn, since)
        return pb.ListPipelineRunsResponse(runs=map(convert.run, found), total=total, days=days)

    async def _steadiness(self, pool_ids: list[str], now: datetime) -> dict[str, Steadiness]:
        """How steady pools are, counted over all tenants and attributed to none."""
        async with self._db.connection(ALL_TENANTS) as conn:
            newest = await queries_module.list_newest(
                conn, pool_ids, now=now, within=volatility.DAY
            )
            spreads = await volatility.list_spreads(conn, pool_ids, now=now)
            hit = await volatility.count_interruptions(conn, pool_ids, now - volatility.DAY, now)
            ran = await store.sum_instance_days(conn, pool_ids, now - volatility.DAY, now)
        return {
            one: Steadiness(
                one,
                newest.get(one),
                spreads[one],
                volatility.interruption_rate(hit.get(one, 0), ran.get(one, 0.0)),
            )
            for one in pool_ids
        }


async def _instance(conn: Conn, named: str) -> Found:
    """The instance of a request.

    Raises:
        Invalid: None is named. InstanceNotFound: The caller has none of that name.
    """
    instance_id = wire.text(named, "instance_id", maximum=128, required=True)
    tenant_id = request_context.current().caller.tenant_id
    found = await queries.find_instance(conn, instance_id, tenant_id)
    if found is None:
        raise InstanceNotFound
    return found


async def _on_demand(conn: Conn, found: Found) -> int:
    kind = found.region, found.instance_type
    return (await queries_module.list_on_demand(conn, [kind]))[kind]


async def _points(
    conn: Conn,
    region: str,
    instance_type: str,
    interval: Interval,
    span: timedelta,
    now: datetime,
    unknown_on_demand: int | None,
) -> tuple[list[Pool], list[pb.PricePoint]]:
    """Pools of a type and region, and their means up to now, as many as the span has intervals."""
    step = INTERVALS[interval]
    start = rules.floor(now, step) - (-(-span // step) - 1) * step
    pools = await market.list_pools(conn, region, instance_type, now=now)
    means = await averages.list_means(conn, [pool.id for pool in pools], start, now, interval)
    kind = region, instance_type
    told = (await queries_module.list_on_demand_series(conn, [kind], start, now)).get(kind)

    def on_demand(at: datetime) -> int | None:
        known = None if told is None else told.at(at, within=None)
        return unknown_on_demand if known is None else known

    return pools, [
        convert.point(at, on_demand(min(at + step, now)), pools, by_pool)
        for at, by_pool in means.items()
    ]


def _interval(request: pb.GetPriceHistoryRequest | pb.GetAgentPriceHistoryRequest) -> Interval:
    return cast("Interval", wire.optional_one_of(request, "interval", INTERVALS) or "hour")


def _target(request: pb.SimulateSwitchRequest) -> str | None:
    """The pool to move to; None for on demand.

    Raises:
        Invalid: No known mode. PoolRequired: No pool for spot.
    """
    pool_id = wire.optional_text(request, "target_pool_id", maximum=128) or None
    mode = wire.optional_one_of(request, "target_mode", ("spot", "ondemand")) or "spot"
    if mode == "ondemand":
        return None
    if pool_id is None:
        raise PoolRequired("target_pool is required for spot", field="target_pool_id")
    return pool_id


def _price(pools: dict[str, Pool], pool_id: str | None, on_demand: int) -> int:
    """What a pool costs, or on demand."""
    if pool_id is None:
        return on_demand
    known = pools[pool_id].price_nanousd if pool_id in pools else None
    return round(on_demand * USUAL_SHARE) if known is None else known
