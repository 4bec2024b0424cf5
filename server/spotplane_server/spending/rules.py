"""Pure rules of spend budgets: periods, thresholds, alerts and hard stops."""

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
# Per tenant; every budget is evaluated every few seconds.
MAX_BUDGETS: Final = 100
# Reaching the limit is always published, whether or not it is a configured threshold.
LIMIT_PCT: Final = 100
_RESOLUTION: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """A budget with its spend in the current period.

    Attributes:
        api_key_id: The only key that counts; None for all usage of the tenant.
        period_start: Start of the current period; the minimum instant for ``total``.
        period_end: Exclusive; the maximum instant for ``total``.
        spent_nanos: Spend in the current period.
        crossed: Thresholds, in percent, already published in the period.
        stopped_period: Start of the period in which the stored stop began; None without a stop.
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
        """Whether the period never ends."""
        return self.period == "total"

    @property
    def spent_pct(self) -> float:
        """Spend in percent of the limit."""
        return self.spent_nanos / self.limit_nanos * 100

    @property
    def is_stopped(self) -> bool:
        """Whether the budget blocks its keys in the current period."""
        return self.stopped_period == self.period_start

    @property
    def state(self) -> State:
        """The most severe state that applies."""
        if self.is_stopped:
            return "stopped"
        if self.spent_nanos >= self.limit_nanos:
            return "exceeded"
        return "alerting" if reached_thresholds(self) else "ok"


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """Actions that a budget requires now.

    Attributes:
        crossed: Thresholds to publish, ascending.
        ends: Whether the stop ends.
        begins: Whether a stop begins; if both, the stop of the earlier period ends first.
    """

    crossed: tuple[int, ...]
    ends: bool
    begins: bool

    def __bool__(self) -> bool:
        return bool(self.crossed) or self.ends or self.begins


def current_periods(now: datetime) -> Mapping[Period, tuple[datetime, datetime]]:
    """Return start and exclusive end of each current calendar period in UTC."""
    found: dict[Period, tuple[datetime, datetime]] = {
        "total": (time_ranges.FIRST, time_ranges.LAST)
    }
    for period in PERIODS:
        if period != "total":
            start = time_windows.floor(now, period)
            found[period] = start, time_windows.step(start, period, 1)
    return found


def reached_thresholds(budget: BudgetStatus) -> set[int]:
    """Return the thresholds that spend has reached, including the limit; exact."""
    used = budget.spent_nanos * 100
    shares = {*budget.alert_thresholds_pct, LIMIT_PCT}
    return {share for share in shares if used >= budget.limit_nanos * share}


def plan(budget: BudgetStatus) -> BudgetPlan:
    """Decide which actions a budget requires; an empty plan once all are done."""
    must_stop = budget.hard_stop and budget.spent_nanos >= budget.limit_nanos
    has_stop = budget.stopped_period is not None
    return BudgetPlan(
        tuple(sorted(reached_thresholds(budget) - set(budget.crossed))),
        ends=has_stop and not (must_stop and budget.is_stopped),
        begins=must_stop and not budget.is_stopped,
    )


def projected_nanos(budget: BudgetStatus, now: datetime) -> int | None:
    """Extrapolate the spend linearly to the period's end, rounded half to even.

    Returns None for a period without an end.
    """
    if budget.endless:
        return None
    elapsed = (now - budget.period_start) // _RESOLUTION
    whole = (budget.period_end - budget.period_start) // _RESOLUTION
    if elapsed <= 0:
        return budget.spent_nanos
    return round(Fraction(budget.spent_nanos * whole, elapsed))


def thresholds(given: list[int]) -> list[int]:
    """Return thresholds sorted and without duplicates."""
    return sorted(set(given))


def period(text: str) -> Period:
    """Narrow a validated name to `Period`."""
    return cast("Period", text)
