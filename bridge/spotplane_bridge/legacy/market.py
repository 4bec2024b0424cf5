"""Routes of prices and pools: reports of agents and reads of dashboards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from spotplane_bridge.body_limits import LIST_BYTES
from spotplane_bridge.legacy.requests import Incoming, instant, parameter
from spotplane_bridge.legacy.response_shapes import NANO, Shape, dollars, each, made, nested, number
from spotplane_bridge.legacy.routes import LegacyRoute, route
from spotplane_bridge.parser import ParseError

# Prices are stored to the millionth of a dollar.
_MICRO: Final = Decimal("0.000001")

_POOL: Final = Shape(id="id", name="name", az="az")
_OFFERED: Final = Shape(
    id="pool.id",
    name="pool.name",
    az="pool.az",
    price="price_nanousd",
    savings="savings_percent",
)
_VOLATILITY: Final = Shape(
    pool_id="pool_id",
    current_price="price_nanousd",
    volatility_score="volatility",
    volatility_category="category",
    interruption_rate_24h="interruption_rate",
    price_stability_7d="stability",
)


def _rows(response: Any) -> list[dict[str, Any]]:
    """Return one row per hour or day, with one member per pool; null without a price."""
    nothing = {f"pool_{pool.id}": None for pool in response.pools}
    return [
        {
            "time": _instant(point.time),
            "onDemand": dollars(point.on_demand_nanousd),
            **nothing,
            **{f"pool_{one.pool_id}": dollars(one.price_nanousd) for one in point.prices},
        }
        for point in response.points
    ]


def _instant(time: Any) -> str:
    text: str = time.ToJsonString()
    return text


_HISTORY_POOL: Final = Shape(
    id="id",
    name="name",
    az="az",
    key=made(lambda pool: f"pool_{pool.id}", type="string"),
)
_MADE_ROWS: Final = made(
    _rows,
    type="array",
    items={
        "type": "object",
        "properties": {
            "time": {"type": "string", "format": "date-time"},
            "onDemand": {"type": "number"},
        },
        "required": ["time", "onDemand"],
        "additionalProperties": {"type": ["number", "null"]},
    },
)


def _fill_report(request: Incoming, message: Any) -> None:
    """Parse a pricing report in any of its shapes; an unreadable price becomes an absent one."""
    body = request.body
    instance, pricing = _object(body.get("instance")), _object(body.get("pricing"))
    own = {**body, **instance}
    _texts(own, message, instance_id=("instance_id",), instance_type=("instance_type",))
    _texts(own, message, region=("region",), az=("az", "availability_zone"))
    _texts(own, message, pool_id=("pool_id", "current_pool_id"))
    _texts(body, message, submission_id=("submission_id",))
    _when({**body, **pricing}, message.observed_at, "collected_at", "timestamp")
    report = {**body, **pricing}
    for name in ("spot_pools", "spot_prices", "pools"):
        for item in _objects(report.get(name)):
            _spot(item, message.spot.add())
    for name in ("on_demand_price", "ondemand_price"):
        if report.get(name) is not None:
            message.on_demand.add(price_nanousd=_nanousd(report[name]))
            break
    for name in ("current_spot_price", "spot_price"):
        if report.get(name) is not None:
            message.current.price_nanousd = _nanousd(report[name])
            break
    if _object(report.get("cheapest_pool")):
        _spot(report["cheapest_pool"], message.cheapest)
    for item in _objects(report.get("pricing_data_array")):
        _either(item, message)


def _either(item: Mapping[str, Any], message: Any) -> None:
    """Parse one price of a mixed list."""
    if str(item.get("price_type", "spot")).replace("-", "").replace("_", "") == "ondemand":
        price = message.on_demand.add(price_nanousd=_nanousd(_first(item, _ON_DEMAND)))
        _texts(item, price, instance_type=("instance_type",))
        _when(item, price.observed_at, "timestamp", "collected_at")
    else:
        _spot(item, message.spot.add())


_SPOT: Final = ("price", "spot_price", "current_price")
_ON_DEMAND: Final = ("price", "on_demand_price", "ondemand_price")


def _spot(item: Mapping[str, Any], price: Any) -> None:
    price.price_nanousd = _nanousd(_first(item, _SPOT))
    _texts(item, price, pool_id=("pool_id", "id"), instance_type=("instance_type",))
    _texts(item, price, az=("az", "availability_zone"))
    _when(item, price.observed_at, "timestamp", "collected_at")


def _nanousd(value: Any) -> int:
    """Parse dollars, as number, text or `{price}`, to the millionth; -1 for no price."""
    if isinstance(value, Mapping):
        value = value.get("price")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return -1
    try:
        amount = Decimal(str(value).strip())
        # No price exceeds this, and infinity cannot be rounded.
        if not amount.is_finite() or abs(amount) > 10**6:
            return -1
        return int(amount.quantize(_MICRO) * NANO)
    except ArithmeticError:
        return -1


def _texts(values: Mapping[str, Any], message: Any, **fields: tuple[str, ...]) -> None:
    """Fill texts by the first of their names with a value; a number is converted to its digits."""
    for field, names in fields.items():
        value = _first(values, names)
        if value is None or value == "" or isinstance(value, bool | list | Mapping):
            continue
        setattr(message, field, str(value)[:_LONGEST])


# Longer than any name that the server accepts, so that a name that is too long is still rejected.
_LONGEST: Final = 256


def _when(values: Mapping[str, Any], target: Any, *names: str) -> None:
    """Parse an instant; an unreadable one is absent, and the server uses its own time."""
    value = _first(values, names)
    try:
        if value is not None:
            target.FromDatetime(instant(value))
    except ParseError:
        return


def _first(values: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a list; any other item becomes an unreadable price."""
    return [_object(item) for item in value] if isinstance(value, list) else []


ROUTES: Final[tuple[LegacyRoute, ...]] = (
    route(
        "25",
        "GET /api/client/instances/{instance_id}/pricing",
        "MarketService.GetInstancePricing",
        Shape(
            currentMode="current_mode",
            currentPool=nested("current_pool", _POOL),
            onDemand=Shape(
                name=made(lambda _answer: "On-Demand", type="string"),
                price="on_demand_nanousd",
            ),
            pools=each("offers", _OFFERED),
        ),
    ),
    route(
        "27",
        "GET /api/client/instances/{instance_id}/price-history",
        "MarketService.GetPriceHistory",
        Shape(
            data=_MADE_ROWS,
            pools=each("pools", _HISTORY_POOL),
            onDemandPrice="on_demand_nanousd",
        ),
        query=("days", "interval", "hours"),
    ),
    route(
        "30",
        "GET /api/client/pricing-history",
        "MarketService.GetAgentPriceHistory",
        Shape(
            history=each(
                "points",
                Shape(
                    timestamp="time",
                    ondemand_price="on_demand_nanousd",
                    spot_pools=each(
                        "prices",
                        Shape(
                            pool_id="pool_id",
                            az="az",
                            price="price_nanousd",
                        ),
                    ),
                ),
            ),
            days="days",
            data_points="point_count",
            agent_id="agent_id",
            instance_type="instance_type",
            region="region",
        ),
        query=("days", "agent_id", "interval"),
    ),
    route(
        "55",
        "POST /api/agents/{agent_id}/pricing-report",
        "MarketService.ReportPrices",
        Shape(success=True, records_inserted="accepted"),
        fill=_fill_report,
        max_body_bytes=LIST_BYTES,
    ),
    route(
        "70",
        "GET /api/admin/pools/statistics",
        "MarketService.GetPoolStatistics",
        Shape(
            overall=Shape(
                totalInstances="instance_count",
                totalRegions="region_count",
                totalZones="zone_count",
                totalTypes="type_count",
            ),
            byRegion=each(
                "zones",
                Shape(
                    region="region",
                    availabilityZone="az",
                    instanceCount="instance_count",
                    typeVariety="type_count",
                    averagePrice="average_nanousd",
                ),
            ),
            byInstanceType=each(
                "types_in_regions",
                Shape(
                    instanceType="instance_type",
                    instanceCount="instance_count",
                    averagePrice="average_nanousd",
                    region="region",
                ),
            ),
            interruptions=each(
                "interruptions",
                Shape(date="date", count="count", instanceType="instance_type"),
            ),
            total_pools="pool_count",
            active_pools="active_pool_count",
            inactive_pools="inactive_pool_count",
            total="pool_count",
            active="active_pool_count",
            regions=each(
                "regions",
                Shape(
                    region="region",
                    pools="pool_count",
                    average_price="average_nanousd",
                    cheapest_pool="cheapest_pool",
                    cheapest_price="cheapest_nanousd",
                ),
            ),
            instance_types=each(
                "instance_types",
                Shape(
                    instance_type="instance_type",
                    pools_available="available_count",
                    avg_spot_price="average_nanousd",
                    ondemand_price="on_demand_nanousd",
                ),
            ),
        ),
    ),
    route(
        "74",
        "GET /api/client/instances/{instance_id}/pool-volatility",
        "MarketService.GetPoolVolatility",
        Shape(
            current_pool=nested("current", _VOLATILITY),
            alternative_pools=each(
                "alternatives", Shape(_VOLATILITY, recommendation="recommendation")
            ),
        ),
    ),
    route(
        "76",
        "POST /api/client/instances/{instance_id}/simulate-switch",
        "MarketService.SimulateSwitch",
        Shape(
            simulation=Shape(
                current_price="current_nanousd",
                target_price="target_nanousd",
                hourly_savings="hourly_savings_nanousd",
                daily_savings="daily_savings_nanousd",
                monthly_savings="monthly_savings_nanousd",
                estimated_downtime_seconds=number("estimated_downtime_seconds"),
                confidence="confidence",
                volatility_risk="volatility_risk",
                interruption_probability_24h="interruption_probability",
                recommendation="recommendation",
            )
        ),
        body=(
            parameter("target_pool", "pool_id", field="target_pool_id"),
            parameter("target_type", field="target_mode"),
        ),
    ),
    route(
        "X24",
        "GET /api/admin/consolidation-jobs",
        "MarketService.ListPipelineRuns",
        Shape(
            jobs=each(
                "runs",
                Shape(
                    id="id",
                    job="job",
                    status="status",
                    started_at="started_at",
                    completed_at="completed_at",
                    records_processed="records_processed",
                    duplicates_removed="duplicates_removed",
                    gaps_interpolated="gaps_interpolated",
                    backfills_added="backfills_added",
                    error="error",
                ),
            ),
            total="total",
            days="days",
        ),
        query=("days",),
    ),
)
