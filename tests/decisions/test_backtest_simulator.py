"""Replays by the second: what is billed, when service is there, and what an engine may know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spotplane_server.decisions.backtest.baselines import (
    AlwaysOnDemand,
    Greedy,
    OneZone,
    RoundRobin,
)
from spotplane_server.decisions.backtest.comparison import BASELINES, compare
from spotplane_server.decisions.backtest.fleet import Rules
from spotplane_server.decisions.backtest.recording import NANO, Recording
from spotplane_server.decisions.backtest.simulator import Outcome, Replay
from spotplane_server.decisions.backtest.view import MarketView
from spotplane_server.decisions.engine import Decision, Engine, Snapshot
from spotplane_server.decisions.engines import BUILT_IN
from spotplane_server.decisions.engines.hedge import HedgeEngine
from spotplane_server.decisions.validation import EngineFault

from tests.decisions.recorded import ON_DEMAND, market, markets

A, B = "recorded.a", "recorded.b"


@dataclass
class Scripted:
    """Does at each question what a test says, and keeps what it was shown."""

    answer: Callable[[Snapshot], tuple[str | None, str | None]]
    seen: list[Snapshot] = field(default_factory=list)
    name: str = "scripted"
    version: str = "1"
    hedges: bool = True

    def decide(self, snapshot: Snapshot) -> Decision:
        self.seen.append(snapshot)
        target, standby = self.answer(snapshot)
        here = snapshot.pool_id if snapshot.mode == "spot" else "ondemand"
        if target is None or (target == here and snapshot.serving):
            mode, pool = snapshot.mode, snapshot.pool_id
            return Decision("stay", mode, pool, 1, 0, 0, "", standby=standby)
        if target == "ondemand":
            return Decision("switch", "ondemand", None, 1, 0, 0, "", standby=standby)
        return Decision("switch", "spot", target, 1, 0, 0, "", standby=standby)

    def second(self, index: int, played: Recording) -> int:
        return round((self.seen[index].now - played.origin).total_seconds())


def play(
    played: Recording,
    engine: Engine,
    *,
    standbys: int | None = None,
    notice: int = 120,
    rescue: bool = True,
) -> Outcome:
    rules = Rules(ON_DEMAND, notice_seconds=notice)
    return Replay(played, MarketView(played), engine, rules, standbys, rescue).run()


def test_switch_bills_both_instances_while_the_new_one_boots() -> None:
    """180 s on demand beside the booting spot instance, and then that alone."""
    outcome = play(market(600, a=("##", [3])), Greedy())

    assert outcome.served_seconds == outcome.seconds == 1200
    assert outcome.cost == (180 * 10 + 1200 * 3) * NANO
    assert outcome.boot_cost == 180 * 3 * NANO
    assert (outcome.switches, outcome.launches, outcome.losses) == (1, 1, 0)


def test_loss_without_a_standby_costs_what_a_boot_takes_longer_than_the_notice() -> None:
    """Noticed at 1080, b is launched; a is taken at 1200, b serves from 1260."""
    outcome = play(market(600, a=("##..", [3]), b=("####", [4])), Greedy())

    assert outcome.seconds - outcome.served_seconds == 60
    assert outcome.cost == (180 * 10 + 1200 * 3 + (2400 - 1080) * 4) * NANO
    assert (outcome.losses, outcome.outages, outcome.switches) == (1, 1, 2)


def test_loss_without_notice_costs_a_whole_boot() -> None:
    """Nothing is known before it is gone."""
    outcome = play(market(600, a=("##..", [3]), b=("####", [4])), Greedy(), notice=0)

    assert outcome.seconds - outcome.served_seconds == 180
    assert (outcome.losses, outcome.outages) == (1, 1)


def test_ready_standby_takes_over_at_the_notice_without_a_break() -> None:
    """The one that is going ends then, and is billed no longer."""
    outcome = play(market(600, a=("##..", [3]), b=("####", [4])), Greedy(), standbys=1)

    assert outcome.served_seconds == outcome.seconds
    assert (outcome.losses, outcome.outages) == (1, 0)
    # On demand until a has booted, a until the notice, b throughout, and a standby on demand as
    # long as there is no other pool: from the notice on.
    on_demand = 180 + (2400 - 1080)
    assert outcome.cost == (on_demand * 10 + 1080 * 3 + 2400 * 4) * NANO


def test_standby_that_is_still_booting_takes_over_once_it_has_booted() -> None:
    """Ordered 30 s into a notice of 120 s, it leaves 90 s without service."""
    played = market(570, a=("##..", [3]), b=("####", [4]))
    late = Scripted(
        lambda s: (A if s.mode == "ondemand" else None, None if s.notice_time is None else B)
    )

    outcome = play(played, late)

    assert outcome.seconds - outcome.served_seconds == 60
    assert outcome.outages == 1


def test_prices_are_billed_by_the_second_of_their_tick() -> None:
    """A tick's price holds from its beginning to its end."""
    outcome = play(market(300, a=("###", [2, 5, 3])), Greedy())

    assert outcome.cost == (180 * 10 + 300 * 2 + 300 * 5 + 300 * 3) * NANO


def test_refused_launch_is_shown_to_the_engine_which_may_try_another_at_once() -> None:
    """Capacity is gone in a, and the same second b is tried."""
    played = market(600, a=("....", [1]), b=("####", [4]))
    stubborn = Scripted(
        lambda s: (
            (B if len(stubborn.seen) > 1 else A, None) if s.mode == "ondemand" else (None,) * 2
        )
    )

    outcome = play(played, stubborn)

    assert outcome.refusals == 1
    assert [stubborn.second(n, played) for n in (0, 1)] == [0, 0]
    assert outcome.cost == (180 * 10 + 2400 * 4) * NANO


def test_instance_that_is_launched_within_the_notice_is_given_notice_at_once() -> None:
    """Its capacity is taken 60 s later; the plane sends for on-demand a second after the launch."""
    played = market(60, a=("#####" + "." * 5, [3]))
    eager = Scripted(
        lambda s: (A, None) if s.now.minute == 4 and s.pool_id is None else (None, None)
    )

    outcome = play(played, eager)

    assert outcome.served_seconds == outcome.seconds
    assert outcome.switches == 0
    assert outcome.cost == (600 * 10 + 60 * 3) * NANO


def test_notice_without_an_answer_is_met_with_the_safest_other_pool() -> None:
    """As the plane does live: least interrupted of a day, then cheapest."""
    played = market(600, a=("####..", [1]), b=("#.####", [1]), c=("######", [5]))
    engine = Scripted(lambda s: (A if s.mode == "ondemand" else None, None))

    outcome = play(played, engine)

    assert engine.seen[-1].pool_id == "recorded.c"
    assert outcome.seconds - outcome.served_seconds == 60


def test_engine_that_does_not_hedge_is_given_no_standby() -> None:
    """What it says of one does not count."""
    played = market(600, a=("####", [3]), b=("####", [4]))
    engine = Scripted(lambda s: (A if s.mode == "ondemand" else None, B), hedges=False)

    assert play(played, engine).standby_seconds == 0
    assert play(played, Scripted(engine.answer)).standby_seconds == 2400 - 180


def test_standby_that_is_replaced_stays_until_its_successor_has_booted() -> None:
    """One is ready at every second after the first boot."""
    played = market(600, a=("####", [3]), b=("####", [4]), c=("####", [4]))
    moody = Scripted(
        lambda s: (
            A if s.mode == "ondemand" else None,
            B if s.now < MarketView(played).instant(1200) else "recorded.c",
        )
    )

    assert play(played, moody).standby_seconds == 2400 - 180


def test_policies_by_hand() -> None:
    """What each plain policy is, in one market."""
    played = market(600, a=("##.##", [2]), b=("#####", [4]), c=("#####", [3]))

    always = play(played, AlwaysOnDemand())
    greedy = play(played, Greedy())
    one = play(played, OneZone(), rescue=False)
    spread = play(played, RoundRobin())

    assert always.cost == 3000 * ON_DEMAND
    # Noticed at 1080: to c, the cheapest then; to b, the next after a.
    assert greedy.cost == (180 * 10 + 1200 * 2 + 1920 * 3) * NANO
    assert spread.cost == (180 * 10 + 1200 * 2 + 1920 * 4) * NANO
    # The zone is back at 1800 and serves from 1980.
    assert one.seconds - one.served_seconds == 780
    assert one.cost == (180 * 10 + 1200 * 2 + 1200 * 2) * NANO


def test_an_answer_that_would_fail_live_ends_the_backtest() -> None:
    """With the engine's name and the instant."""
    nowhere = Scripted(lambda _: ("recorded.nowhere", None))

    with pytest.raises(EngineFault, match="engine scripted at 2025-03-01T00:00:00"):
        compare(market(600, a=("##", [3])), nowhere, Rules(ON_DEMAND))


def test_view_shows_the_past_in_buckets_and_interruptions() -> None:
    """Of the present and before; nothing of what comes."""
    played = market(600, a=("##.##", [2, 2, 3, 4, 5]))

    (pool,) = MarketView(played).pools(3)

    assert (pool.price, pool.available) == (4, True)
    assert [price for _, price in pool.history] == [2, 2, 2, 2, 3, 3, 4]
    assert list(pool.interruptions) == [MarketView(played).instant(1200)]
    # One interruption of the thirty that make certain, and the rise from 2 to 4 capped at 1.
    assert pool.risk == pytest.approx(1 / 30 + 0.3)


ENGINES: list[Callable[[], Engine]] = [
    *BUILT_IN.values(),
    *(baseline.make for baseline in BASELINES),
]


@pytest.mark.parametrize("make", ENGINES)
@settings(max_examples=12, deadline=None)
@given(played=markets(), standbys=st.none() | st.integers(0, 2), notice=st.integers(0, 300))
def test_a_replay_is_sane_and_the_same_again(
    make: Callable[[], Engine], played: Recording, standbys: int | None, notice: int
) -> None:
    """Shares are within bounds, parts within the whole, and nothing is left to chance."""
    outcome = play(played, make(), standbys=standbys, notice=notice)

    assert 0 <= outcome.served_seconds <= outcome.seconds
    assert 0 <= outcome.outages <= outcome.losses
    assert outcome.standby_cost + outcome.boot_cost <= outcome.cost
    assert outcome == play(played, make(), standbys=standbys, notice=notice)


@pytest.mark.parametrize("make", ENGINES)
@settings(max_examples=12, deadline=None)
@given(played=markets(), data=st.data())
def test_no_engine_sees_the_future(
    make: Callable[[], Engine], played: Recording, data: st.DataObject
) -> None:
    """What it is shown and answers until a notice could tell of the rest does not depend on it."""
    ticks = data.draw(st.integers(1, len(played.available)))
    cut = played.first(ticks)
    horizon = cut.seconds - 120

    def asked(market_: Recording) -> list[tuple[Snapshot, Decision]]:
        engine = make()
        log: list[tuple[Snapshot, Decision]] = []

        class Watched:
            name, version, hedges = engine.name, engine.version, engine.hedges

            def decide(self, snapshot: Snapshot) -> Decision:
                answer = engine.decide(snapshot)
                log.append((snapshot, answer))
                return answer

        play(market_, Watched())
        instant = MarketView(market_).instant
        return [(s, d) for s, d in log if s.now < instant(horizon)]

    short, whole = asked(cut), asked(played)

    assert [decision for _, decision in short] == [decision for _, decision in whole]
    for (one, _), (other, _) in zip(short, whole, strict=True):
        assert [list(pool.history) for pool in one.pools] == [
            list(pool.history) for pool in other.pools
        ]
        assert one.pools[0].available == other.pools[0].available


def test_hedge_is_the_same_object_for_many_services() -> None:
    """Everything it knows is in the memory of each."""
    first, second = market(600, a=("####", [3])), market(600, a=("#.#.", [2]), b=("####", [4]))
    shared = HedgeEngine()

    together = [play(first, shared), play(second, shared), play(first, shared)]

    assert together[0] == together[2] == play(first, HedgeEngine())
    assert together[1] == play(second, HedgeEngine())
