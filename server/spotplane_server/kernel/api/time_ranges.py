"""Time ranges in requests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.message import Message

from spotplane_server.kernel.api import wire
from spotplane_server.kernel.errors import Semantic

DEFAULT: Final = timedelta(days=30)
MAXIMUM: Final = timedelta(days=366)
# No arithmetic on a span between these can leave the calendar.
FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST: Final = datetime(9000, 1, 1, tzinfo=UTC)


def read(request: Message, now: datetime) -> tuple[datetime, datetime]:
    """Read `start_date` and `end_date`: where the span starts, and where it ends without it.

    Raises:
        Invalid: One is no instant. Semantic: empty, or beyond 366 days.
    """
    end = wire.optional_instant(request, "end_date") or now
    if not FIRST <= end <= LAST:
        raise Semantic("end_date is beyond all records", field="end_date")
    start = wire.optional_instant(request, "start_date") or end - DEFAULT
    if start >= end:
        raise Semantic("start_date must be before end_date", field="start_date")
    if end - start > MAXIMUM:
        raise Semantic(f"the window must not exceed {MAXIMUM.days} days", field="start_date")
    return start, end
