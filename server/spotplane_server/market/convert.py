"""The market's answers as messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from spotplane.v1 import market_pb2 as pb

from spotplane_server.fleet.queries import Found
from spotplane_server.kernel.api import wire
from spotplane_server.market.queries import Active
from spotplane_server.prices import statistics as market_statistics
from spotplane_server.prices import volatility
from spotplane_server.prices.job_runs import Run
from spotplane_server.prices.queries import Price
from spotplane_server.prices.statistics import Interrupted, PoolState
from spotplane_server.prices.store import Pool
from spotplane_server.prices.volatility import Spread

MAX_ALTERNATIVES: Final = 5
# More an hour than this is worth a move by itself.
WORTH_NANOUSD: Final = 2_000_000
HOURS_A_DAY: Final = 24
DAYS_A_MONTH: Final = 30


@dataclass(frozen=True, slots=True)
class Steadiness:
    """How steady a pool is.

    Attributes:
        price: Newest clean price of 24 hours.
        interruption_rate: Per instance and day, 0 to 1.
    """

    pool_id: str
    price: Price | None
    spread: Spread
    interruption_rate: float

    @property
    def confidence(self) -> float:
        """How sure its price is; that of an unknown source without one."""
        return 0.5 if self.price is None else self.price.confidence


def pool(found: Pool) -> pb.MarketPool:
    """A pool with its name."""
    return pb.MarketPool(id=found.id, name=f"{found.instance_type} ({found.az})", az=found.az)


def pricing(
    found: Found, pools: Sequence[Pool], newest: Mapping[str, Price], on_demand: int
) -> pb.GetInstancePricingResponse:
    """What an instance costs, and would cost in each pool; unknown prices come last."""
    offers = [(newest[one.id].price_nanousd if one.id in newest else 0, one) for one in pools]
    offers.sort(key=lambda offer: (offer[0] == 0, offer[0], offer[1].id))
    current = next((one for one in pools if one.id == found.pool_id), None)
    return pb.GetInstancePricingResponse(
        current_mode=found.mode,
        current_pool=_current(found, current),
        on_demand_nanousd=on_demand,
        offers=[
            pb.GetInstancePricingResponse.Offer(
                pool=pool(one),
                price_nanousd=price,
                savings_percent=round((on_demand - price) / on_demand * 100, 2) if price else 0.0,
            )
            for price, one in offers
        ],
    )


def point(
    at: datetime, on_demand: int | None, pools: Sequence[Pool], means: Mapping[str, int]
) -> pb.PricePoint:
    """Means of one hour or day, of the pools that have one."""
    return pb.PricePoint(
        time=wire.timestamp(at),
        on_demand_nanousd=on_demand,
        prices=[
            pb.PricePoint.PoolPrice(pool_id=one.id, az=one.az, price_nanousd=means[one.id])
            for one in pools
            if one.id in means
        ],
    )


def volatilities(
    current: str | None, steady: Mapping[str, Steadiness]
) -> pb.GetPoolVolatilityResponse:
    """The current pool and the steadiest others, of which the first is the best if it is known."""
    others = sorted(
        (one for one in steady.values() if one.pool_id != current),
        key=lambda one: (
            one.spread.day is None,
            one.spread.day or 0.0,
            one.price is None,
            one.price.price_nanousd if one.price else 0,
            one.pool_id,
        ),
    )
    alternatives = [_volatility(one) for one in others[:MAX_ALTERNATIVES]]
    if alternatives and others[0].spread.day is not None:
        alternatives[0].recommendation = "best"
    return pb.GetPoolVolatilityResponse(
        current=_volatility(steady[current]) if current and current in steady else None,
        alternatives=alternatives,
    )


def simulation(
    *,
    current_nanousd: int,
    target_nanousd: int,
    confidence: float,
    target: Steadiness | None,
    downtime_seconds: float,
) -> pb.SimulateSwitchResponse:
    """What a move would bring; ``target`` is None on demand."""
    hourly = current_nanousd - target_nanousd
    daily = hourly * HOURS_A_DAY
    return pb.SimulateSwitchResponse(
        current_nanousd=current_nanousd,
        target_nanousd=target_nanousd,
        hourly_savings_nanousd=hourly,
        daily_savings_nanousd=daily,
        monthly_savings_nanousd=daily * DAYS_A_MONTH,
        estimated_downtime_seconds=round(downtime_seconds, 2),
        confidence=round(confidence, 2),
        volatility_risk="very_low" if target is None else volatility.category(target.spread.day),
        interruption_probability=0.0 if target is None else round(target.interruption_rate, 4),
        recommendation=recommendation(hourly),
    )


def recommendation(hourly_nanousd: int) -> str:
    """What to think of a move that saves so much an hour."""
    if hourly_nanousd > WORTH_NANOUSD:
        return "strongly_recommended"
    if hourly_nanousd > 0:
        return "recommended"
    return "neutral" if hourly_nanousd == 0 else "not_recommended"


def statistics(
    pools: Sequence[PoolState],
    active: Sequence[Active],
    interruptions: Sequence[Interrupted],
    on_demand: Mapping[str, int],
) -> pb.GetPoolStatisticsResponse:
    """Pools and active instances at a glance."""
    alive = sum(one.active for one in pools)
    return pb.GetPoolStatisticsResponse(
        instance_count=sum(one.instances for one in active),
        region_count=len({one.region for one in pools}),
        zone_count=len({(one.region, one.az) for one in pools}),
        type_count=len({one.instance_type for one in pools}),
        pool_count=len(pools),
        active_pool_count=alive,
        inactive_pool_count=len(pools) - alive,
        zones=_zones(pools, active),
        types_in_regions=_types_in_regions(pools, active),
        interruptions=[
            pb.GetPoolStatisticsResponse.Interruptions(
                date=one.day, count=one.count, instance_type=one.instance_type
            )
            for one in interruptions
        ],
        regions=_regions(pools),
        instance_types=_types(pools, on_demand),
    )


def run(row: Run) -> pb.PipelineRun:
    """What one run did."""
    return pb.PipelineRun(
        id=str(row.id),
        job=row.job,
        status=row.status,
        started_at=wire.timestamp(row.started_at),
        completed_at=wire.timestamp(row.completed_at),
        records_processed=row.records_processed,
        duplicates_removed=row.duplicates_removed,
        gaps_interpolated=row.gaps_interpolated,
        backfills_added=row.backfills_added,
        error=row.error,
    )


def _current(found: Found, known: Pool | None) -> pb.MarketPool | None:
    """The pool an instance runs in, known to the market or not."""
    if known is not None:
        return pool(known)
    if found.pool_id is None:
        return None
    return pb.MarketPool(id=found.pool_id, name=f"{found.instance_type} ({found.az})", az=found.az)


def _volatility(one: Steadiness) -> pb.GetPoolVolatilityResponse.Pool:
    spread, stability = one.spread.day, one.spread.stability
    return pb.GetPoolVolatilityResponse.Pool(
        pool_id=one.pool_id,
        price_nanousd=one.price.price_nanousd if one.price else None,
        volatility=None if spread is None else round(spread, 6),
        category=volatility.category(spread),
        interruption_rate=round(one.interruption_rate, 4),
        stability=None if stability is None else round(stability, 6),
    )


def _zones(
    pools: Sequence[PoolState], active: Sequence[Active]
) -> list[pb.GetPoolStatisticsResponse.Zone]:
    there: dict[tuple[str, str], list[PoolState]] = defaultdict(list)
    running: dict[tuple[str, str], list[Active]] = defaultdict(list)
    for one in pools:
        there[one.region, one.az].append(one)
    for group in active:
        running[group.region, group.az].append(group)
    return [
        pb.GetPoolStatisticsResponse.Zone(
            region=zone[0],
            az=zone[1],
            instance_count=sum(group.instances for group in running[zone]),
            type_count=len({group.instance_type for group in running[zone]}),
            average_nanousd=market_statistics.mean(there[zone]),
        )
        for zone in sorted({*there, *running})
    ]


def _types_in_regions(
    pools: Sequence[PoolState], active: Sequence[Active]
) -> list[pb.GetPoolStatisticsResponse.TypeInRegion]:
    there: dict[tuple[str, str], list[PoolState]] = defaultdict(list)
    running: dict[tuple[str, str], int] = defaultdict(int)
    for one in pools:
        there[one.instance_type, one.region].append(one)
    for group in active:
        running[group.instance_type, group.region] += group.instances
    return [
        pb.GetPoolStatisticsResponse.TypeInRegion(
            instance_type=kind[0],
            instance_count=running[kind],
            average_nanousd=market_statistics.mean(there[kind]),
            region=kind[1],
        )
        for kind in sorted({*there, *running})
    ]


def _regions(pools: Sequence[PoolState]) -> list[pb.GetPoolStatisticsResponse.Region]:
    there: dict[str, list[PoolState]] = defaultdict(list)
    for one in pools:
        there[one.region].append(one)
    regions = []
    for name, found in sorted(there.items()):
        priced = [(one.price_nanousd, one.id) for one in found if one.price_nanousd is not None]
        price, pool_id = min(priced, default=(None, None))
        regions.append(
            pb.GetPoolStatisticsResponse.Region(
                region=name,
                pool_count=len(found),
                average_nanousd=market_statistics.mean(found),
                cheapest_pool=pool_id,
                cheapest_nanousd=price,
            )
        )
    return regions


def _types(
    pools: Sequence[PoolState], on_demand: Mapping[str, int]
) -> list[pb.GetPoolStatisticsResponse.InstanceType]:
    there: dict[str, list[PoolState]] = defaultdict(list)
    for one in pools:
        there[one.instance_type].append(one)
    return [
        pb.GetPoolStatisticsResponse.InstanceType(
            instance_type=name,
            available_count=sum(one.active for one in found),
            average_nanousd=market_statistics.mean(found),
            on_demand_nanousd=on_demand.get(name),
        )
        for name, found in sorted(there.items())
    ]
