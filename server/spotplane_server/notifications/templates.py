"""What people are told of events: which ones, how much they matter, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

Severity: TypeAlias = Literal["info", "warning", "error"]
Data: TypeAlias = Mapping[str, Any]

LONGEST: Final = 500


@dataclass(frozen=True, slots=True)
class Draft:
    """A notification that is not stored yet."""

    severity: Severity
    message: str


def draft(event_type: str, data: Data, agent: str | None) -> Draft | None:
    """What to tell of an event; None when nobody is told of it.

    Args:
        event_type: E.g. ``agent.registered``.
        data: The event's members; what is missing is left out of the text.
        agent: Name of the agent that it is about, if it is about one.
    """
    tell = _TEXTS.get(event_type)
    told = tell(data, agent or "an agent") if tell is not None else None
    return told and Draft(told.severity, told.message[:LONGEST])


def dollars(nanousd: int | None) -> str:
    """A price or a difference in words, per hour, with its sign after the dollar's."""
    if nanousd is None:
        return "an unknown price"
    sign = "-" if nanousd < 0 else ""
    return f"{sign}${abs(nanousd) / 1e9:.4f}/h"


def _info(message: str) -> Draft:
    return Draft("info", message)


def _warning(message: str) -> Draft:
    return Draft("warning", message)


def _error(message: str) -> Draft:
    return Draft("error", message)


def _where(data: Data, prefix: str) -> str:
    pool, mode = data.get(f"{prefix}_pool_id"), data.get(f"{prefix}_mode")
    if mode == "ondemand":
        return "on demand"
    return f"pool {pool}" if pool else str(mode or "an unknown place")


def _agent_status(data: Data, agent: str) -> Draft | None:
    old, new = data.get("old_status"), data.get("new_status")
    if new == "offline":
        return _warning(f"Agent {agent} is offline")
    if old == "offline" and new in {"online", "disabled", "switching"}:
        return _info(f"Agent {agent} is back online")
    return None


def _registered(data: Data, agent: str) -> Draft | None:
    if data.get("new", True):
        return _info(f"New agent {agent} registered")
    return None  # it has moved; what it left is told of by `instance.displaced`


def _command(data: Data, agent: str) -> Draft | None:
    if data.get("status") != "expired":
        return None
    return _warning(f"A {data.get('command_type')} command of agent {agent} expired")


def _switch_completed(data: Data, agent: str) -> Draft | None:
    impact = data.get("savings_impact_nanousd") or 0
    verb = "saves" if impact >= 0 else "costs"
    return _info(
        f"Agent {agent} switched from {_where(data, 'old')} to {_where(data, 'new')}: "
        f"{verb} {dollars(abs(impact))}"
    )


def _switch_failed(data: Data, agent: str) -> Draft | None:
    why = data.get("message")
    return _error(f"The switch of agent {agent} failed" + (f": {why}" if why else ""))


def _switch_queued(data: Data, agent: str) -> Draft | None:
    forced = data.get("trigger") == "MANUAL"
    what = "A forced switch" if forced else "A switch"
    return _info(f"{what} of agent {agent} to {_where(data, 'target')} is queued")


def _promoted(data: Data, agent: str) -> Draft | None:
    took = data.get("response_ms")
    within = f" within {round(took)} ms" if isinstance(took, (int, float)) else ""
    return _warning(
        f"Emergency: {data.get('new_instance_id')} took over from {data.get('old_instance_id')} "
        f"for agent {agent}{within}"
    )


def _terminated(data: Data, agent: str) -> Draft | None:
    text = f"Instance {data.get('instance_id')} of agent {agent} was terminated"
    reason = data.get("reason")
    # Nobody asked for it: what an agent tells after the cloud took its instance.
    return _warning(f"{text}: {reason}") if reason else _info(text)


def _failed_replica(data: Data, agent: str) -> Draft | None:
    why = data.get("message")
    return _warning(f"A replica of agent {agent} failed" + (f": {why}" if why else ""))


def _zombies(data: Data, _agent: str) -> Draft | None:
    return _warning(
        f"{data.get('count')} retired instances still run without consent to end them, the oldest "
        f"for {data.get('oldest_hours')} h: they cost {dollars(data.get('hourly_cost_nanousd'))}"
    )


def _used(data: Data) -> str:
    return f"{_usd(data.get('spent_nanos'))} of {_usd(data.get('limit_nanos'))}"


def _usd(nanos: int | None) -> str:
    return "an unknown sum" if nanos is None else f"${nanos / 1e9:,.2f}"


def _budget(data: Data) -> str:
    whose = "of one API key" if data.get("api_key_id") else "of the tenant"
    return f'The budget "{data.get("name")}" {whose}'


def _budget_reached(data: Data, _agent: str) -> Draft | None:
    return _warning(f"{_budget(data)} is used to {data.get('threshold_pct')}%: {_used(data)}")


def _budget_exceeded(data: Data, _agent: str) -> Draft | None:
    if data.get("hard_stop"):
        return None  # that it stops says more
    return _error(f"{_budget(data)} is used up: {_used(data)}")


def _budget_stopped(data: Data, _agent: str) -> Draft | None:
    until = f"until {data['period_end']}" if data.get("period_end") else "until it is raised"
    return _error(
        f"{_budget(data)} is used up, {_usd(data.get('limit_nanos'))}: calls that do more than "
        f"read are refused {until}"
    )


_ALERTS: Final = {
    "price_spike": "rose by at least",
    "price_drop": "fell by at least",
    "threshold_above": "is at or above",
    "threshold_below": "is at or below",
}


def _alert(data: Data, _agent: str) -> Draft | None:
    if "dashboard" not in data.get("channels", ()):
        return None
    return _info(alert_text(data))


def alert_text(data: Data) -> str:
    """A fired price alert in one sentence."""
    return (
        f"The price of pool {data['pool_id']}, ${data['price']:.4f}/h, "
        f"{_ALERTS[data['alert_type']]} ${data['threshold']:.4f}/h"
    )


_TEXTS: Final[dict[str, Callable[[Data, str], Draft | None]]] = {
    "agent.registered": _registered,
    "command.executed": _command,
    "agent.status_changed": _agent_status,
    "agent.deleted": lambda _data, agent: _info(f"Agent {agent} was deleted"),
    "client.created": lambda data, _agent: _info(f"Client {data.get('name')} was created"),
    "token.regenerated": lambda _data, _agent: _warning("The client token was regenerated"),
    "switch.queued": _switch_queued,
    "switch.completed": _switch_completed,
    "switch.failed": _switch_failed,
    "rebalance.recommendation": lambda data, agent: _warning(
        f"Rebalance recommendation for instance {data.get('instance_id')} of agent {agent}"
    ),
    "termination.notice": lambda data, agent: _warning(
        f"Termination notice for instance {data.get('instance_id')} of agent {agent}"
    ),
    "failover.promoted": _promoted,
    "failover.failed": lambda _data, agent: _error(
        f"Agent {agent} has no instance left that could take over; the plane keeps trying"
    ),
    "replica.failed": _failed_replica,
    "instance.terminated": _terminated,
    "instance.termination_failed": lambda data, agent: (
        _error if data.get("severity") == "error" else _warning
    )(f"Instance {data.get('instance_id')} of agent {agent} could not be terminated"),
    "instance.displaced": lambda data, agent: _warning(
        f"Instance {data.get('instance_id')} lost agent {agent} to another instance that uses the "
        "same name; it still runs"
    ),
    "instance.extra": lambda data, agent: _warning(
        f"Instance {data.get('instance_id')} of agent {agent} was launched but is not needed; "
        "it may still run"
    ),
    "replica.unconfirmed": lambda data, agent: _error(
        f"Instance {data.get('instance_id')} of agent {agent} should have ended a day ago, and "
        "nobody has confirmed it; it may still run"
    ),
    "zombies.reported": _zombies,
    "price_alert.triggered": _alert,
    "budget.threshold_reached": _budget_reached,
    "budget.exceeded": _budget_exceeded,
    "budget.stopped": _budget_stopped,
    "budget.resumed": lambda data, _agent: _info(f"{_budget(data)} stops nobody any more"),
    "ml_models.activated": lambda _data, _agent: _info("A new decision model is live"),
    "ml_models.rollback": lambda _data, _agent: _warning(
        "The decision model went back to the one before"
    ),
    "decision_engine.updated": lambda _data, _agent: _info("A new decision engine is live"),
}
