"""Where replicas go, and when to try again: tables and properties."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.market.store import Pool
from spotplane_server.replicas import rules

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ZONES = ("a", "b", "c", "d")


def pool(
    zone: str, price: int | None = 100, *, age: timedelta = timedelta(0), interruptions: int = 0
) -> Pool:
    """A pool of one type; ``age`` is its price's."""
    at = None if price is None else NOW - age
    return Pool(f"t.{zone}", "t", "r", zone, price, at, interruptions)


@pytest.mark.parametrize(
    ("pools", "expected"),
    [
        ([pool("a", 1), pool("b", 3), pool("c", 2)], "t.c"),
        ([pool("b", 2), pool("c", 2)], "t.b"),
        ([pool("a", 1)], None),
        ([], None),
        ([pool("b", None), pool("c", 9)], "t.c"),
        ([pool("b", 1, age=timedelta(minutes=61)), pool("c", 9)], "t.c"),
        ([pool("b", 1, age=timedelta(minutes=60)), pool("c", 9)], "t.b"),
    ],
)
def test_manual_replica_goes_to_the_cheapest_other_pool(
    pools: list[Pool], expected: str | None
) -> None:
    """Of those with a price of the last hour; equal prices go by name."""
    chosen = rules.cheapest(pools, current="t.a", now=NOW)

    assert (chosen.id if chosen else None) == expected


@pytest.mark.parametrize(
    ("pools", "expected"),
    [
        ([pool("b", 1, interruptions=1), pool("c", 9)], "t.c"),
        ([pool("b", 2), pool("c", 1)], "t.c"),
        ([pool("b", None), pool("c", 9)], "t.c"),
        ([pool("b", None), pool("c", 9, interruptions=1)], "t.b"),
        ([pool("b", 1, age=timedelta(hours=25)), pool("c", 9)], "t.c"),
        ([pool("a", 1)], None),
    ],
)
def test_emergency_replica_goes_to_the_safest_other_pool(
    pools: list[Pool], expected: str | None
) -> None:
    """Fewest interruptions, then a known price, then the lowest; a price is no condition."""
    chosen = rules.safest(pools, current="t.a", now=NOW)

    assert (chosen.id if chosen else None) == expected


def test_price_may_be_limited() -> None:
    """What costs more does not fit; the limit itself does."""
    pools = [pool("b", 100), pool("c", 101)]

    assert rules.cheapest(pools, current=None, now=NOW, max_nanousd=99) is None
    assert rules.cheapest(pools[1:], current=None, now=NOW, max_nanousd=101) == pools[1]


POOLS = st.lists(
    st.builds(
        pool,
        st.sampled_from(ZONES),
        st.none() | st.integers(1, 5),
        age=st.integers(0, 30).map(lambda hours: timedelta(hours=hours)),
        interruptions=st.integers(0, 3),
    ),
    unique_by=lambda found: found.id,
)


@given(POOLS, st.sampled_from(ZONES), st.sets(st.sampled_from(ZONES)), st.randoms())
def test_choice_is_never_the_current_pool_nor_an_excluded_zone(
    pools: list[Pool], current: str, excluded: set[str], shuffle: object
) -> None:
    """And does not depend on the order in which pools are listed."""
    other = list(pools)
    shuffle.shuffle(other)  # type: ignore[attr-defined]
    for choose in (rules.cheapest, rules.safest):
        chosen = choose(pools, current=f"t.{current}", now=NOW, exclude_zones=excluded)
        assert chosen == choose(other, current=f"t.{current}", now=NOW, exclude_zones=excluded)
        if chosen is not None:
            assert chosen.az != current
            assert chosen.az not in excluded


@given(POOLS, st.sampled_from(ZONES))
def test_no_fitting_pool_is_better_than_the_chosen(pools: list[Pool], current: str) -> None:
    """The cheapest is the cheapest, the safest the least interrupted."""
    others = [found for found in pools if found.az != current]
    safest = rules.safest(pools, current=f"t.{current}", now=NOW)
    if safest is None:
        assert not others
    else:
        assert safest.interruptions == min(found.interruptions for found in others)
    cheapest = rules.cheapest(pools, current=f"t.{current}", now=NOW)
    if cheapest is not None:
        fresh = [
            found.price_nanousd or 0
            for found in others
            if found.price_observed_at and found.price_observed_at >= NOW - rules.PRICE_AGE
        ]
        assert cheapest.price_nanousd == min(fresh)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (1, 60), (2, 120), (3, 240), (4, 480), (5, 900), (99, 900)]
)
def test_wait_doubles_from_a_minute_to_a_quarter_of_an_hour(failures: int, seconds: int) -> None:
    """Counted from the last failure."""
    assert rules.retry_at(NOW, failures) == NOW + timedelta(seconds=seconds)
