"""Uploaded rule sets: JSON whose conditions are CEL; `confined.rule_sets` evaluates them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Literal, TypeAlias, get_args
from uuid import UUID

import orjson

from spotplane_server.decisions import candidates, features
from spotplane_server.decisions.confined.protocol import NO_RULE, RULE
from spotplane_server.decisions.confined.worker import WorkerLost
from spotplane_server.decisions.engine import (
    Action,
    Decision,
    Limits,
    PoolView,
    ReasonClass,
    Snapshot,
)
from spotplane_server.decisions.engines.uploaded import Question, UploadedEngine, UploadInvalid
from spotplane_server.decisions.validation import EngineFault

Target: TypeAlias = Literal["cheapest", "safest", "ondemand"]

MAX_RULES: Final = 100
MAX_CONDITION: Final = 2000
MAX_REASON: Final = 500
MAX_NAME: Final = 64
# Members of a place, in the order of `_named`; their types are in `confined.rule_sets`.
PLACE: Final = (
    "known",
    "id",
    "az",
    "price",
    "ratio",
    "savings_percent",
    "risk",
    "interruptions_30d",
    "delta_1h",
    "delta_24h",
    "sigma_6h",
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: when its condition holds, this is decided."""

    condition: str
    action: Action
    target: Target | None
    confidence: float
    reason: str


class RuleSet(UploadedEngine):
    """Rules in their order, of which the first that holds decides; none holds: stay."""

    format = "cel"

    def __init__(self, name: str, version: str, rules: Sequence[Rule]) -> None:
        super().__init__(name, version, orjson.dumps([rule.condition for rule in rules]))
        self._rules = rules

    def load(self) -> None:
        """Start the process and have it compile the conditions and evaluate them once.

        A condition that fails may be right for other agents; one that exhausts the process is not.

        Raises:
            UploadInvalid: It is rejected.
        """
        super().load()
        trial = self._question(_trial())
        try:
            self.ask_once(trial.body, trial.read)
        except WorkerLost as err:
            self.close()
            raise UploadInvalid(f"its conditions exhaust the process: {err}") from err
        except EngineFault:
            pass

    def _question(self, snapshot: Snapshot) -> Question[Decision]:
        fit = candidates.targets(snapshot)
        found = {
            "cheapest": candidates.cheapest(fit),
            "safest": candidates.safest(fit),
            "ondemand": None,
        }
        values = _values(snapshot, found["cheapest"], found["safest"])
        # Prices may be infinite, which orjson does not write.
        return Question(json.dumps(values).encode(), partial(self._decision, snapshot, found))

    def _decision(
        self, snapshot: Snapshot, found: Mapping[str, PoolView | None], answer: bytes
    ) -> Decision:
        index = RULE.unpack(answer)[0] if len(answer) == RULE.size else len(self._rules)
        if index == NO_RULE:
            return candidates.stay(snapshot, 0.6, "no rule applies")
        if index >= len(self._rules):
            raise EngineFault("answered with a rule that does not exist")
        return _apply(self._rules[index], snapshot, found)


def parse(data: bytes) -> RuleSet:
    """Read a rule set; its conditions are compiled when it is loaded.

    Raises:
        UploadInvalid: It is none.
    """
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as err:
        raise UploadInvalid(f"not JSON: {err}") from err
    if not isinstance(document, dict):
        raise UploadInvalid("must be an object with name, version and rules")
    rules = document.get("rules")
    if not isinstance(rules, list) or not 1 <= len(rules) <= MAX_RULES:
        raise UploadInvalid(f"rules must be a list of 1 to {MAX_RULES} rules")
    return RuleSet(
        _text(document, "name", MAX_NAME),
        _text(document, "version", MAX_NAME),
        [_rule(rule, f"rules[{index}]") for index, rule in enumerate(rules)],
    )


def _rule(rule: object, path: str) -> Rule:
    if not isinstance(rule, dict):
        raise UploadInvalid(f"{path} must be an object")
    unknown = set(rule) - {"when", "decision", "target", "confidence", "reason"}
    if unknown:
        raise UploadInvalid(f"{path} has an unknown member {min(unknown)!r}")
    action: Action | None = next(
        (known for known in get_args(Action) if known == rule.get("decision")), None
    )
    if action is None:
        raise UploadInvalid(f"{path}.decision must be one of {', '.join(get_args(Action))}")
    target = rule.get("target")
    if target not in get_args(Target) and not (target is None and action == "stay"):
        raise UploadInvalid(f"{path}.target must be one of {', '.join(get_args(Target))}")
    confidence = rule.get("confidence", 0.7)
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)):
        raise UploadInvalid(f"{path}.confidence must be a number")
    if not 0 <= confidence <= 1:
        raise UploadInvalid(f"{path}.confidence must be between 0 and 1")
    reason = rule.get("reason", "")
    if not isinstance(reason, str) or len(reason) > MAX_REASON or "\x00" in reason:
        raise UploadInvalid(f"{path}.reason must be a text of at most {MAX_REASON} characters")
    condition = rule.get("when")
    if not isinstance(condition, str) or not 1 <= len(condition) <= MAX_CONDITION:
        raise UploadInvalid(f"{path}.when must be a text of 1 to {MAX_CONDITION} characters")
    return Rule(condition, action, target, float(confidence), reason.strip())


def _trial() -> Snapshot:
    """A service with two pools to choose from, for the first question to a new rule set."""
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    pools = [PoolView(f"type.{zone}", zone, 0.4, 0.1) for zone in ("a", "b")]
    return Snapshot(
        agent_id=UUID(int=0),
        instance_type="type",
        region="region",
        mode="spot",
        pool_id="type.a",
        serving_since=now - timedelta(hours=6),
        standby_pool_id=None,
        on_demand_price=1.0,
        pools=pools,
        limits=Limits(),
        now=now,
    )


def _apply(rule: Rule, snapshot: Snapshot, found: Mapping[str, PoolView | None]) -> Decision:
    reason_class: ReasonClass | None = next(
        (kind for kind in get_args(ReasonClass) if kind == rule.reason), None
    )
    if rule.action == "emergency":
        reason_class = "risk"
    why = rule.reason or "a rule applies"
    if rule.action == "stay" or rule.target is None:
        return candidates.stay(snapshot, rule.confidence, why)
    pool = found[rule.target]
    if pool is None and rule.target != "ondemand":
        return candidates.stay(snapshot, rule.confidence, f"{why}; but no pool fits")
    return candidates.switch(snapshot, pool, rule.confidence, why, reason_class)


def _values(snapshot: Snapshot, best: PoolView | None, safest: PoolView | None) -> dict[str, Any]:
    limits = snapshot.limits
    on_spot = snapshot.mode == "spot"
    current = candidates.current_pool(snapshot)
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
        "now": snapshot.now.timestamp(),
    }


def _place(snapshot: Snapshot, name: str, pool: PoolView | None) -> dict[str, Any]:
    """A pool's values; of none they compare as worse than anything."""
    if pool is None or pool.price is None:
        return _named(name, False, "", "", float("inf"), float("inf"), -float("inf"), 1.0)
    moved = features.trend(pool, snapshot.now)
    here = candidates.current_price(snapshot) or 0.0
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
    here = candidates.current_price(snapshot) or 0.0
    saved = (here - price) / here * 100 if here else 0.0
    return _named(name, True, candidates.ON_DEMAND, "", price, 1.0, saved, 0.0)


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
    return {f"{name}.{member}": value for member, value in zip(PLACE, values, strict=True)}


def _text(document: Mapping[str, Any], name: str, most: int) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= most or "\x00" in value:
        raise UploadInvalid(f"{name} must be a text of 1 to {most} characters")
    return value.strip()
