"""What a switch is worth and what it took: pure decisions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

Trigger: TypeAlias = Literal["MANUAL", "AUTOMATIC", "EMERGENCY"]

TRIGGERS: Final[tuple[Trigger, ...]] = ("MANUAL", "AUTOMATIC", "EMERGENCY")
# An old process waits as long as it was told to before it says goodbye, and then takes its time.
GOODBYE_GRACE: Final = timedelta(seconds=900)

# Causes that no command gives a trigger to. Whatever else moves an agent is an emergency.
_BY_CAUSE: Final[dict[str, Trigger]] = {
    "switch": "MANUAL",
    "user": "MANUAL",
    "operator": "MANUAL",
    "promotion": "MANUAL",
    "registration": "AUTOMATIC",
}


@dataclass(frozen=True, slots=True)
class Side:
    """One end of a switch: the instance that was left, or the one that serves since."""

    instance_id: str
    mode: str
    pool_id: str | None
    az: str | None
    region: str | None = None
    instance_type: str | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What an agent says of its switch; whatever it did not say is None.

    Attributes:
        old_price_nanousd: What the old instance cost an hour, in its mode.
        new_price_nanousd: What the new one costs.
        initiated_at: When it began.
        launched_at: When the new instance was launched.
        ready_at: When that one could serve.
        traffic_switched_at: When that one did.
        old_terminated_at: When the old instance was ended.
        downtime_seconds: Its own measure, which beats ours.
        duration_seconds: Likewise.
    """

    old_price_nanousd: int | None = None
    new_price_nanousd: int | None = None
    initiated_at: datetime | None = None
    launched_at: datetime | None = None
    ready_at: datetime | None = None
    traffic_switched_at: datetime | None = None
    old_terminated_at: datetime | None = None
    downtime_seconds: int | None = None
    duration_seconds: int | None = None


NOTHING_TOLD: Final = Told()


def trigger_of(cause: str, ordered: str | None = None) -> Trigger:
    """What moved an agent: its command's trigger, or what the cause amounts to without one."""
    for known in TRIGGERS:
        if ordered == known:
            return known
    return _BY_CAUSE.get(cause, "EMERGENCY")


def impact(old_nanousd: int | None, new_nanousd: int | None) -> int:
    """Old minus new price, nano-USD an hour; an unknown one counts as 0."""
    return (old_nanousd or 0) - (new_nanousd or 0)


def downtime_seconds(told: Told) -> int:
    """Whole seconds in which nothing served; 0 while the old instance was still running."""
    if told.downtime_seconds is not None:
        return max(0, told.downtime_seconds)
    served_at = told.traffic_switched_at or told.ready_at
    if served_at is None or told.old_terminated_at is None:
        return 0
    return max(0, int((served_at - told.old_terminated_at).total_seconds()))


def duration_seconds(told: Told) -> int | None:
    """Whole seconds from the beginning until the new instance was ready; None when unknown."""
    if told.duration_seconds is not None:
        return max(0, told.duration_seconds)
    if told.initiated_at is None or told.ready_at is None:
        return None
    return max(0, int((told.ready_at - told.initiated_at).total_seconds()))
