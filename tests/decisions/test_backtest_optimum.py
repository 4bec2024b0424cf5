"""The omniscient optimum is the least cost there is, and never less."""

from __future__ import annotations

from itertools import groupby, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spotplane_server.decisions.backtest import optimum
from spotplane_server.decisions.backtest.comparison import BASELINES
from spotplane_server.decisions.backtest.fleet import Rules
from spotplane_server.decisions.backtest.recording import NANO, Recording
from spotplane_server.decisions.backtest.simulator import Replay
from spotplane_server.decisions.backtest.view import MarketView
from spotplane_server.decisions.engine import Engine
from spotplane_server.decisions.engines.hedge import HedgeEngine

from tests.decisions.recorded import ON_DEMAND, market, markets


def by_trying_everything(given: Recording, on_demand: int, boot: int) -> int:
    """The least cost over every choice of who serves at each second."""
    places = (optimum.ON_DEMAND, *range(len(given.zones)))
    tick_of = [
        tick
        for tick in range(len(given.available))
        for _ in range(given.starts[tick], given.starts[tick + 1])
    ]

    def cost(place: int, seconds: range) -> int | None:
        if place == optimum.ON_DEMAND:
            return on_demand * len(seconds)
        total = 0
        for second in seconds:
            if not given.available[tick_of[second]][place]:
                return None
            total += given.prices[tick_of[second]][place] or 0
        return total

    def of(choice: tuple[int, ...]) -> int | None:
        total, start = 0, 0
        for place, run in groupby(choice):
            end = start + len(list(run))
            if start == 0 and place != optimum.ON_DEMAND and boot:
                return None
            billed = range(start - (boot if start else 0), end)
            if billed.start < 0 or (spent := cost(place, billed)) is None:
                return None
            total, start = total + spent, end
        return total

    return min(
        spent
        for choice in product(places, repeat=given.seconds)
        if (spent := of(choice)) is not None
    )


@settings(max_examples=60, deadline=None)
@given(given=markets(zones=2, ticks=4, steps=(1, 2)), boot=st.integers(0, 3))
def test_optimum_is_what_trying_everything_finds(given: Recording, boot: int) -> None:
    """By the second, over all plans of tiny markets."""
    assert optimum.cheapest(given, 7 * NANO, boot) == by_trying_everything(given, 7 * NANO, boot)


def test_optimum_boots_the_next_pool_before_the_loss() -> None:
    """By hand: on demand until the first boot ends, then a, then b from the second of a's loss."""
    small = market(600, a=("##..", [2]), b=("####", [4]))

    least = optimum.cheapest(small, ON_DEMAND, 180)

    # 180 s on demand, a billed over [0, 1200), b over [1020, 2400).
    assert least == (180 * 10 + 1200 * 2 + 1380 * 4) * NANO


def test_optimum_stays_on_demand_where_a_move_does_not_pay() -> None:
    """A boot that costs more than the rest saves is not begun."""
    small = market(200, a=("#", [9]))

    assert optimum.cheapest(small, ON_DEMAND, 180) == 200 * ON_DEMAND


@pytest.mark.parametrize("make", [HedgeEngine, *(baseline.make for baseline in BASELINES)])
@settings(max_examples=20, deadline=None)
@given(given=markets(), boot=st.integers(0, 400), notice=st.integers(0, 400))
def test_no_policy_is_up_all_the_time_for_less(
    make: type[Engine], given: Recording, boot: int, notice: int
) -> None:
    """Whatever the market and the rules."""
    outcome = Replay(given, MarketView(given), make(), Rules(ON_DEMAND, boot, notice)).run()

    if outcome.served_seconds == outcome.seconds:
        assert outcome.cost >= optimum.cheapest(given, ON_DEMAND, boot)
