"""When price alerts fire, and when they may again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.notifications.alert_rules import REST, AlertType, State, step

AT = datetime(2026, 1, 1, tzinfo=UTC)
BUCKET = timedelta(minutes=5)


def fires(kind: AlertType, threshold: int, *prices: int, every: timedelta = REST) -> list[int]:
    """Numbers of the prices on which an alert fires; each knows the one before as an hour's."""
    state, fired = State(), []
    for number, price in enumerate(prices):
        fire, state = step(
            state,
            kind,
            threshold,
            price=price,
            hour_before=prices[number - 1] if number else None,
            at=AT + number * every,
        )
        if fire:
            fired.append(number)
    return fired


@pytest.mark.parametrize(
    ("kind", "prices", "fired"),
    [
        ("threshold_above", (99, 100, 101, 100), [1]),
        ("threshold_above", (100, 96, 100), [0]),
        ("threshold_above", (100, 95, 100), [0, 2]),
        ("threshold_below", (101, 100, 99), [1]),
        ("threshold_below", (100, 104, 100), [0]),
        ("threshold_below", (100, 105, 100), [0, 2]),
        ("price_spike", (50, 149, 249, 249, 349), [2, 4]),
        ("price_drop", (300, 200, 200, 100), [1, 3]),
        ("price_spike", (500,), []),
    ],
)
def test_alert_fires_once_until_the_value_has_gone_back(
    kind: AlertType, prices: tuple[int, ...], fired: list[int]
) -> None:
    """Five percent back across the threshold of 100 arms it again."""
    assert fires(kind, 100, *prices) == fired


def test_alert_fires_at_most_once_an_hour() -> None:
    """Armed again early, it waits for the hour to end, if the price still stands."""
    calm = [100, 90, 100, 90] + [100] * 20

    assert fires("threshold_above", 100, *calm, every=BUCKET) == [0, 12]


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 200))
def test_alert_never_fires_twice_within_an_hour_nor_below_its_threshold(
    prices: list[int], threshold: int
) -> None:
    """Whatever the prices do."""
    fired = fires("threshold_above", threshold, *prices, every=BUCKET)

    assert all(prices[number] >= threshold for number in fired)
    assert all(later - earlier >= 12 for earlier, later in pairwise(fired))
