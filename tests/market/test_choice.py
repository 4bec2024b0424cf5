"""Which pool is chosen: the contract's three choices, whatever the order of pools."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.prices import pool_selection
from spotplane_server.prices.store import Pool

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def pool(az: str, price: int | None, minutes: float = 0, interruptions: int = 0) -> Pool:
    """A pool whose price was seen so many minutes ago."""
    seen = None if price is None else NOW - minutes * MINUTE
    return Pool(f"t.{az}", "t", "r", az, price, seen, interruptions)


def az(chosen: Pool | None) -> str | None:
    """Zone of what was chosen."""
    return None if chosen is None else chosen.az


@pytest.mark.parametrize(
    ("pools", "current", "expected"),
    [
        ([pool("a", 3), pool("b", 2), pool("c", 4)], "t.c", "b"),
        ([pool("a", 3), pool("b", 2), pool("c", 4)], "t.b", "a"),  # the second cheapest
        ([pool("a", 3), pool("b", 2)], None, "b"),
        ([pool("a", 3), pool("b", 2, minutes=11)], "t.c", "a"),
        ([pool("a", 3), pool("b", 2, minutes=10)], "t.c", "b"),
        ([pool("a", 3), pool("b", None)], "t.c", "a"),
        ([pool("b", 2), pool("a", 2)], "t.c", "a"),  # the smaller id of equals
        ([pool("a", 3)], "t.a", None),
        ([], None, None),
    ],
)
def test_cheapest(pools: list[Pool], current: str | None, expected: str | None) -> None:
    """A fresh price, the lowest, elsewhere."""
    assert az(pool_selection.cheapest(pools, current=current, now=NOW)) == expected


def test_manual_replica_takes_prices_of_an_hour() -> None:
    """And no older ones."""
    pools = [pool("a", 3), pool("b", 2, minutes=60), pool("c", 1, minutes=61)]

    assert az(pool_selection.manual_replica(pools, current="t.x", now=NOW)) == "b"


@pytest.mark.parametrize(
    ("pools", "preferred", "expected"),
    [
        ([pool("a", 3, interruptions=1), pool("b", 9)], (), "b"),  # safer before cheaper
        ([pool("a", 3), pool("b", 2)], (), "b"),
        ([pool("a", 3, interruptions=5), pool("b", 2)], ("a",), "a"),  # preferred before safer
        ([pool("a", 3, minutes=24 * 60 + 1), pool("b", 9)], (), "b"),  # known before unknown
        ([pool("a", None)], (), "a"),
        ([pool("x", 1)], (), None),
    ],
)
def test_safest(pools: list[Pool], preferred: tuple[str, ...], expected: str | None) -> None:
    """Never the current pool; preferred zones, fewest interruptions, price."""
    chosen = pool_selection.safest(pools, current="t.x", now=NOW, preferred_zones=preferred)
    assert az(chosen) == expected


def test_most_it_may_cost_bounds_every_choice() -> None:
    """An unknown price is planned with 0.05 dollars."""
    pools = [pool("a", 60_000_000), pool("b", None)]

    assert pool_selection.cheapest(pools, current=None, now=NOW, max_nanousd=59_999_999) is None
    assert az(pool_selection.safest(pools, current=None, now=NOW, max_nanousd=50_000_000)) == "b"
    assert pool_selection.safest(pools, current=None, now=NOW, max_nanousd=49_999_999) is None


POOLS = st.lists(
    st.builds(
        pool,
        st.sampled_from("abcdef"),
        st.none() | st.integers(1, 5),
        st.sampled_from([0, 5, 30, 100, 2000]),
        st.integers(0, 2),
    ),
    unique_by=lambda made: made.id,
)


@given(
    pools=POOLS,
    current=st.sampled_from([None, "t.a", "t.b"]),
    excluded=st.sets(st.sampled_from("abc")),
    most=st.none() | st.integers(0, 10**8),
    data=st.data(),
)
def test_no_choice_breaks_a_bound_or_depends_on_order(
    pools: list[Pool],
    current: str | None,
    excluded: set[str],
    most: int | None,
    data: st.DataObject,
) -> None:
    """Whatever is asked."""
    other = data.draw(st.permutations(pools))
    for choose in (pool_selection.cheapest, pool_selection.manual_replica, pool_selection.safest):
        chosen = choose(pools, current=current, now=NOW, exclude_zones=excluded, max_nanousd=most)
        again = choose(other, current=current, now=NOW, exclude_zones=excluded, max_nanousd=most)
        assert chosen == again
        if chosen is not None:
            assert chosen.id != current
            assert chosen.az not in excluded
            assert most is None or pool_selection.planned_nanousd(chosen) <= most
