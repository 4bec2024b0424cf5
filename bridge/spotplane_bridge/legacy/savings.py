"""Routes of a tenant's savings and of the downtime of its agents."""

from __future__ import annotations

from typing import Final

from spotplane_bridge.legacy.exports import Column, Csv
from spotplane_bridge.legacy.response_shapes import Array, Shape, date, each, nested
from spotplane_bridge.legacy.routes import LegacyRoute, route

_PERIOD: Final = Shape(
    name="name",
    period=date("start_time"),
    savings="savings_nanousd",
    onDemandCost="on_demand_nanousd",
    modelCost="actual_nanousd",
)
_CHARTS: Final = Shape(
    savingsTrend=each(
        "savings_trend",
        Shape(
            month="name",
            savings="savings_nanousd",
            baseline="on_demand_nanousd",
            actual="actual_nanousd",
        ),
    ),
    modeDistribution=each("mode_distribution", Shape(mode="mode", count="count")),
    switchFrequency=each("switch_frequency", Shape(date=date("day_time"), switches="switch_count")),
)
_TRIGGER: Final = Shape(
    total_seconds="total_seconds", average_seconds="mean_seconds", count="count"
)
_DOWNTIME: Final = Shape(
    total_downtime_seconds="total_seconds",
    average_downtime_per_switch="mean_seconds",
    switches_with_downtime="with_downtime_count",
    switches_without_downtime="without_downtime_count",
    downtime_by_trigger=Shape(
        automatic=nested("automatic", _TRIGGER, always=True),
        manual=nested("manual", _TRIGGER, always=True),
        emergency=nested("emergency", _TRIGGER, always=True),
    ),
    longest_downtime=nested(
        "longest",
        Shape(
            switch_id="switch_id",
            downtime_seconds="downtime_seconds",
            timestamp="initiated_at",
            reason="reason",
        ),
    ),
    total_switches="switch_count",
    successful_switches="successful_count",
    failed_switches="failed_count",
    avg_downtime_seconds="mean_seconds",
    p95_downtime_seconds="p95_seconds",
    min_downtime_seconds="min_seconds",
    max_downtime_seconds="max_seconds",
    trend="trend_percent",
)

ROUTES: Final[tuple[LegacyRoute, ...]] = (
    route(
        "58",
        "GET /api/client/{client_id}/savings",
        "SavingsService.GetSavings",
        Array("periods", _PERIOD),
        query=("range",),
    ),
    route("60", "GET /api/client/{client_id}/stats/charts", "SavingsService.GetCharts", _CHARTS),
    route(
        "61",
        "GET /api/client/{client_id}/export/savings",
        "SavingsService.ExportSavings",
        Csv(
            lambda request: f"client_{request.path['client_id']}_savings.csv",
            (
                Column("Year", "year", "year"),
                Column("Month", "month", "month"),
                Column("Month Name", "month_name", "month_name"),
                Column("On-Demand Cost ($)", "on_demand_cost", "on_demand_nanousd", decimals=2),
                Column("Actual Cost ($)", "actual_cost", "actual_nanousd", decimals=2),
                Column("Savings ($)", "savings", "savings_nanousd", decimals=2),
            ),
        ),
    ),
    route(
        "73",
        "GET /api/client/{client_id}/analytics/downtime",
        "SavingsService.GetDowntime",
        _DOWNTIME,
        query=("days",),
    ),
)
