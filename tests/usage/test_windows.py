"""Spans of time that answers cover."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from spotplane.v1 import usage_pb2 as pb
from spotplane_server.kernel.errors import Invalid, Semantic
from spotplane_server.usage import time_windows as windows
from spotplane_server.usage.time_windows import HOUR, Window

NOW = datetime(2026, 3, 15, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "now",
    [
        datetime(2026, 1, 1, 0, 5, tzinfo=UTC),
        datetime(2028, 3, 1, 1, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 3, 2, tzinfo=UTC),
    ],
)
@pytest.mark.parametrize("count", [1, 24, 168])
def test_last_hours_are_contiguous_over_every_border(now: datetime, count: int) -> None:
    """Exactly as many as asked, an hour apart, the current one last."""
    hours = windows.last(count, "hour", now)
    assert len(hours) == count
    assert all(b - a == HOUR for a, b in itertools.pairwise(hours))
    assert hours[-1] <= now < hours[-1] + HOUR


def test_default_window_is_the_last_thirty_days() -> None:
    """To now; with an end only, the thirty days before it."""
    request = pb.GetUsageDetailedRequest()
    assert windows.read(request, NOW) == Window(NOW - timedelta(days=30), NOW)
    request.end_date = "2026-01-31T00:00:00+01:00"
    end = datetime(2026, 1, 30, 23, tzinfo=UTC)
    assert windows.read(request, NOW) == Window(end - timedelta(days=30), end)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("2025-01-01T00:00:00Z", "2026-01-02T00:00:01Z"),
        ("9998-12-31T00:00:00Z", "9999-12-31T23:59:59Z"),
        ("0001-01-01T00:00:01Z", "0001-01-02T00:00:00Z"),
    ],
)
def test_impossible_window_is_semantic(start: str, end: str) -> None:
    """Empty, backwards, beyond 366 days or beyond the calendar."""
    with pytest.raises(Semantic):
        windows.read(pb.GetUsageDetailedRequest(start_date=start, end_date=end), NOW)


@pytest.mark.parametrize("text", ["2026-01-01", "now", "", "2026-01-01T00:00:00"])
def test_malformed_date_is_named(text: str) -> None:
    """A date needs a time and a zone."""
    with pytest.raises(Invalid) as caught:
        windows.read(pb.GetUsageDetailedRequest(start_date=text), NOW)
    assert (caught.value.reason, caught.value.details[0].field) == ("INVALID_DATE", "start_date")


def test_window_snaps_outwards_to_whole_hours() -> None:
    """What is whole stays; what is not grows."""
    start, end = datetime(2026, 1, 1, 5, tzinfo=UTC), datetime(2026, 1, 1, 7, tzinfo=UTC)
    assert Window(start, end).whole_hours == Window(start, end)
    inner = Window(start + timedelta(minutes=59), end - timedelta(microseconds=1))
    assert inner.whole_hours == Window(start, end)


def test_exact_window_is_held_to_raw_records() -> None:
    """At most 31 days, and none before raw records are kept."""
    windows.check_exact(Window(NOW - timedelta(days=31), NOW), NOW)
    with pytest.raises(Semantic):
        windows.check_exact(Window(NOW - timedelta(days=31, seconds=1), NOW), NOW)
    old = NOW - timedelta(days=400, seconds=1)
    with pytest.raises(Semantic):
        windows.check_exact(Window(old, old + timedelta(days=1)), NOW)
