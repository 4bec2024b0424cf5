"""Reading the requests of FleetService; every refusal names its field."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, Final, TypeAlias

from google.protobuf.message import Message
from spotplane.v1 import fleet_pb2 as pb

from spotplane_server.fleet import queries, rules
from spotplane_server.fleet.launches import Launch
from spotplane_server.fleet.queries import Filters
from spotplane_server.fleet.rules import End, Prices
from spotplane_server.fleet.switch_effects import Report
from spotplane_server.fleet.switch_requests import Wish
from spotplane_server.fleet.terminations import EndReport
from spotplane_server.instances import rules as instance_rules
from spotplane_server.instances.store import Machine
from spotplane_server.kernel.api import wire
from spotplane_server.prices.instance_prices import OwnPrices
from spotplane_server.switches.rules import Told

MODES: Final = ("spot", "ondemand", "unknown")
MAX_ID: Final = 128
MAX_NAME: Final = 64
MAX_TEXT: Final = 2000
MAX_SECONDS: Final = 30 * 86_400
MAX_NANOUSD: Final = 100 * 10**9
_STATUSES: Final = {"active": queries.ACTIVE, "terminated": queries.TERMINATED}


# Requests about one instance, which its tenant may have to be told with.
NamesInstance: TypeAlias = (
    pb.ListSwitchOptionsRequest | pb.ForceSwitchRequest | pb.ListInstanceLogsRequest
)


def instance_id(
    request: NamesInstance
    | pb.ReportInstanceTerminationRequest
    | pb.ReportInstanceLaunchedRequest
    | pb.RegisterInstanceRequest,
) -> str:
    """The cloud's id of an instance, required."""
    return wire.text(request.instance_id, "instance_id", maximum=MAX_ID, required=True)


def filters(request: pb.ListInstancesRequest) -> Filters:
    """Which instances are wanted."""
    status = wire.optional_one_of(request, "status", _STATUSES)
    return Filters(
        _STATUSES[status] if status else None,
        wire.optional_one_of(request, "mode", MODES),
        wire.optional_text(request, "region", maximum=MAX_NAME) or None,
        wire.optional_text(request, "search", maximum=255) or None,
    )


def wish(request: pb.ForceSwitchRequest) -> Wish:
    """Where somebody wants an agent."""
    pool_id = wire.optional_text(request, "pool_id", maximum=128) or None
    kind = wire.optional_text(request, "new_instance_type", maximum=50) or None
    target = wire.optional_one_of(request, "target", ("ondemand", "pool", "spot"))
    if target is None and pool_id is None:
        raise wire.missing("target")
    match target or "pool":
        case "ondemand":
            return Wish("ondemand", None, kind)
        case "spot":
            return Wish("spot", pool_id, kind)
        case _:
            return Wish("pool", pool_id, kind)


def end_report(request: pb.ReportInstanceTerminationRequest) -> EndReport:
    """What came of ending an instance."""
    named = instance_id(request)
    if not request.HasField("success"):
        raise wire.missing("success")
    return EndReport(
        named, request.success, wire.optional_text(request, "error", maximum=MAX_TEXT) or None
    )


def launch(request: pb.ReportInstanceLaunchedRequest) -> Launch:
    """What an agent has launched."""
    return Launch(
        instance_id(request),
        wire.optional_text(request, "placeholder_id", maximum=MAX_ID) or None,
        wire.optional_text(request, "instance_type", maximum=MAX_NAME) or None,
        wire.optional_text(request, "az", maximum=MAX_NAME) or None,
        wire.optional_uuid(request, "command_id", "command ID"),
    )


def machine(request: pb.RegisterInstanceRequest) -> Machine:
    """An instance to be made known by hand."""

    def required(field: str) -> str:
        return wire.text(getattr(request, field), field, maximum=MAX_NAME, required=True)

    named, instance_type, az = instance_id(request), required("instance_type"), required("az")
    mode = wire.one_of(request.mode, "mode", MODES)
    pool_id = wire.optional_text(request, "pool_id", maximum=MAX_ID) or None
    if mode == "spot" and pool_id is None:
        pool_id = instance_rules.pool_id(instance_type, az)
    return Machine(
        named,
        instance_type,
        required("region"),
        az,
        mode,
        pool_id,
        image_id=wire.optional_text(request, "image_id", maximum=MAX_NAME) or None,
    )


def own_prices(request: pb.RegisterInstanceRequest, now: datetime) -> OwnPrices | None:
    """What the instance is said to cost; None when nothing is said."""
    spot = wire.optional_integer(request, "spot_price_nanousd", 1, MAX_NANOUSD)
    on_demand = wire.optional_integer(request, "on_demand_price_nanousd", 1, MAX_NANOUSD)
    return None if spot is None and on_demand is None else OwnPrices(spot, on_demand, now)


def switch_report(request: pb.ReportSwitchRequest) -> Report:
    """What an agent says of a switch."""
    success = request.success if request.HasField("success") else True
    old = _end(request, "old_instance")
    new = _end(request, "new_instance")
    if success and new is None:
        raise wire.missing("new_instance.instance_id")
    return Report(
        wire.optional_uuid(request, "command_id", "command ID"),
        old,
        new,
        success,
        Prices(*(_price(request.prices, name) for name in _PRICES)),
        _told(request),
        wire.optional_text(request, "trigger", maximum=32),
        wire.optional_text(request, "error_message", maximum=MAX_TEXT) or None,
    )


_PRICES: Final = ("on_demand_nanousd", "old_spot_nanousd", "new_spot_nanousd")
_INSTANTS: Final = (
    "initiated_at",
    "launched_at",
    "ready_at",
    "traffic_switched_at",
    "old_terminated_at",
)


def _end(request: pb.ReportSwitchRequest, field: str) -> End | None:
    told = getattr(request, field)
    named = wire.text(told.instance_id, f"{field}.instance_id", maximum=MAX_ID)
    if not named:
        return None

    def short(name: str) -> str | None:
        return wire.optional_text(told, name, maximum=MAX_NAME) or None

    return End(
        named,
        short("instance_type"),
        short("region"),
        short("az"),
        short("image_id"),
        rules.mode_of(short("mode")),
        wire.optional_text(told, "pool_id", maximum=MAX_ID) or None,
    )


def _price(prices: pb.SwitchPrices, field: str) -> int | None:
    price: int | None = wire.optional(prices, field)
    # An unbelievable price is none; it does not fail the report of what has happened.
    return price if price is not None and 0 < price <= MAX_NANOUSD else None


def _told(request: pb.ReportSwitchRequest) -> Told:
    instants: dict[str, Any] = {
        name: wire.from_timestamp(getattr(request.timing, name))
        for name in _INSTANTS
        if request.timing.HasField(name)
    }
    return Told(
        **instants,
        downtime_seconds=_seconds(request, "downtime_seconds"),
        duration_seconds=_seconds(request, "total_duration_seconds"),
    )


def _seconds(request: Message, field: str) -> int | None:
    value = wire.optional(request, field)
    if value is None:
        return None
    return None if math.isnan(value) else int(min(max(value, 0.0), float(MAX_SECONDS)))
