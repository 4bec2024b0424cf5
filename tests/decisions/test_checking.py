"""What an engine may answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.decisions import candidates
from spotplane_server.decisions.engine import Decision
from spotplane_server.decisions.validation import EngineFault, checked

from tests.decisions.markets import TYPE, pool, snapshot

MARKET = snapshot(pool("a", 0.4), pool("b", 0.3), pool("c", None))
GOOD = candidates.switch(MARKET, MARKET.pools[1], 0.7, "cheaper", "savings")
NAN = float("nan")

BAD: list[tuple[str, dict[str, Any]]] = [
    ("no such action", {"action": "jump"}),
    ("no such mode", {"target_mode": "reserved"}),
    ("unknown is no target", {"target_mode": "unknown", "target_pool_id": None}),
    ("no such pool", {"target_pool_id": "m5.large.a"}),
    ("spot without a pool", {"target_pool_id": None}),
    ("on demand with a pool", {"target_mode": "ondemand"}),
    ("a pool without a price", {"target_pool_id": f"{TYPE}.c"}),
    ("to where it is", {"target_pool_id": f"{TYPE}.a"}),
    ("stays elsewhere", {"action": "stay"}),
    ("confidence beyond 1", {"confidence": 1.01}),
    ("confidence below 0", {"confidence": -0.01}),
    ("confidence is no number", {"confidence": "0.7"}),
    ("confidence is a flag", {"confidence": True}),
    ("risk is not finite", {"risk_score": NAN}),
    ("savings are not finite", {"expected_savings": float("inf")}),
    ("no reasoning", {"reasoning": None}),
    ("too much reasoning", {"reasoning": "x" * 2001}),
    ("reasoning that cannot be stored", {"reasoning": "\x00"}),
    ("no such reason", {"reason_class": "mood"}),
    ("scores are no numbers", {"scores": {"a": "high"}}),
    ("scores are no map", {"scores": [1.0]}),
    ("memory without bounds", {"memory": {str(n): 0.0 for n in range(513)}}),
    ("memory is not finite", {"memory": {"a": NAN}}),
    ("a standby nowhere", {"standby": "m5.large.a"}),
]


@pytest.mark.parametrize("change", [c[1] for c in BAD], ids=[c[0] for c in BAD])
def test_what_makes_no_sense_counts_as_a_failure(change: dict[str, Any]) -> None:
    """Before anything is done with it."""
    with pytest.raises(EngineFault):
        checked(replace(GOOD, **change), MARKET)


@pytest.mark.parametrize("answer", [None, {}, "stay", 1])
def test_an_answer_is_a_decision(answer: object) -> None:
    """Nothing that looks like one."""
    with pytest.raises(EngineFault):
        checked(answer, MARKET)


def test_good_answers_pass_as_they_are() -> None:
    """To a pool, on demand, staying, and in an emergency."""
    on_demand = candidates.switch(MARKET, None, 0.7, "dear", "low_advantage")
    urgent = replace(GOOD, action="emergency")
    for answer in (GOOD, on_demand, candidates.stay(MARKET, 0.6, "fine"), urgent):
        assert checked(answer, MARKET) is answer


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([])
)


@given(
    st.sampled_from(["stay", "switch", "emergency", "jump"]),
    st.sampled_from(["spot", "ondemand", "unknown", ""]),
    st.sampled_from([None, f"{TYPE}.a", f"{TYPE}.b", f"{TYPE}.c", "x"]),
    anything,
    anything,
    anything,
)
def test_whatever_passes_can_be_acted_upon(
    action: Any, mode: Any, target: Any, confidence: Any, risk: Any, saved: Any
) -> None:
    """Never another exception, and never a target that is not one."""
    answer = Decision(action, mode, target, confidence, risk, saved, "because")
    try:
        passed = checked(answer, MARKET)
    except EngineFault:
        return
    assert 0 <= passed.confidence <= 1
    assert 0 <= passed.risk_score <= 1
    if passed.action == "stay":
        assert (passed.target_mode, passed.target_pool_id) == ("spot", f"{TYPE}.a")
    else:
        assert (passed.target_mode, passed.target_pool_id) in {
            ("spot", f"{TYPE}.b"),
            ("ondemand", None),
        }
