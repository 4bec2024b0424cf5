"""Rule sets: refused when they are uploaded, bounded when they run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from spotplane_server.decisions.engine import Decision, Snapshot
from spotplane_server.decisions.engines import cel
from spotplane_server.decisions.engines.uploaded import UploadInvalid
from spotplane_server.decisions.validation import EngineFault, checked

from tests.decisions.markets import TYPE, pool, rising, snapshot


def rule_set(*rules: dict[str, Any], **more: Any) -> bytes:
    """A document."""
    return orjson.dumps({"name": "ours", "version": "3", "rules": list(rules)} | more)


def rule(when: str, **more: Any) -> dict[str, Any]:
    """A rule that switches to the cheapest pool."""
    return {"when": when, "decision": "switch", "target": "cheapest", "reason": "savings"} | more


def decide(market: Snapshot, *rules: dict[str, Any]) -> Decision:
    """What rules decide, in a process of their own."""
    engine = cel.parse(rule_set(*rules))
    engine.load()
    try:
        return checked(engine.decide(market), market)
    finally:
        engine.close()


MARKET = snapshot(pool("a", 0.4), pool("b", 0.3, risk=0.2), pool("c", 0.35, risk=0.1))


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ('agent.mode == "spot"', True),
        ("current.price > 0.39 && current.price < 0.41", True),
        ("best.savings_percent >= limits.min_savings_percent", True),
        (f'best.id == "{TYPE}.b" && safest.id == "{TYPE}.c"', True),
        ("best.risk > safest.risk", True),
        ("ondemand.price == 1.0 && ondemand.risk == 0.0", True),
        ("current.interruptions_30d == 0", True),
        ("now.getHours() == 12 && now.getDayOfWeek() == 1", True),
        ("agent.serving_hours > 6.5", False),
        ("limits.max_switches_per_day > 3", False),
        ("current.delta_1h > 0.0", False),
    ],
)
def test_rules_see_the_agent_its_market_and_the_time(when: str, holds: bool) -> None:
    """Every variable of the contract."""
    assert decide(MARKET, rule(when)).action == ("switch" if holds else "stay")


def test_the_first_rule_that_holds_decides() -> None:
    """And none means stay."""
    decision = decide(
        MARKET,
        rule("current.price > 2.0", target="ondemand"),
        rule("true", target="safest", confidence=0.9, reason="risk"),
        rule("true"),
    )
    assert decision.target_pool_id == f"{TYPE}.c"
    assert (decision.confidence, decision.reason_class) == (0.9, "risk")
    assert decide(MARKET, rule("false")).action == "stay"


def test_rules_see_how_a_price_has_moved() -> None:
    """Over the hour before."""
    market = snapshot(rising("a", 0.2, 0.3, every=timedelta(hours=1)), pool("b", 0.25))
    risen = rule("current.delta_1h > 0.49 && current.delta_1h < 0.51")
    assert decide(market, risen).action == "switch"


def test_a_place_that_is_not_there_compares_as_worse_than_any() -> None:
    """So that a rule need not ask first, and a target that is none is no switch."""
    alone = snapshot(pool("a", 0.4))
    decision = decide(alone, rule("best.price < current.price"), rule("!best.known"))
    assert (decision.action, decision.target_pool_id) == ("stay", f"{TYPE}.a")
    assert "no pool fits" in decision.reasoning


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"[]", "object"),
        (b"{", "not JSON"),
        (rule_set(), "1 to 100"),
        (rule_set(*[rule("true")] * 101), "1 to 100"),
        (rule_set(rule("true"), name=""), "name"),
        (rule_set(rule("true"), version=1), "version"),
        (rule_set(rule("current.prise > 1.0")), "undeclared reference"),
        (rule_set(rule('current.price > "1"')), "no matching overload"),
        (rule_set(rule("current.price")), "true or false"),
        (rule_set(rule("current.price >")), "Syntax error"),
        (rule_set(rule("open('/etc/passwd')")), "undeclared reference"),
        (rule_set(rule("x" * 2001)), "2000"),
        (rule_set(rule("(" * 900 + "true" + ")" * 900)), "rules[0].when"),
        (rule_set(rule("true", decision="jump")), "decision"),
        (rule_set(rule("true", target="moon")), "target"),
        (rule_set(rule("true", confidence=1.5)), "confidence"),
        (rule_set(rule("true", confidence="high")), "confidence"),
        (rule_set(rule("true", then="x")), "'then'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_is_wrong(document: bytes, said: str) -> None:
    """When it is uploaded, not when it decides."""
    with pytest.raises(UploadInvalid) as caught:
        cel.parse(document).load()
    assert said in str(caught.value)


LONG = "[" + ",".join(str(n) for n in range(30)) + "]"


@pytest.mark.parametrize(
    "when",
    [
        f"{LONG}.all(a, {LONG}.all(b, {LONG}.all(c, {LONG}.all(d, a >= 0))))",
        f"{LONG}.map(a, {LONG}.map(b, {LONG}.map(c, a + b))).size() > 0",
        "1 / (limits.max_switches_per_day - 3) == 1",
    ],
    ids=["all", "map", "division"],
)
def test_what_runs_away_or_fails_is_a_failure_of_the_engine(when: str) -> None:
    """Within milliseconds."""
    with pytest.raises(EngineFault):
        decide(MARKET, rule(when))


def doubling(times: int) -> str:
    """A condition that doubles a text so often."""
    names = "abcdefghijklmnopqrstuvwxyz"
    text = f"{names[times]}.size() < 0"
    for index in reversed(range(times)):
        text = f"[{names[index]}+{names[index]}].exists({names[index + 1]},{text})"
    return f'["{"x" * 16}"].exists(a,{text})'


def test_a_condition_that_exhausts_memory_is_refused_when_it_is_uploaded() -> None:
    """436 characters ask for more than a gigabyte; the process may take 64 MiB."""
    assert len(doubling(24)) < 440
    with pytest.raises(UploadInvalid, match="exhaust"):
        cel.parse(rule_set(rule(doubling(24)))).load()


def test_a_condition_that_exhausts_memory_later_fails_alone() -> None:
    """The other questions of its batch are answered by a new process."""
    engine = cel.parse(rule_set(rule(f"best.price < 0.2 && {doubling(24)}")))
    engine.load()
    cheap = snapshot(pool("a", 0.4), pool("b", 0.1))
    try:
        answers = list(engine.decide_all([MARKET, cheap, MARKET]))
    finally:
        engine.close()
    assert [isinstance(answer, EngineFault) for answer in answers] == [False, True, False]
