"""Pure rules of spend budgets: periods, shares, what is to be told and whom to stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final, Literal, TypeAlias, cast
from uuid import UUID

from spotplane_server.kernel.api import time_ranges
from spotplane_server.usage import time_windows

Period: TypeAlias = Literal["day", "week", "month", "total"]
State: TypeAlias = Literal["ok", "alerting", "exceeded", "stopped"]

PERIODS: Final[tuple[Period, ...]] = ("day", "week", "month", "total")
DEFAULT_PERIOD: Final[Period] = "month"
DEFAULT_THRESHOLDS: Final = (50, 80, 100)
MAX_THRESHOLDS: Final = 10
MAX_THRESHOLD_PCT: Final = 1000
MAX_LIMIT_NANOS: Final = 10**18
# Of one tenant; all of them are looked at every few seconds.
MAX_BUDGETS: Final = 100
# The limit itself is told of whatever else is.
LIMIT_PCT: Final = 100
_RESOLUTION: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Standing:
    """A budget, and how spending stands in its running period.

    Attributes:
        api_key_id: The one key that is covered; None for the tenant's whole usage.
        period_start: Of the running period; of ``total`` the first instant there is.
        period_end: Not included; of ``total`` the last instant there is.
        spent_nanos: Used in the period.
        crossed: Shares that were told of in the period.
        stopped_period: Start of the period in which a stop began that is still kept; None for none.
    """

    tenant_id: UUID
    id: UUID
    api_key_id: UUID | None
    name: str
    period: str
    limit_nanos: int
    alert_thresholds_pct: list[int]
    hard_stop: bool
    created_at: datetime
    updated_at: datetime
    period_start: datetime
    period_end: datetime
    spent_nanos: int
    crossed: list[int]
    stopped_period: datetime | None

    @property
    def endless(self) -> bool:
        """Whether its period never ends."""
        return self.period == "total"

    @property
    def spent_pct(self) -> float:
        """Share of the limit that is used."""
        return self.spent_nanos / self.limit_nanos * 100

    @property
    def is_stopped(self) -> bool:
        """Whether it stops its keys in the running period."""
        return self.stopped_period == self.period_start

    @property
    def state(self) -> State:
        """The worst that holds."""
        if self.is_stopped:
            return "stopped"
        if self.spent_nanos >= self.limit_nanos:
            return "exceeded"
        return "alerting" if reached(self) else "ok"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about a budget.

    Attributes:
        crossed: Shares to tell of, ascending.
        ends: Whether its stop ends.
        begins: Whether a stop begins; when both, the stop of an earlier period ends first.
    """

    crossed: tuple[int, ...]
    ends: bool
    begins: bool

    def __bool__(self) -> bool:
        return bool(self.crossed) or self.ends or self.begins


def running(now: datetime) -> Mapping[Period, tuple[datetime, datetime]]:
    """Each period's start, and its end, which is not included: calendar periods in UTC."""
    found: dict[Period, tuple[datetime, datetime]] = {
        "total": (time_ranges.FIRST, time_ranges.LAST)
    }
    for period in PERIODS:
        if period != "total":
            start = time_windows.floor(now, period)
            found[period] = start, time_windows.step(start, period, 1)
    return found


def reached(standing: Standing) -> set[int]:
    """Shares to tell of that are reached, the limit among them; exact."""
    used = standing.spent_nanos * 100
    shares = {*standing.alert_thresholds_pct, LIMIT_PCT}
    return {share for share in shares if used >= standing.limit_nanos * share}


def plan(standing: Standing) -> Plan:
    """Decide what a budget's standing asks for; nothing once all of it has been done."""
    wanted = standing.hard_stop and standing.spent_nanos >= standing.limit_nanos
    kept = standing.stopped_period is not None
    return Plan(
        tuple(sorted(reached(standing) - set(standing.crossed))),
        ends=kept and not (wanted and standing.is_stopped),
        begins=wanted and not standing.is_stopped,
    )


def projected_nanos(standing: Standing, now: datetime) -> int | None:
    """What will be used at the period's end if it goes on like this, half to even.

    None for a period without an end.
    """
    if standing.endless:
        return None
    elapsed = (now - standing.period_start) // _RESOLUTION
    whole = (standing.period_end - standing.period_start) // _RESOLUTION
    if elapsed <= 0:
        return standing.spent_nanos
    return round(Fraction(standing.spent_nanos * whole, elapsed))


def thresholds(given: list[int]) -> list[int]:
    """Shares in order, each once."""
    return sorted(set(given))


def period(text: str) -> Period:
    """A period by its name, which was checked."""
    return cast("Period", text)
