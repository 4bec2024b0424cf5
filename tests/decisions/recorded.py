"""Small recorded markets, written as they would be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from hypothesis import strategies as st
from spotplane_server.decisions.backtest.recording import NANO, Recording

ORIGIN = datetime(2025, 3, 1, tzinfo=UTC)
ON_DEMAND = 10 * NANO


def market(step: int, **zones: tuple[str, Sequence[int]]) -> Recording:
    """A market by zone: `#` for ticks with capacity, `.` without, and whole dollars an hour.

    One price holds for all ticks.
    """
    names = tuple(zones)
    (count,) = {len(states) for states, _ in zones.values()}
    prices = {
        name: list(given) * (count if len(given) == 1 else 1) for name, (_, given) in zones.items()
    }
    return Recording(
        name="small",
        zones=tuple(name.replace("_", "-") for name in names),
        origin=ORIGIN,
        starts=[step * n for n in range(count + 1)],
        available=[tuple(zones[name][0][n] == "#" for name in names) for n in range(count)],
        prices=[tuple(prices[name][n] * NANO for name in names) for n in range(count)],
    )


@st.composite
def markets(
    draw: st.DrawFn, *, zones: int = 3, ticks: int = 12, steps: tuple[int, int] = (1, 900)
) -> Recording:
    """Any small market; ticks of different lengths."""
    count = draw(st.integers(1, ticks))
    width = draw(st.integers(1, zones))
    lengths = draw(st.lists(st.integers(*steps), min_size=count, max_size=count))
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    rows = st.lists(st.booleans(), min_size=width, max_size=width).map(tuple)
    costs = st.lists(st.integers(1, 12), min_size=width, max_size=width).map(
        lambda row: tuple(price * NANO for price in row)
    )
    return Recording(
        name="drawn",
        zones=tuple(f"eu-{n}a" for n in range(width)),
        origin=ORIGIN,
        starts=starts,
        available=draw(st.lists(rows, min_size=count, max_size=count)),
        prices=draw(st.lists(costs, min_size=count, max_size=count)),
    )
