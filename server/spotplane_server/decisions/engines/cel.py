"""Rule sets of an operator: JSON whose conditions are CEL, checked when they are uploaded.

CEL has no loops but over lists, and the iterations of one evaluation are bounded by its library;
the time of a whole rule set is bounded here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import orjson
from cel_expr_python import cel

from spotplane_server.decisions import features, places
from spotplane_server.decisions.checking import EngineFault
from spotplane_server.decisions.engine import Action, Decision, PoolView, ReasonClass, Snapshot

Target: TypeAlias = Literal["cheapest", "safest", "ondemand"]

MAX_RULES: Final = 100
MAX_CONDITION: Final = 2000
MAX_REASON: Final = 500
MAX_NAME: Final = 64
# What all conditions of one set may take of a processor; being made to wait is not their fault.
SECONDS: Final = 0.010

_T: Final = cel.Type
_PLACE: Final = {
    "known": _T.BOOL,
    "id": _T.STRING,
    "az": _T.STRING,
    "price": _T.DOUBLE,
    "ratio": _T.DOUBLE,
    "savings_percent": _T.DOUBLE,
    "risk": _T.DOUBLE,
    "interruptions_30d": _T.INT,
    "delta_1h": _T.DOUBLE,
    "delta_24h": _T.DOUBLE,
    "sigma_6h": _T.DOUBLE,
}
_PLACES: Final = ("current", "best", "safest", "ondemand")
VARIABLES: Final = {
    "agent.id": _T.STRING,
    "agent.type": _T.STRING,
    "agent.region": _T.STRING,
    "agent.mode": _T.STRING,
    "agent.pool_id": _T.STRING,
    "agent.standby_pool_id": _T.STRING,
    "agent.serving_hours": _T.DOUBLE,
    **{f"{place}.{name}": kind for place in _PLACES for name, kind in _PLACE.items()},
    "limits.min_savings_percent": _T.DOUBLE,
    "limits.risk_threshold": _T.DOUBLE,
    "limits.max_switches_per_day": _T.INT,
    "limits.max_switches_per_week": _T.INT,
    "limits.min_pool_duration_hours": _T.INT,
    "now": _T.TIMESTAMP,
}


class RuleSetInvalid(Exception):
    """A rule set that cannot be used; the message says which rule and why."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: when its condition holds, this is decided."""

    condition: Any
    action: Action
    target: Target | None
    confidence: float
    reason: str


class RuleSet:
    """Rules in their order, of which the first that holds decides; none holds: stay."""

    hedges = False

    def __init__(self, name: str, version: str, rules: list[Rule]) -> None:
        self.name = name
        self.version = version
        self._rules = rules

    def decide(self, snapshot: Snapshot) -> Decision:
        """Answer for a snapshot.

        Raises:
            EngineFault: A condition failed, or they took too long.
        """
        if places.current_price(snapshot) is None:
            return places.stay(snapshot, 0.5, "the current pool has no fresh price")
        fit = places.targets(snapshot)
        found = {"cheapest": places.cheapest(fit), "safest": places.safest(fit), "ondemand": None}
        values = _values(snapshot, found["cheapest"], found["safest"])
        started = time.thread_time()
        for number, rule in enumerate(self._rules, 1):
            holds = _evaluate(rule.condition, values, number)
            if time.thread_time() - started > SECONDS:
                raise EngineFault(f"rule {number}: the set takes longer than 10 ms")
            if holds:
                return _apply(rule, snapshot, found)
        return places.stay(snapshot, 0.6, "no rule applies")


def parse(data: bytes) -> RuleSet:
    """Read and check a rule set.

    Raises:
        RuleSetInvalid: It is none, or a condition does not compile to a boolean.
    """
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as err:
        raise RuleSetInvalid(f"not JSON: {err}") from err
    if not isinstance(document, dict):
        raise RuleSetInvalid("must be an object with name, version and rules")
    rules = document.get("rules")
    if not isinstance(rules, list) or not 1 <= len(rules) <= MAX_RULES:
        raise RuleSetInvalid(f"rules must be a list of 1 to {MAX_RULES} rules")
    env = cel.NewEnv(variables=VARIABLES)
    return RuleSet(
        _text(document, "name", MAX_NAME),
        _text(document, "version", MAX_NAME),
        [_rule(env, rule, f"rules[{index}]") for index, rule in enumerate(rules)],
    )


def _rule(env: cel.Env, rule: object, path: str) -> Rule:
    if not isinstance(rule, dict):
        raise RuleSetInvalid(f"{path} must be an object")
    unknown = set(rule) - {"when", "decision", "target", "confidence", "reason"}
    if unknown:
        raise RuleSetInvalid(f"{path} has an unknown member {min(unknown)!r}")
    action: Action | None = next(
        (known for known in get_args(Action) if known == rule.get("decision")), None
    )
    if action is None:
        raise RuleSetInvalid(f"{path}.decision must be one of {', '.join(get_args(Action))}")
    target = rule.get("target")
    if target not in get_args(Target) and not (target is None and action == "stay"):
        raise RuleSetInvalid(f"{path}.target must be one of {', '.join(get_args(Target))}")
    confidence = rule.get("confidence", 0.7)
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)):
        raise RuleSetInvalid(f"{path}.confidence must be a number")
    if not 0 <= confidence <= 1:
        raise RuleSetInvalid(f"{path}.confidence must be between 0 and 1")
    reason = rule.get("reason", "")
    if not isinstance(reason, str) or len(reason) > MAX_REASON or "\x00" in reason:
        raise RuleSetInvalid(f"{path}.reason must be a text of at most {MAX_REASON} characters")
    return Rule(
        _compile(env, rule.get("when"), path), action, target, float(confidence), reason.strip()
    )


def _compile(env: cel.Env, when: object, path: str) -> cel.Expression:
    if not isinstance(when, str) or not 1 <= len(when) <= MAX_CONDITION:
        raise RuleSetInvalid(f"{path}.when must be a text of 1 to {MAX_CONDITION} characters")
    try:
        condition = env.compile(when)
    except RuntimeError as err:
        said = str(err).partition("<input>:")[2] or str(err)
        raise RuleSetInvalid(f"{path}.when: {said.splitlines()[0]}") from err
    if condition.return_type() != _T.BOOL:
        raise RuleSetInvalid(f"{path}.when must be true or false")
    return condition


def _evaluate(condition: Any, values: Mapping[str, Any], number: int) -> bool:
    try:
        result = condition.eval(data=values)
    except RuntimeError as err:
        raise EngineFault(f"rule {number}: {str(err).splitlines()[0]}") from err
    if result.type() != _T.BOOL:
        raise EngineFault(f"rule {number}: {result.value()}"[:300])
    return bool(result.value())


def _apply(rule: Rule, snapshot: Snapshot, found: Mapping[str, PoolView | None]) -> Decision:
    reason_class: ReasonClass | None = next(
        (kind for kind in get_args(ReasonClass) if kind == rule.reason), None
    )
    if rule.action == "emergency":
        reason_class = "risk"
    why = rule.reason or "a rule applies"
    if rule.action == "stay" or rule.target is None:
        return places.stay(snapshot, rule.confidence, why)
    pool = found[rule.target]
    if pool is None and rule.target != "ondemand":
        return places.stay(snapshot, rule.confidence, f"{why}; but no pool fits")
    return places.switch(snapshot, pool, rule.confidence, why, reason_class)


def _values(snapshot: Snapshot, best: PoolView | None, safest: PoolView | None) -> dict[str, Any]:
    limits = snapshot.limits
    on_spot = snapshot.mode == "spot"
    current = places.current_pool(snapshot)
    return {
        "agent.id": str(snapshot.agent_id),
        "agent.type": snapshot.instance_type,
        "agent.region": snapshot.region,
        "agent.mode": snapshot.mode,
        "agent.pool_id": (snapshot.pool_id or "") if on_spot else "",
        "agent.standby_pool_id": snapshot.standby_pool_id or "",
        "agent.serving_hours": (snapshot.now - snapshot.serving_since).total_seconds() / 3600,
        **(_place(snapshot, "current", current) if on_spot else _on_demand(snapshot, "current")),
        **_place(snapshot, "best", best),
        **_place(snapshot, "safest", safest),
        **_on_demand(snapshot, "ondemand"),
        "limits.min_savings_percent": float(limits.min_savings_percent),
        "limits.risk_threshold": float(limits.risk_threshold),
        "limits.max_switches_per_day": limits.max_switches_per_day,
        "limits.max_switches_per_week": limits.max_switches_per_week,
        "limits.min_pool_duration_hours": limits.min_pool_duration_hours,
        "now": snapshot.now,
    }


def _place(snapshot: Snapshot, name: str, pool: PoolView | None) -> dict[str, Any]:
    """A pool's values; of none they compare as worse than anything."""
    if pool is None or pool.price is None:
        return _named(name, False, "", "", float("inf"), float("inf"), -float("inf"), 1.0)
    moved = features.trend(pool, snapshot.now)
    here = places.current_price(snapshot) or 0.0
    return _named(
        name,
        True,
        pool.id,
        pool.az,
        pool.price,
        pool.price / snapshot.on_demand_price,
        (here - pool.price) / here * 100 if here else 0.0,
        float(pool.risk),
        len(pool.interruptions),
        moved,
    )


def _on_demand(snapshot: Snapshot, name: str) -> dict[str, Any]:
    price = float(snapshot.on_demand_price)
    here = places.current_price(snapshot) or 0.0
    saved = (here - price) / here * 100 if here else 0.0
    return _named(name, True, places.ON_DEMAND, "", price, 1.0, saved, 0.0)


def _named(
    name: str,
    known: bool,
    pool_id: str,
    az: str,
    price: float,
    ratio: float,
    savings_percent: float,
    risk: float,
    interruptions: int = 0,
    moved: features.Trend | None = None,
) -> dict[str, Any]:
    moved = moved or features.Trend()
    values = (
        known,
        pool_id,
        az,
        price,
        ratio,
        savings_percent,
        risk,
        interruptions,
        moved.delta_1h,
        moved.delta_24h,
        moved.sigma_6h,
    )
    return {f"{name}.{column}": value for column, value in zip(_PLACE, values, strict=True)}


def _text(document: Mapping[str, Any], name: str, most: int) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= most or "\x00" in value:
        raise RuleSetInvalid(f"{name} must be a text of 1 to {most} characters")
    return value.strip()
