"""Gates: what holds a switch to the limits of its agent's configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias

from spotplane_server.decisions import candidates
from spotplane_server.decisions.engine import Decision, Limits, PoolView, Snapshot

Name: TypeAlias = Literal[
    "price_fresh",
    "min_savings",
    "net_benefit",
    "risk",
    "dwell",
    "per_day",
    "per_week",
    "confidence",
]
Outcome: TypeAlias = Literal["executed", "blocked", "stay"]

FRESH_SECONDS: Final = 600
BENEFIT_HOURS: Final = 24
LEAST_CONFIDENCE: Final = 0.6
# Prices are decimals, and their floats miss a limit by as much.
EXACT: Final = 1e-9
# Reasons that are worth more than a saving.
WAIVING: Final = frozenset({"risk", "low_advantage"})


@dataclass(frozen=True, slots=True)
class Used:
    """Switches that were no emergencies: in 24 hours, and in 7 days."""

    day: int
    week: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What gates need besides the snapshot.

    Attributes:
        observed: When each place's price was seen, by pool id and ``ondemand``.
        overlap_seconds: How long the old instance runs beside the new one.
    """

    observed: Mapping[str, datetime]
    overlap_seconds: int
    used: Used


@dataclass(frozen=True, slots=True)
class Gate:
    """One check: what was found and what it was held to, in the gate's own unit.

    Attributes:
        value: Seconds, percent, dollars, 0 to 1, hours or switches; None when it is not known.
        waived: Whether the reason of the switch lets it pass.
    """

    name: Name
    passed: bool
    value: float | None
    limit: float
    waived: bool = False


def check(decision: Decision, snapshot: Snapshot, facts: Facts) -> list[Gate]:
    """Hold a switch to every gate, in the order of the contract; a stay has none to pass."""
    if decision.action == "stay":
        return []
    target = _target(decision, snapshot)
    here = candidates.current_price(snapshot)
    there = _price(decision, snapshot, target)
    return [
        _price_fresh(decision, snapshot, facts),
        *_worth(decision, snapshot, facts, here, there),
        _at_most("risk", target.risk if target else 0.0, snapshot.limits.risk_threshold),
        *limits(snapshot.limits, snapshot.serving_since, snapshot.now, facts.used),
        _at_least("confidence", decision.confidence, LEAST_CONFIDENCE),
    ]


def limits(asked: Limits, serving_since: datetime, now: datetime, used: Used) -> list[Gate]:
    """The gates that hold switches by hand as well: dwell, and switches by day and week."""
    served = (now - serving_since).total_seconds() / 3600
    return [
        _at_least("dwell", served, asked.min_pool_duration_hours),
        _below("per_day", used.day, asked.max_switches_per_day),
        _below("per_week", used.week, asked.max_switches_per_week),
    ]


def passed(gates: Sequence[Gate]) -> bool:
    """Whether every gate lets the switch pass."""
    return all(gate.passed for gate in gates)


def outcome(decision: Decision, gates: Sequence[Gate]) -> Outcome:
    """What becomes of a decision of the loop."""
    if decision.action == "stay":
        return "stay"
    return "executed" if passed(gates) else "blocked"


def signature(decision: Decision, gates: Sequence[Gate], engine: str, *, fallback: bool) -> str:
    """What makes a decision the same as the one before: its target and how each gate stands."""
    states = ",".join(f"{gate.name}={int(gate.passed)}" for gate in gates)
    place = f"{decision.target_mode}/{decision.target_pool_id or ''}"
    return f"{engine}{'!' if fallback else ''}|{decision.action}|{place}|{states}"


def _price_fresh(decision: Decision, snapshot: Snapshot, facts: Facts) -> Gate:
    """The older of the two prices that are compared."""
    here = snapshot.pool_id if snapshot.mode == "spot" else candidates.ON_DEMAND
    there = decision.target_pool_id if decision.target_mode == "spot" else candidates.ON_DEMAND
    seen = [facts.observed.get(place or "") for place in (here, there)]
    known = [at for at in seen if at is not None]
    if len(known) < len(seen):
        return Gate("price_fresh", False, None, FRESH_SECONDS)
    age = max((snapshot.now - at).total_seconds() for at in known)
    return _at_most("price_fresh", max(0.0, age), FRESH_SECONDS)


def _worth(
    decision: Decision,
    snapshot: Snapshot,
    facts: Facts,
    here: float | None,
    there: float | None,
) -> list[Gate]:
    waived = decision.reason_class in WAIVING
    least = snapshot.limits.min_savings_percent
    if here is None or there is None or here <= 0:
        return [
            Gate("min_savings", waived, None, least, waived),
            Gate("net_benefit", waived, None, 0.0, waived),
        ]
    percent = (here - there) / here * 100
    benefit = BENEFIT_HOURS * (here - there)
    overlap = here * facts.overlap_seconds / 3600
    return [
        Gate("min_savings", waived or percent >= least - EXACT, percent, least, waived),
        Gate("net_benefit", waived or benefit > overlap + EXACT, benefit, overlap, waived),
    ]


def _target(decision: Decision, snapshot: Snapshot) -> PoolView | None:
    if decision.target_mode != "spot":
        return None
    return next((pool for pool in snapshot.pools if pool.id == decision.target_pool_id), None)


def _price(decision: Decision, snapshot: Snapshot, target: PoolView | None) -> float | None:
    if decision.target_mode != "spot":
        return snapshot.on_demand_price
    return target.price if target else None


def _at_most(name: Name, value: float, limit: float) -> Gate:
    return Gate(name, value <= limit, value, limit)


def _at_least(name: Name, value: float, limit: float) -> Gate:
    return Gate(name, value >= limit, value, limit)


def _below(name: Name, value: float, limit: float) -> Gate:
    return Gate(name, value < limit, value, limit)
