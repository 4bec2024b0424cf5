"""The policy that spreads and hedges: what it weighs, and that it does not flap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spotplane_server.decisions.backtest.fleet import Rules
from spotplane_server.decisions.backtest.recording import NANO
from spotplane_server.decisions.backtest.simulator import Replay
from spotplane_server.decisions.backtest.view import MarketView
from spotplane_server.decisions.checking import checked
from spotplane_server.decisions.engine import Decision, Limits, PoolView, Snapshot
from spotplane_server.decisions.engines import BUILT_IN, hedge_risk
from spotplane_server.decisions.engines.hedge import HedgeEngine, Settings

from tests.decisions.recorded import ON_DEMAND, ORIGIN, market

HOUR = timedelta(hours=1)


def pool(az: str, price: float | None = 3.0, **given: Any) -> PoolView:
    return PoolView(id=f"t.{az}", az=az, price=price, risk=0.0, **given)


def snapshot(pools: Sequence[PoolView], **given: Any) -> Snapshot:
    base: dict[str, Any] = {
        "agent_id": UUID(int=1),
        "instance_type": "t",
        "region": "eu-1",
        "mode": "spot",
        "pool_id": pools[0].id,
        "serving_since": ORIGIN,
        "standby_pool_id": None,
        "on_demand_price": 10.0,
        "pools": pools,
        "limits": Limits(),
        "now": ORIGIN,
    }
    return Snapshot(**(base | given))


def aged(
    pools: Sequence[PoolView], hours: dict[str, float], now: datetime = ORIGIN
) -> dict[str, float]:
    """A memory in which every pool has had capacity for so long."""
    memory = {"at": now.timestamp()}
    for one in pools:
        since = now.timestamp() - hours.get(one.az, 0.0) * 3600
        memory |= {f"{one.id} since": since, f"{one.id} losses": 0.0, f"{one.id} expected": 0.0}
    return memory


def decide(pools: Sequence[PoolView], hours: dict[str, float], **given: Any) -> Decision:
    """Its answer, which must be one that holds live."""
    asked = snapshot(pools, memory=aged(pools, hours), **given)
    return checked(HedgeEngine().decide(asked), asked)


OLD = {"eu-1a": 500.0, "eu-1b": 500.0, "us-2a": 500.0}
ALL = [pool("eu-1a"), pool("eu-1b"), pool("us-2a")]


def test_old_capacity_is_served_without_a_standby() -> None:
    """It is lost too seldom for that."""
    decision = decide(ALL, OLD)

    assert (decision.action, decision.standby) == ("stay", None)
    assert decision.risk_score < 0.01


def test_young_capacity_is_given_a_standby_that_fails_independently() -> None:
    """In another region, at the same price, where no other place is old enough to move to."""
    young = dict.fromkeys(OLD, 6.0)

    assert decide(ALL, young, on_demand_price=100.0).standby == "t.us-2a"


def test_everything_young_is_left_for_on_demand_when_that_costs_little_more() -> None:
    """No standby helps if it is lost as soon."""
    dear = [pool("eu-1a", 8.0), pool("eu-1b", 8.0)]

    decision = decide(dear, {"eu-1a": 0.1, "eu-1b": 0.1})

    assert (decision.action, decision.target_mode) == ("switch", "ondemand")
    assert decision.reason_class == "risk"


def test_on_demand_is_left_for_old_capacity() -> None:
    """For the savings."""
    decision = decide(ALL, OLD, mode="ondemand", pool_id=None)

    assert (decision.action, decision.target_mode) == ("switch", "spot")
    assert decision.reason_class == "savings"
    assert decision.expected_savings == 7.0
    assert decision.confidence >= 0.6


def test_pool_at_the_price_of_on_demand_is_no_target() -> None:
    """It could only be lost."""
    decision = decide([pool("eu-1a", 10.0)], OLD, mode="ondemand", pool_id=None)

    assert (decision.action, decision.target_mode) == ("stay", "ondemand")


def test_notice_is_answered_with_the_pool_that_will_last() -> None:
    """Rather than with a cheaper one whose capacity came back a minute ago."""
    pools = [pool("eu-1a", available=False), pool("eu-1b", 2.0), pool("us-2a", 3.0)]
    decision = decide(pools, OLD | {"eu-1b": 1 / 60}, notice_time=ORIGIN + timedelta(seconds=120))

    assert (decision.action, decision.target_pool_id) == ("emergency", "t.us-2a")
    assert decision.reason_class == "availability"


def test_notice_with_a_standby_lets_it_take_over() -> None:
    """Nothing else needs to be started for that."""
    pools = [pool("eu-1a", available=False), *ALL[1:]]
    decision = decide(
        pools, OLD, notice_time=ORIGIN + timedelta(seconds=120), standby_pool_id="t.us-2a"
    )

    assert decision.action == "stay"


def test_nothing_to_be_had_means_on_demand() -> None:
    """Whether or not something serves still."""
    pools = [pool("eu-1a", available=False), pool("eu-1b", None)]
    for given_ in ({"serving": False}, {"notice_time": ORIGIN + timedelta(seconds=120)}):
        decision = decide(pools, {}, **given_)

        assert (decision.action, decision.target_mode) == ("emergency", "ondemand")


def test_lost_instance_is_replaced_in_its_pool_when_that_is_still_the_best() -> None:
    pools = [pool("eu-1a", None), pool("eu-1b", 6.85), pool("us-2a", None, available=False)]

    decision = decide(pools, OLD, pool_id="t.eu-1b", serving=False)

    assert (decision.action, decision.target_pool_id) == ("emergency", "t.eu-1b")


def test_unknown_price_moves_nothing() -> None:
    """As long as it is that of the current pool."""
    assert decide([pool("eu-1a", None), *ALL[1:]], OLD).action == "stay"


def test_no_standby_is_worth_anything_where_a_notice_is_as_long_as_a_boot() -> None:
    """The next instance serves before the loss."""
    young = dict.fromkeys(OLD, 1.0)

    assert decide(ALL, young, notice=timedelta(seconds=180)).standby is None


def test_price_of_downtime_follows_the_budget() -> None:
    """What was overspent buys standbys that would not be worth it otherwise."""
    calm = aged(ALL, dict.fromkeys(OLD, 30.0)) | {"elapsed_seconds": 10 * 86_400.0}
    engine = HedgeEngine()

    saved = engine.decide(snapshot(ALL, memory=calm | {"down_seconds": 0.0}))
    spent = engine.decide(snapshot(ALL, memory=calm | {"down_seconds": 900.0}))

    assert saved.standby is None
    assert spent.standby is not None


def test_downtime_is_counted_from_the_loss_to_the_boot() -> None:
    """By what the engine is shown, whoever asks it."""
    engine, memory = HedgeEngine(), dict[str, float]()
    for second, serving in ((0, True), (100, False), (160, True), (400, True)):
        now = ORIGIN + timedelta(seconds=second)
        memory = engine.decide(snapshot(ALL, memory=memory, now=now, serving=serving)).memory

    assert memory["down_seconds"] == 60
    assert memory["elapsed_seconds"] == 400


def test_hazard_falls_with_the_age_of_capacity_and_rises_with_losses() -> None:
    """Measured per pool."""
    now, memory = ORIGIN, dict[str, float]()
    for tick in range(200):
        now = ORIGIN + tick * timedelta(minutes=5)
        pools = [pool("eu-1a"), pool("us-2a", available=tick % 10 != 9)]
        seen = hedge_risk.observe(snapshot(pools, memory=memory, now=now))
        memory = seen.memory

    steady, flapping = seen.pools["t.eu-1a"].hazard, seen.pools["t.us-2a"].hazard
    assert steady < 0.6 / 16
    assert flapping > 1.0


def test_interruptions_of_others_count_without_a_flip() -> None:
    """Capacity that came back between two looks was lost all the same."""
    before = aged(ALL, OLD)
    hit = [pool("eu-1a", interruptions=[ORIGIN + timedelta(minutes=3)]), *ALL[1:]]

    seen = hedge_risk.observe(snapshot(hit, memory=before, now=ORIGIN + timedelta(minutes=5)))

    assert seen.pools["t.eu-1a"].hazard > 1.0
    assert seen.pools["t.us-2a"].hazard < 0.01


def test_pools_lost_together_are_measured() -> None:
    """A notice tells of one before a tick tells of the other."""
    now, memory = ORIGIN, aged(ALL, OLD)
    for tick in range(60):
        now = ORIGIN + tick * HOUR
        first, second = tick % 4 == 1, tick % 4 == 1
        for offset, downs in ((0, (False, False)), (60, (first, False)), (180, (first, second))):
            at = now + timedelta(seconds=offset)
            pools = [pool("eu-1a", available=not downs[0]), pool("eu-1b", available=not downs[1])]
            seen = hedge_risk.observe(snapshot([*pools, ALL[2]], memory=memory, now=at))
            memory = seen.memory

    assert seen.together["near"] > 0.4
    assert seen.together["far"] < 0.02


def test_memory_forgets_pools_that_are_no_more_and_stays_small() -> None:
    """It is stored with every decision."""
    seen = hedge_risk.observe(snapshot(ALL[:1], memory=aged(ALL, OLD)))

    assert not any("eu-1b" in key for key in seen.memory)
    assert all(math.isfinite(value) for value in seen.memory.values())


@pytest.mark.parametrize(
    ("zone", "region"),
    [("us-east-1a", "us-east-1"), ("us-central1-a", "us-central1"), ("lone", "lon")],
)
def test_region_of_a_zone(zone: str, region: str) -> None:
    """Of both clouds' ways to name them."""
    assert hedge_risk.region_of(zone) == region


def test_prices_that_wander_move_nothing() -> None:
    """For a week another pool is a little cheaper every now and then."""
    ticks = 7 * 288
    wander = [100 + 3 * ((n // 3) % 2) for n in range(ticks)]
    against = [103 - 3 * ((n // 3) % 2) for n in range(ticks)]
    played = market(300, a=("#" * ticks, wander), b=("#" * ticks, against))

    rules = Rules(300 * NANO)
    outcome = Replay(played, MarketView(played), HedgeEngine(), rules).run()

    assert outcome.switches <= 2
    assert outcome.served_seconds == outcome.seconds


def test_hedge_survives_what_greedy_does_not() -> None:
    """Zones of two regions that fail every few hours, by turns."""
    ticks = 2000
    one = "".join("." if n % 40 in {38, 39} else "#" for n in range(ticks))
    other = "".join("." if n % 56 in {20, 21} else "#" for n in range(ticks))
    played = market(600, eu_1a=(one, [3]), us_2a=(other, [3]), ap_1a=(one[20:] + one[:20], [3]))
    rules = Rules(ON_DEMAND)

    hedged = Replay(played, MarketView(played), HedgeEngine(), rules).run()
    greedy = Replay(played, MarketView(played), BUILT_IN["rules"](), rules).run()

    assert hedged.served_seconds / hedged.seconds >= 0.9995
    assert hedged.cost < 0.9 * ON_DEMAND * hedged.seconds
    assert hedged.served_seconds >= greedy.served_seconds


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_answer_holds_live(data: st.DataObject) -> None:
    """Over any series of snapshots; and nothing that is known to be gone is chosen."""
    engine, memory = HedgeEngine(Settings()), dict[str, float]()
    zones = ["eu-1a", "eu-1b", "us-2a"]
    now = ORIGIN
    for _ in range(data.draw(st.integers(1, 8))):
        now += timedelta(seconds=data.draw(st.integers(0, 100_000)))
        pools = [
            pool(
                zone,
                data.draw(st.none() | st.floats(0.1, 20)),
                available=data.draw(st.booleans()),
                interruptions=[ORIGIN] * data.draw(st.integers(0, 2)),
            )
            for zone in zones
        ]
        ids = [one.id for one in pools]
        at = data.draw(st.sampled_from([None, *ids]))
        asked = snapshot(
            pools,
            mode="ondemand" if at is None else "spot",
            pool_id=at,
            now=now,
            memory=memory,
            serving=data.draw(st.booleans()),
            standby_pool_id=data.draw(st.sampled_from([None, "ondemand", *ids])),
            standby_ready=data.draw(st.booleans()),
            moving_to=data.draw(st.sampled_from([None, "ondemand", *ids])),
            notice_time=data.draw(st.sampled_from([None, now + timedelta(seconds=60)])),
        )

        decision = checked(engine.decide(asked), asked)

        memory = decision.memory
        free = {one.id for one in pools if one.available and one.price is not None}
        if decision.action != "stay" and decision.target_mode == "spot":
            assert decision.target_pool_id in free
        assert decision.standby is None or decision.standby in free | {asked.standby_pool_id}
        if decision.action != "stay" and decision.standby is not None:
            assert decision.standby != decision.target_pool_id
