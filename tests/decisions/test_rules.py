"""The built-in rules: the first that applies decides."""

from __future__ import annotations

import pytest
from spotplane_server.decisions.engine import Snapshot
from spotplane_server.decisions.engines.risk import DWELL, PriceAndRisk
from spotplane_server.decisions.engines.rules import BuiltInRules
from spotplane_server.decisions.validation import checked

from tests.decisions.markets import NOW, TYPE, pool, snapshot

# What the market is; then the decision: action, target, confidence and reason.
CASES: list[tuple[str, Snapshot, tuple[str, str | None, float, str | None]]] = [
    ("no fresh price here", snapshot(pool("a", None), pool("b", 0.1)), ("stay", "a", 0.5, None)),
    ("an unknown pool here", snapshot(pool("b", 0.1)), ("stay", "a", 0.5, None)),
    (
        "no fresh price anywhere",
        snapshot(pool("a", None), pool("b", None), at=None),
        ("stay", None, 0.5, None),
    ),
    (
        "little advantage, and a better pool",
        snapshot(pool("a", 0.9), pool("b", 0.5), pool("c", 0.4)),
        ("switch", "c", 0.7, "low_advantage"),
    ),
    (
        "little advantage, and no pool below 80 %",
        snapshot(pool("a", 0.9), pool("b", 0.85)),
        ("switch", None, 0.7, "low_advantage"),
    ),
    (
        "little advantage, and the better pool is too risky",
        snapshot(pool("a", 0.9), pool("b", 0.4, risk=0.5)),
        ("switch", None, 0.7, "low_advantage"),
    ),
    (
        "exactly 80 % is advantage enough",
        snapshot(pool("a", 0.8), pool("b", 0.79)),
        ("stay", "a", 0.6, None),
    ),
    (
        "little advantage comes before risk",
        snapshot(pool("a", 0.9, risk=0.9), pool("b", 0.5, risk=0.1)),
        ("switch", "b", 0.7, "low_advantage"),
    ),
    (
        "on demand, and a pool saves more than 30 %",
        snapshot(pool("a", 0.69), pool("b", 0.65), at=None),
        ("switch", "b", 0.8, "savings"),
    ),
    (
        "on demand, and 30 % is not more than 30 %",
        snapshot(pool("a", 0.70), at=None),
        ("stay", None, 0.6, None),
    ),
    (
        "on demand, and what saves is too risky",
        snapshot(pool("a", 0.2, risk=0.31), at=None),
        ("stay", None, 0.6, None),
    ),
    (
        "risk, and the safest within the threshold",
        snapshot(pool("a", 0.3, risk=0.4), pool("b", 0.5, risk=0.1), pool("c", 0.3, risk=0.2)),
        ("switch", "b", 0.7, "risk"),
    ),
    (
        "risk, and no pool is within the threshold",
        snapshot(pool("a", 0.3, risk=0.4), pool("b", 0.3, risk=0.35)),
        ("switch", None, 0.7, "risk"),
    ),
    (
        "risk at the threshold is no risk",
        snapshot(pool("a", 0.3, risk=0.3), pool("b", 0.3, risk=0.1)),
        ("stay", "a", 0.6, None),
    ),
    (
        "risk comes before savings",
        snapshot(pool("a", 0.5, risk=0.4), pool("b", 0.2, risk=0.2), pool("c", 0.4, risk=0.1)),
        ("switch", "c", 0.7, "risk"),
    ),
    (
        "another pool is cheaper by enough",
        snapshot(pool("a", 0.4), pool("b", 0.34)),
        ("switch", "b", 0.7, "savings"),
    ),
    (
        "another pool is cheaper, but not by enough",
        snapshot(pool("a", 0.4), pool("b", 0.35)),
        ("stay", "a", 0.6, None),
    ),
    (
        "a pool that refused a launch is no target",
        snapshot(pool("a", 0.4), pool("b", 0.1, available=False)),
        ("stay", "a", 0.6, None),
    ),
    (
        "equal prices are no reason, whatever is asked",
        snapshot(pool("a", 0.4), pool("b", 0.4), min_savings_percent=0.0),
        ("stay", "a", 0.6, None),
    ),
    ("nothing better", snapshot(pool("a", 0.4)), ("stay", "a", 0.6, None)),
]


@pytest.mark.parametrize(("market", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_the_first_rule_that_applies_decides(
    market: Snapshot, expected: tuple[str, str | None, float, str | None]
) -> None:
    """Rule by rule, at and beside its limits."""
    decision = checked(BuiltInRules().decide(market), market)
    action, zone, confidence, reason = expected
    assert decision.action == action
    assert decision.target_pool_id == (f"{TYPE}.{zone}" if zone else None)
    assert decision.confidence == confidence
    assert decision.reason_class == reason


def test_price_and_risk_waits_until_a_gain_lasts() -> None:
    """A pool that is cheaper for a moment is not followed; one that stays so is."""
    market = snapshot(pool("a", 0.5), pool("b", 0.3))
    engine = PriceAndRisk()

    first = engine.decide(market)
    assert first.action == "stay"
    later = NOW + DWELL
    lasting = snapshot(*market.pools, now=later, memory=first.memory)
    assert engine.decide(lasting).target_pool_id == f"{TYPE}.b"
    # Another candidate begins its own time.
    other = snapshot(*market.pools, pool("c", 0.2), now=later, memory=first.memory)
    assert engine.decide(other).action == "stay"


def test_price_and_risk_enters_below_the_level_at_which_it_leaves() -> None:
    """A risk that moves around the threshold does not lead there and back."""
    engine = PriceAndRisk()
    near = pool("b", 0.2, risk=0.29)

    stays = snapshot(near, pool("c", 0.6, risk=0.0), at="b")
    assert engine.decide(stays).action == "stay"
    waited = {f"since:{near.id}": (NOW - DWELL).timestamp()}
    arrives = snapshot(pool("a", 0.6, risk=0.0), near, memory=waited)
    assert engine.decide(arrives).target_pool_id != near.id


def test_price_and_risk_leaves_a_risky_pool_at_once() -> None:
    """Without waiting for the gain to last."""
    market = snapshot(pool("a", 0.2, risk=0.5), pool("b", 0.4, risk=0.0))
    decision = checked(PriceAndRisk().decide(market), market)
    assert (decision.target_pool_id, decision.reason_class) == (f"{TYPE}.b", "risk")
