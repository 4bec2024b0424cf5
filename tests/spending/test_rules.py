"""Periods at their borders, shares to the nano, and what a standing asks for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.kernel.auth import policy
from spotplane_server.spending import rules
from spotplane_server.spending.rules import BudgetPlan, BudgetStatus

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
DAY = (datetime(2026, 11, 28, tzinfo=UTC), datetime(2026, 11, 29, tzinfo=UTC))


def standing(**members: Any) -> BudgetStatus:
    """A budget of 1000 nano-dollars a day, of which nothing is used."""
    plain = BudgetStatus(
        uuid4(), uuid4(), None, "b", "day", 1000, [50, 80], False, NOW, NOW, *DAY, 0, [], None
    )
    return replace(plain, **members)


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "period", "start", "end"),
    [
        ("2026-11-28T00:00:00", "day", "2026-11-28", "2026-11-29"),
        ("2026-11-28T23:59:59.999999", "day", "2026-11-28", "2026-11-29"),
        ("2026-11-29T23:59:59", "week", "2026-11-23", "2026-11-30"),
        ("2026-11-30T00:00:00", "week", "2026-11-30", "2026-12-07"),
        ("2028-02-29T12:00:00", "month", "2028-02-01", "2028-03-01"),
        ("2027-02-28T23:59:59.999999", "month", "2027-02-01", "2027-03-01"),
        ("2028-02-29T23:59:59", "day", "2028-02-29", "2028-03-01"),
        ("2026-12-31T23:59:59", "month", "2026-12-01", "2027-01-01"),
        ("2027-01-01T00:00:00", "week", "2026-12-28", "2027-01-04"),
    ],
)
def test_periods_are_calendar_periods_in_utc(now: str, period: Any, start: str, end: str) -> None:
    """Across months, years and leap days."""
    assert rules.current_periods(_at(now))[period] == (_at(start), _at(end))


@given(later=st.timedeltas(timedelta(0), timedelta(days=1000)))
def test_periods_are_of_whole_days(later: timedelta) -> None:
    """What was spent is read from sums of days."""
    for start, end in rules.current_periods(NOW + later).values():
        assert start.time() == end.time() == time()


@given(
    limit=st.integers(1, rules.MAX_LIMIT_NANOS),
    spent=st.integers(0, 2 * rules.MAX_LIMIT_NANOS),
    share=st.integers(1, rules.MAX_THRESHOLD_PCT),
)
def test_share_is_reached_exactly(limit: int, spent: int, share: int) -> None:
    """As whole numbers say, beyond what a double can tell apart; the limit is a share always."""
    found = rules.reached_thresholds(
        standing(limit_nanos=limit, spent_nanos=spent, alert_thresholds_pct=[share])
    )

    assert (share in found) is (100 * spent >= share * limit)
    assert (100 in found) is (spent >= limit)


@pytest.mark.parametrize(
    ("members", "plan", "state"),
    [
        ({}, BudgetPlan((), False, False), "ok"),
        ({"spent_nanos": 499}, BudgetPlan((), False, False), "ok"),
        ({"spent_nanos": 500}, BudgetPlan((50,), False, False), "alerting"),
        ({"spent_nanos": 500, "crossed": [50]}, BudgetPlan((), False, False), "alerting"),
        ({"spent_nanos": 1200}, BudgetPlan((50, 80, 100), False, False), "exceeded"),
        ({"spent_nanos": 999, "hard_stop": True}, BudgetPlan((50, 80), False, False), "alerting"),
        (
            {"spent_nanos": 1000, "hard_stop": True},
            BudgetPlan((50, 80, 100), False, True),
            "exceeded",
        ),
        (
            {"spent_nanos": 1000, "hard_stop": True, "crossed": [50, 80, 100]}
            | {"stopped_period": DAY[0]},
            BudgetPlan((), False, False),
            "stopped",
        ),
        # Its period is over.
        (
            {"hard_stop": True, "stopped_period": _at("2026-11-27")},
            BudgetPlan((), True, False),
            "ok",
        ),
        # And the next one is used up already.
        (
            {"spent_nanos": 1000, "hard_stop": True, "crossed": [50, 80, 100]}
            | {"stopped_period": _at("2026-11-27")},
            BudgetPlan((), True, True),
            "exceeded",
        ),
        # The hard stop was unset, or the limit raised.
        (
            {"spent_nanos": 1000, "crossed": [50, 80, 100], "stopped_period": DAY[0]},
            BudgetPlan((), True, False),
            "stopped",
        ),
    ],
)
def test_standing_asks_for_what_was_not_done(
    members: dict[str, Any], plan: BudgetPlan, state: str
) -> None:
    """And for nothing once it was."""
    found = standing(**members)

    assert (rules.plan(found), found.state) == (plan, state)


def test_projection_goes_on_as_since_the_start() -> None:
    """Half to even; at the very start what was used, and without an end nothing."""
    half = standing(spent_nanos=7)
    assert rules.projected_nanos(half, NOW) == 14
    assert rules.projected_nanos(half, DAY[0]) == 7
    assert rules.projected_nanos(half, DAY[0] + timedelta(hours=16)) == 10  # of 10.5
    assert rules.projected_nanos(replace(half, period="total"), NOW) is None


def test_stop_never_touches_machines_reads_or_what_must_be_billed() -> None:
    """Whatever methods there will be."""
    stopped = {name for name, access in policy.METHODS.items() if access.stoppable}

    assert "/spotplane.v1.ApiKeyService/CreateOwnApiKey" in stopped
    for name, access in policy.METHODS.items():
        spared = access.fleet or access.emergency or "read_only" in access.roles
        if spared or access.roles == {"agent"} or "UsageService/" in name:
            assert name not in stopped
