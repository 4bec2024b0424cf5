"""Gates hold switches to their limits, at the limit and beside it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.decisions import candidates, gates
from spotplane_server.decisions.engine import Decision, Snapshot
from spotplane_server.decisions.gates import Facts, Gate, Used

from tests.decisions.markets import NOW, pool, snapshot


def facts(market: Snapshot, **more: Any) -> Facts:
    """Fresh prices, no overlap, no switches."""
    places_seen = [view.id for view in market.pools] + [candidates.ON_DEMAND]
    observed = more.pop("observed", dict.fromkeys(places_seen, NOW))
    return Facts(observed, more.pop("overlap_seconds", 0), Used(0, 0), **more)


def to(market: Snapshot, zone: str | None, **more: Any) -> Decision:
    """A switch to a zone's pool, or on demand."""
    target = next((view for view in market.pools if view.az == zone), None)
    decision = candidates.switch(market, target, 0.7, "because", "savings")
    return replace(decision, **more)


def by_name(found: list[Gate]) -> dict[str, Gate]:
    """The gates of a check."""
    return {gate.name: gate for gate in found}


MARKET = snapshot(pool("a", 0.4), pool("b", 0.3))


def test_a_good_switch_passes_all_eight() -> None:
    """In the order of the contract."""
    found = gates.check(to(MARKET, "b"), MARKET, facts(MARKET))
    assert [gate.name for gate in found] == [
        "price_fresh",
        "min_savings",
        "net_benefit",
        "risk",
        "dwell",
        "per_day",
        "per_week",
        "confidence",
    ]
    assert gates.passed(found)
    assert gates.outcome(to(MARKET, "b"), found) == "executed"


def test_a_stay_has_nothing_to_pass() -> None:
    """And comes to nothing."""
    decision = candidates.stay(MARKET, 0.6, "no better place")
    assert gates.check(decision, MARKET, facts(MARKET)) == []
    assert gates.outcome(decision, []) == "stay"


@pytest.mark.parametrize(("seconds", "passes"), [(600, True), (601, False)])
def test_both_prices_must_be_fresh(seconds: int, passes: bool) -> None:
    """The older one counts."""
    old = {MARKET.pools[0].id: NOW - timedelta(seconds=seconds), MARKET.pools[1].id: NOW}
    found = gates.check(to(MARKET, "b"), MARKET, facts(MARKET, observed=old))[0]
    assert (found.passed, found.value, found.limit) == (passes, seconds, 600)


def test_a_price_that_was_never_seen_is_not_fresh() -> None:
    """Its age is not known."""
    found = gates.check(to(MARKET, "b"), MARKET, facts(MARKET, observed={}))[0]
    assert (found.passed, found.value) == (False, None)


@pytest.mark.parametrize(("seconds", "passes"), [(600, True), (601, False)])
@pytest.mark.parametrize(("at", "zone"), [("a", None), (None, "a")])
def test_the_price_on_demand_ages_too(
    at: str | None, zone: str | None, seconds: int, passes: bool
) -> None:
    """Whether it is what is paid now, or what would be paid."""
    market = snapshot(pool("a", 0.4), at=at)
    old = {market.pools[0].id: NOW, candidates.ON_DEMAND: NOW - timedelta(seconds=seconds)}
    found = gates.check(to(market, zone), market, facts(market, observed=old))[0]
    assert (found.passed, found.value) == (passes, seconds)


@pytest.mark.parametrize(("there", "passes"), [(0.34, True), (0.345, False)])
def test_savings_are_measured_in_percent_of_the_current_price(there: float, passes: bool) -> None:
    """15 % of 0.40 are 0.06."""
    market = snapshot(pool("a", 0.4), pool("b", there))
    found = by_name(gates.check(to(market, "b"), market, facts(market)))["min_savings"]
    assert found.passed is passes


@pytest.mark.parametrize("kind", ["risk", "low_advantage"])
def test_risk_and_low_advantage_waive_what_is_about_money(kind: Any) -> None:
    """But no other gate."""
    market = snapshot(pool("a", 0.4), pool("b", 0.5, risk=0.9))
    found = by_name(gates.check(to(market, "b", reason_class=kind), market, facts(market)))
    assert (found["min_savings"].passed, found["min_savings"].waived) == (True, True)
    assert (found["net_benefit"].passed, found["net_benefit"].waived) == (True, True)
    assert not found["risk"].passed


@pytest.mark.parametrize(("wait", "passes"), [(21_599, True), (21_600, False)])
def test_a_day_of_savings_must_pay_for_the_overlap(wait: int, passes: bool) -> None:
    """24 hours of 0.1 against 0.4 for six hours."""
    market = snapshot(pool("a", 0.4), pool("b", 0.3))
    found = by_name(gates.check(to(market, "b"), market, facts(market, overlap_seconds=wait)))
    assert found["net_benefit"].passed is passes


@pytest.mark.parametrize(("hours", "passes"), [(2, True), (1.99, False)])
def test_an_instance_serves_for_a_while(hours: float, passes: bool) -> None:
    """From when it became primary."""
    market = replace(MARKET, serving_since=NOW - timedelta(hours=hours))
    assert by_name(gates.check(to(market, "b"), market, facts(market)))["dwell"].passed is passes


@pytest.mark.parametrize(("day", "week", "held"), [(3, 3, "per_day"), (2, 10, "per_week")])
def test_so_many_switches_and_no_more(day: int, week: int, held: str) -> None:
    """3 in a day, 10 in a week."""
    asked = replace(facts(MARKET), used=Used(day, week))
    found = gates.check(to(MARKET, "b"), MARKET, asked)
    assert [gate.name for gate in found if not gate.passed] == [held]


def test_confidence_below_its_limit_holds() -> None:
    """0.6 is enough."""
    for confidence, passes in ((0.6, True), (0.599, False)):
        found = gates.check(to(MARKET, "b", confidence=confidence), MARKET, facts(MARKET))
        assert found[-1].passed is passes


prices = st.floats(0.001, 10) | st.none()
risks = st.floats(0, 1)
pools = st.lists(st.tuples(prices, risks), min_size=1, max_size=6)


@given(pools, st.booleans(), st.integers(0, 20), st.integers(0, 20), st.integers(0, 86_400))
def test_nothing_executes_that_any_gate_holds(
    zones: list[tuple[float | None, float]], spot: bool, day: int, week: int, wait: int
) -> None:
    """Whatever the market and the switch: executed is exactly all gates passed, and no stay."""
    views = [pool(chr(97 + n), price, risk) for n, (price, risk) in enumerate(zones)]
    market = snapshot(*views, at="a" if spot else None)
    used = Used(day, week)
    for target in [None, *views]:
        if target is not None and target.price is None:
            continue
        decision = candidates.switch(market, target, 0.7, "because", None)
        found = gates.check(decision, market, Facts({}, wait, used))
        outcome = gates.outcome(decision, found)
        assert (outcome == "stay") == (decision.action == "stay")
        assert (outcome == "executed") == (bool(found) and all(gate.passed for gate in found))


@given(pools, st.sampled_from(["rules", "risk"]))
def test_equal_decisions_have_equal_signatures(
    zones: list[tuple[float | None, float]], engine: str
) -> None:
    """And whoever stands in is told apart."""
    views = [pool(chr(97 + n), price, risk) for n, (price, risk) in enumerate(zones)]
    market = snapshot(*views)
    decision = candidates.stay(market, 0.5, "why")
    said = gates.signature(decision, [], engine, fallback=False)
    again = replace(decision, reasoning="other words", confidence=0.9)
    assert gates.signature(again, [], engine, fallback=False) == said
    assert gates.signature(decision, [], engine, fallback=True) != said
