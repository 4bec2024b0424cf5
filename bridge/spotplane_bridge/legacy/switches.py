"""Routes of switches: targets, manual requests, reports of agents, and history."""

from __future__ import annotations

from typing import Any, Final

from spotplane_bridge.legacy.exports import Column, Csv
from spotplane_bridge.legacy.requests import Incoming, Parameter, integer, parameter
from spotplane_bridge.legacy.response_shapes import (
    Array,
    Either,
    Shape,
    default,
    each,
    mapped,
    optional,
    usd,
)
from spotplane_bridge.legacy.routes import LegacyRoute, route

# Names of triggers for display: a user, the model, or an emergency.
TRIGGER: Final = mapped(
    "trigger", {"MANUAL": "manual", "AUTOMATIC": "model", "EMERGENCY": "emergency"}
)
NONE: Final = "n/a"

OPTION: Final = Shape(
    id="id", name="name", az="az", instanceType="instance_type", price="price_nanousd"
)
HISTORY: Final = Shape(
    id="id",
    instanceId=default("new_instance_id", NONE),
    oldInstanceId=default("old_instance_id", NONE),
    newInstanceId=default("new_instance_id", NONE),
    timestamp="initiated_at",
    fromMode=default("old_mode", "unknown"),
    toMode=default("new_mode", "unknown"),
    fromPool=default("old_pool_id", NONE),
    toPool=default("new_pool_id", NONE),
    trigger=TRIGGER,
    price=usd("new_price_nanousd", absent=0),
    savingsImpact="savings_impact_nanousd",
    downtimeSeconds="downtime_seconds",
    success="success",
)
SWITCH: Final = Shape(
    id="id",
    agent_id="agent_id",
    old_instance_id=default("old_instance_id", NONE),
    new_instance_id=default("new_instance_id", NONE),
    old_mode=default("old_mode", "unknown"),
    new_mode=default("new_mode", "unknown"),
    old_az=optional("old_az"),
    new_az=optional("new_az"),
    trigger_type=TRIGGER,
    savings_impact="savings_impact_nanousd",
    initiated_at="initiated_at",
)
QUEUED: Final = Shape(success="success", command_id=optional("command_id"), message="message")


def _end(name: str) -> tuple[Parameter, ...]:
    """Return one end of a switch: an object, or only its id in the flat shape."""
    members = (
        parameter("instance_id", max_length=128),
        parameter("instance_type", max_length=64),
        parameter("region", max_length=64),
        parameter("az", "availability_zone", max_length=64),
        parameter("ami_id", field="image_id", max_length=64),
        parameter("mode", "current_mode", max_length=64),
        parameter("pool_id", "current_pool_id", max_length=128),
    )
    return (
        parameter(name, of=members),
        parameter(f"{name}_id", field=f"{name}.instance_id", max_length=128),
    )


# Each kind of agent has its own names for the same instants.
_INSTANTS: Final = (
    ("initiated_at", ("switch_initiated_at", "initiated_at")),
    ("launched_at", ("new_instance_launched_at", "instance_launched_at")),
    ("ready_at", ("new_instance_ready_at", "instance_ready_at")),
    ("traffic_switched_at", ("traffic_switched_at",)),
    ("old_terminated_at", ("old_instance_terminated_at", "old_terminated_at")),
)
_TIMING: Final = tuple(parameter(*names, field=field) for field, names in _INSTANTS)
_FLAT_TIMING: Final = tuple(
    parameter(*names, field=f"timing.{field}") for field, names in _INSTANTS
)
_PRICES: Final = (
    parameter("on_demand", "ondemand", field="on_demand_nanousd"),
    parameter("old_spot", field="old_spot_nanousd"),
    parameter("new_spot", field="new_spot_nanousd"),
)


def _up_to_hundred(value: Any) -> int:
    return integer(value, 1, 100)


def _hundred(_request: Incoming, message: Any) -> None:
    if not message.HasField("limit"):
        message.limit = 100


ROUTES: Final[tuple[LegacyRoute, ...]] = (
    route(
        "28",
        "GET /api/client/instances/{instance_id}/available-options",
        "FleetService.ListSwitchOptions",
        Shape(
            currentType="instance_type",
            currentRegion="region",
            currentAz="az",
            availablePools=each("pools", OPTION),
            pools=each("pools", OPTION),
            availableTypes="instance_types",
            instanceTypes="instance_types",
        ),
    ),
    route(
        "29",
        "POST /api/client/instances/{instance_id}/force-switch",
        "FleetService.ForceSwitch",
        Either(
            lambda m: m.success,
            QUEUED,
            Shape(
                QUEUED,
                current_mode=optional("current_mode"),
                current_pool_id=optional("current_pool_id"),
            ),
        ),
        body=(
            parameter("target", "target_type"),
            parameter("pool_id", "target_pool", max_length=128),
            parameter("new_instance_type", max_length=50),
            "auto_terminate",
        ),
    ),
    route(
        "56",
        "POST /api/agents/{agent_id}/switch-report",
        "FleetService.ReportSwitch",
        Shape(success=True, switch_id="switch_id"),
        body=(
            "command_id",
            *_end("old_instance"),
            *_end("new_instance"),
            "success",
            parameter("prices", "pricing", field="prices", of=_PRICES),
            parameter("timing", of=_TIMING),
            *_FLAT_TIMING,
            "trigger",
            parameter("error_message", "error", max_length=2000),
            "downtime_seconds",
            "total_duration_seconds",
        ),
    ),
    route(
        "59",
        "GET /api/client/{client_id}/switch-history",
        "FleetService.ListSwitches",
        Array("switches", HISTORY),
        query=(
            parameter("instance_id", max_length=128),
            parameter("limit", convert=_up_to_hundred),
            "cursor",
        ),
        fill=_hundred,
    ),
    route(
        "62",
        "GET /api/client/{client_id}/export/switch-history",
        "FleetService.ExportSwitches",
        Csv(
            lambda request: f"client_{request.path['client_id']}_switch_history.csv",
            (
                Column("Timestamp", "timestamp", "initiated_at"),
                Column("Old Instance ID", "old_instance_id", default("old_instance_id", NONE)),
                Column("New Instance ID", "new_instance_id", default("new_instance_id", NONE)),
                Column("From Mode", "from_mode", default("old_mode", "unknown")),
                Column("To Mode", "to_mode", default("new_mode", "unknown")),
                Column("From Pool", "from_pool", default("old_pool_id", NONE)),
                Column("To Pool", "to_pool", default("new_pool_id", NONE)),
                Column("Trigger", "trigger", TRIGGER),
                Column("Price ($)", "price", usd("new_price_nanousd", absent=0), decimals=6),
                Column(
                    "Savings Impact ($/hr)", "savings_impact", "savings_impact_nanousd", decimals=6
                ),
            ),
        ),
    ),
    route(
        "X19",
        "GET /api/client/{client_id}/switches",
        "FleetService.ListSwitches",
        Shape(switches=each("switches", SWITCH), total="pagination.total"),
        query=("limit", "offset", "cursor"),
    ),
)
