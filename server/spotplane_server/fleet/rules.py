"""What is decided about instances and their switches without asking anybody: pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from spotplane_server.instances import rules as instance_rules
from spotplane_server.instances.store import Instance
from spotplane_server.switches.rules import Told

Target: TypeAlias = Literal["ondemand", "pool", "spot"]

# Outside of this an agent's clock is not believed, and the time of receipt counts.
AHEAD: Final = timedelta(minutes=5)
BEHIND: Final = timedelta(hours=24)

MANUAL_PRIORITY: Final = 75

# An agent that was told to end an instance, or could not, is not told again for so long.
ASK_AGAIN_AFTER: Final = timedelta(minutes=5)
# The agent's own way of learning of a replica's end comes first.
REPLICA_UNCONFIRMED_AFTER: Final = timedelta(seconds=60)

_MODES: Final = {"spot": "spot", "ondemand": "ondemand", "on-demand": "ondemand"}
_REPORTED_TRIGGERS: Final = {
    "manual": "MANUAL",
    "model": "AUTOMATIC",
    "automatic": "AUTOMATIC",
    "emergency": "EMERGENCY",
}


@dataclass(frozen=True, slots=True)
class End:
    """One end of a switch as its agent tells it; what it did not say is None."""

    instance_id: str
    instance_type: str | None = None
    region: str | None = None
    az: str | None = None
    image_id: str | None = None
    mode: str | None = None
    pool_id: str | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """What a switch's agent knows of prices, nano-USD an hour."""

    on_demand_nanousd: int | None = None
    old_spot_nanousd: int | None = None
    new_spot_nanousd: int | None = None


def mode_of(word: str | None) -> str | None:
    """An agent's word for how an instance is paid for; None when it says nothing."""
    return _MODES.get((word or "").strip().lower())


def trigger_reported(word: str | None) -> str:
    """What an agent's word for the cause of a switch means, where no command ordered it."""
    return _REPORTED_TRIGGERS.get((word or "").strip().lower(), "MANUAL")


def believable(at: datetime | None, now: datetime) -> datetime | None:
    """An agent's instant; the time of receipt when its clock cannot be right."""
    if at is None or now - BEHIND <= at <= now + AHEAD:
        return at
    return now


def told_at(told: Told, now: datetime) -> Told:
    """A report whose instants are believable."""
    return replace(
        told,
        initiated_at=believable(told.initiated_at, now),
        launched_at=believable(told.launched_at, now),
        ready_at=believable(told.ready_at, now),
        traffic_switched_at=believable(told.traffic_switched_at, now),
        old_terminated_at=believable(told.old_terminated_at, now),
    )


def priced(told: Told, prices: Prices, old_mode: str | None, new_mode: str | None) -> Told:
    """A report with the price of either end: its pool's in spot mode, on-demand otherwise."""
    return replace(
        told,
        old_price_nanousd=_price(old_mode, prices.old_spot_nanousd, prices.on_demand_nanousd),
        new_price_nanousd=_price(new_mode, prices.new_spot_nanousd, prices.on_demand_nanousd),
    )


def completed(end: End, other: Instance | None, mode: str | None, pool_id: str | None) -> End:
    """The new end of a switch, with what its agent left out.

    Args:
        end: As told.
        other: The instance that was left; type and region stay when nothing else is said.
        mode: What the command asked for.
        pool_id: Likewise.
    """
    told_pool = end.pool_id or pool_id
    found = mode_of(end.mode) or mode_of(mode) or ("spot" if told_pool else "unknown")
    pool_type, _, pool_az = (told_pool or "").rpartition(".")
    instance_type = end.instance_type or pool_type or (other.instance_type if other else "")
    az = end.az or pool_az or (other.az if other else "")
    pool = None
    if found == "spot":
        pool = told_pool or (instance_rules.pool_id(instance_type, az) if az else None)
    return replace(
        end,
        instance_type=instance_type or "unknown",
        region=end.region or (other.region if other else "unknown"),
        az=az or "unknown",
        mode=found,
        pool_id=pool,
    )


def pool_name(instance_type: str, az: str) -> str:
    """A pool's name for people."""
    return f"{instance_type} ({az})"


def is_active(status: str) -> bool:
    """Whether an instance in this state is launching, serving or standing by."""
    return instance_rules.role(status) != "retired"


def _price(mode: str | None, spot: int | None, on_demand: int | None) -> int | None:
    return spot if mode == "spot" else on_demand
