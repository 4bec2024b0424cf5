"""Periods, names, and what is made next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.savings import rules
from spotplane_server.savings.rules import BUCKET, Progress

NOW = datetime(2026, 1, 1, 10, 30, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def progress(closed: int, target: int, dirty: tuple[int, int] | None = None) -> Progress:
    """Places in buckets from now."""
    start, end = dirty or (None, None)
    return Progress(
        TenantId(UUID(int=1)),
        UUID(int=2),
        NOW + BUCKET * closed,
        None if start is None else NOW + BUCKET * start,
        None if end is None else NOW + BUCKET * end,
        NOW + BUCKET * target,
    )


@pytest.mark.parametrize(
    ("span", "start", "name"),
    [
        ("daily", "2026-01-01", "2026-01-01"),
        ("weekly", "2025-12-29", "2026-W01"),
        ("monthly", "2026-01-01", "January"),
        ("yearly", "2026-01-01", "2026"),
    ],
)
def test_a_period_has_a_start_and_a_name(span: rules.Range, start: str, name: str) -> None:
    """Weeks are ISO weeks, and may begin in another year."""
    assert rules.period(span, NOW) == at(start)
    assert rules.name(span, at(start)) == name


@given(
    span=st.sampled_from(list(rules.RANGES)),
    hours=st.integers(0, 24 * 365 * 50),
    age=st.timedeltas(timedelta(), timedelta(days=4000)),
)
def test_periods_have_no_gaps(span: rules.Range, hours: int, age: timedelta) -> None:
    """They end with the current one and begin with the first, or as early as allowed."""
    now = NOW + timedelta(hours=hours)
    found = rules.periods(span, now, now - age)
    assert found[-1] == rules.period(span, now)
    assert found[0] == max(rules.period(span, now - age), rules.earliest(span, now))
    assert len(found) <= rules.RANGES[span]
    for earlier, later in pairwise(found):
        assert rules.before(span, later) == earlier


def test_nothing_accounted_has_no_periods() -> None:
    """Not even the current one."""
    assert rules.periods("monthly", NOW, None) == []


@given(
    closed=st.integers(0, 500),
    ahead=st.integers(0, 500),
    dirty=st.none() | st.tuples(st.integers(0, 499), st.integers(1, 500)),
    buckets=st.integers(1, 700),
)
def test_an_agent_gets_there_step_by_step(
    closed: int, ahead: int, dirty: tuple[int, int] | None, buckets: int
) -> None:
    """First what is out of date, then what is new: every bucket once."""
    start = min(dirty[0], closed) if dirty else closed
    window = (start, max(start, min(dirty[1], closed))) if dirty and start < closed else None
    if window is not None and window[0] == window[1]:
        window = None
    agent = progress(closed, closed + ahead, window)
    made: list[tuple[datetime, datetime]] = []
    while agent.dirty_from is not None or agent.closed_until < agent.target:
        [step] = rules.plan([agent], buckets=buckets)
        assert step.start < step.end <= step.start + BUCKET * buckets
        made.append((step.start, step.end))
        agent = step.progress
    assert agent.closed_until == agent.target
    done = {NOW + BUCKET * n for n in range(closed, closed + ahead)}
    done |= {NOW + BUCKET * n for n in range(*(window or (0, 0)))}
    cells = [a + BUCKET * n for a, b in made for n in range((b - a) // BUCKET)]
    assert sorted(cells) == sorted(done)


def test_a_change_needs_something_to_compare_with() -> None:
    """No switches before, or none with downtime: no trend."""
    assert rules.percent_change(10, 5) == 100
    assert rules.percent_change(0, 5) == -100
    assert rules.percent_change(None, 5) is None
    assert rules.percent_change(10, None) is None
    assert rules.percent_change(10, 0) is None
