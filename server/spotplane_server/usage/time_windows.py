"""Time windows of usage queries: pure rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from google.protobuf.message import Message

from spotplane_server.kernel.api import time_ranges, wire
from spotplane_server.kernel.errors import Semantic

MAX_EXACT_SPAN: Final = timedelta(days=31)
# 31 days that begin and end within a day touch one more.
MAX_REBUILT_DAYS: Final = MAX_EXACT_SPAN.days + 1
RAW_RETENTION: Final = timedelta(days=400)
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
# Minutes are kept as long; months go whole, so that these days are there.
MINUTE_RETENTION: Final = timedelta(days=40)
PERIODS: Final = {
    "1h": HOUR,
    "24h": DAY,
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
RESOLUTION: Final = timedelta(microseconds=1)

Unit: TypeAlias = Literal["hour", "day", "week", "month"]


@dataclass(frozen=True, slots=True)
class Window:
    """The half-open interval ``[start, end)``."""

    start: datetime
    end: datetime

    @property
    def whole_hours(self) -> Window:
        """The smallest window of whole hours around this one."""
        return Window(floor_hour(self.start), floor_hour(self.end + HOUR - RESOLUTION))

    @property
    def whole_minutes(self) -> Window:
        """The smallest window of whole minutes around this one."""
        return Window(floor_minute(self.start), floor_minute(self.end + MINUTE - RESOLUTION))

    @property
    def whole_days(self) -> Window:
        """The smallest window of whole days around this one."""
        return Window(floor_day(self.start), floor_day(self.end + DAY - RESOLUTION))

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return (self.end - self.start).total_seconds()

    @property
    def inner_hours(self) -> Window:
        """The largest window of whole hours within this one; empty at its end if none."""
        return self._inner(floor_hour, HOUR)

    @property
    def inner_days(self) -> Window:
        """The largest window of whole days within this one; empty at its end if none."""
        return self._inner(floor_day, DAY)

    @property
    def bounds(self) -> tuple[datetime, ...]:
        """The six instants between which minutes, hours and days are read.

        Minutes in ``[0, 1)`` and ``[4, 5)``, hours in ``[1, 2)`` and ``[3, 4)``, days in
        ``[2, 3)``; see the SQL function `usage_rollups_between`.
        """
        hours, days = self.inner_hours, self.inner_hours.inner_days
        return self.start, hours.start, days.start, days.end, hours.end, self.end

    @property
    def hourly_bounds(self) -> tuple[datetime, ...]:
        """The `bounds` of a window of whole hours that is read by the hour only."""
        return self.start, self.start, self.end, self.end, self.end, self.end

    def _inner(self, floor: Callable[[datetime], datetime], unit: timedelta) -> Window:
        start = min(floor(self.start + unit - RESOLUTION), self.end)
        return Window(start, max(floor(self.end), start))


def floor_hour(at: datetime) -> datetime:
    """Start of an instant's hour."""
    return at.replace(minute=0, second=0, microsecond=0)


def floor_minute(at: datetime) -> datetime:
    """Start of an instant's minute."""
    return at.replace(second=0, microsecond=0)


def floor_day(at: datetime) -> datetime:
    """Start of an instant's day, UTC."""
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def floor(at: datetime, unit: Unit) -> datetime:
    """Start of an instant's hour, day, week (from Monday) or month, UTC."""
    if unit == "hour":
        return floor_hour(at)
    day = floor_day(at)
    if unit == "week":
        return day - DAY * day.weekday()
    return day.replace(day=1) if unit == "month" else day


def step(start: datetime, unit: Unit, count: int) -> datetime:
    """Start of the unit that is ``count`` after the one that starts at ``start``."""
    if unit == "month":
        index = start.year * 12 + start.month - 1 + count
        return start.replace(year=index // 12, month=index % 12 + 1)
    return start + {"hour": HOUR, "day": DAY, "week": DAY * 7}[unit] * count


def last(count: int, unit: Unit, now: datetime) -> list[datetime]:
    """Starts of the last ``count`` units, ascending, the current one last."""
    current = floor(now, unit)
    return [step(current, unit, -back) for back in range(count - 1, -1, -1)]


def touched(window: Window, unit: Unit) -> list[datetime]:
    """Starts of all hours, days, weeks or months that a window touches, ascending."""
    found = [floor(window.start, unit)]
    while (following := step(found[-1], unit, 1)) < window.end:
        found.append(following)
    return found


def read_period(request: Message, now: datetime) -> tuple[str, Window]:
    """Read `period` of a request: its name, and the window that ends now.

    Raises:
        Invalid: There is no such period.
    """
    name = wire.optional_one_of(request, "period", PERIODS) or "24h"
    return name, Window(now - PERIODS[name], now)


def read(request: Message, now: datetime) -> Window:
    """Read `start_date` and `end_date` of a request.

    Raises:
        Invalid: One is no instant. Semantic: empty, or beyond 366 days.
    """
    return Window(*time_ranges.read(request, now))


def check_exact(window: Window, now: datetime, *, days: int = MAX_EXACT_SPAN.days) -> None:
    """Hold a window to what raw records can answer.

    Raises:
        Semantic: Beyond so many days, or before raw records are kept.
    """
    if window.end - window.start > timedelta(days=days):
        raise Semantic(f"an exact window must not exceed {days} days", field="start_date")
    if window.start < now - RAW_RETENTION:
        raise Semantic(f"raw records are kept for {RAW_RETENTION.days} days", field="start_date")
