"""Spans of time that answers cover: pure rules."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.message import Message

from spotplane_server.kernel import wire
from spotplane_server.kernel.errors import Semantic

DEFAULT_SPAN: Final = timedelta(days=30)
MAX_SPAN: Final = timedelta(days=366)
MAX_EXACT_SPAN: Final = timedelta(days=31)
RAW_RETENTION: Final = timedelta(days=400)
HOUR: Final = timedelta(hours=1)
RESOLUTION: Final = timedelta(microseconds=1)
# No arithmetic on a window between these can leave the calendar.
FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST: Final = datetime(9000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """``[start, end)`` as asked for."""

    start: datetime
    end: datetime

    @property
    def whole_hours(self) -> Window:
        """The smallest window of whole hours around this one."""
        return Window(floor_hour(self.start), floor_hour(self.end + HOUR - RESOLUTION))


def floor_hour(at: datetime) -> datetime:
    """Start of an instant's hour."""
    return at.replace(minute=0, second=0, microsecond=0)


def read(request: Message, now: datetime) -> Window:
    """Read `start_date` and `end_date` of a request.

    Raises:
        Invalid: One is no instant. Semantic: empty, or beyond 366 days.
    """
    end = wire.optional_instant(request, "end_date") or now
    if not FIRST <= end <= LAST:
        raise Semantic("end_date is beyond all usage", field="end_date")
    start = wire.optional_instant(request, "start_date") or end - DEFAULT_SPAN
    if start >= end:
        raise Semantic("start_date must be before end_date", field="start_date")
    if end - start > MAX_SPAN:
        raise Semantic(f"the window must not exceed {MAX_SPAN.days} days", field="start_date")
    return Window(start, end)


def check_exact(window: Window, now: datetime) -> None:
    """Hold a window to what raw records can answer.

    Raises:
        Semantic: Beyond 31 days, or before raw records are kept.
    """
    if window.end - window.start > MAX_EXACT_SPAN:
        raise Semantic(
            f"an exact window must not exceed {MAX_EXACT_SPAN.days} days", field="start_date"
        )
    if window.start < now - RAW_RETENTION:
        raise Semantic(f"raw records are kept for {RAW_RETENTION.days} days", field="start_date")


def last_hours(count: int, now: datetime) -> list[datetime]:
    """Starts of the last ``count`` hours, ascending, the current one last."""
    current = floor_hour(now)
    return [current - HOUR * back for back in range(count - 1, -1, -1)]
