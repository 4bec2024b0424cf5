"""Server-sent events for dashboards: names, fields and increasing ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from spotplane_server.events.store import Row

# Ids are decimal: the transaction's id followed by the event's number in this many digits.
_DIGITS: Final = 15
_MAX_ID: Final = 10 ** (19 + _DIGITS)


@dataclass(frozen=True, slots=True)
class Live:
    """One event by its live name, in lower case."""

    name: str
    data: dict[str, Any]


def event_id(cursor: tuple[int, int]) -> str:
    """The id of a place in the order; it rises with it."""
    return str(cursor[0] * 10**_DIGITS + cursor[1])


def cursor(text: str) -> tuple[int, int] | None:
    """The place that an id names; None when it is no id of ours."""
    if not (text.isascii() and text.isdigit() and len(text) < len(str(_MAX_ID))):
        return None
    txid, seq = divmod(int(text), 10**_DIGITS)
    return (txid, seq) if txid < 2**63 else None


_CHANGE: Final = ("old_status", "new_status")
_EMERGENCIES: Final = frozenset(
    {
        "rebalance.recommendation",
        "termination.notice",
        "emergency.bypass",
        "failover.detected",
        "failover.promoted",
        "failover.failed",
    }
)
_MEMBERS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "instance.status_changed": ("instance_status_change", ("instance_id", *_CHANGE, "agent_id")),
    "agent.status_changed": ("agent_status_change", ("agent_id", *_CHANGE)),
    "replica.status_changed": (
        "replica_status_change",
        ("replica_id", "agent_id", "instance_id", *_CHANGE),
    ),
    "command.executed": (
        "command_executed",
        ("command_id", "command_type", "status", "instance_id", "agent_id"),
    ),
    "notification.created": ("notification", ("id", "message", "severity")),
    "price_alert.triggered": (
        "price_alert",
        ("alert_id", "alert_type", "pool_id", "price", "threshold"),
    ),
}

# Shown with all their members.
_WHOLE: Final = frozenset({"switch.in_progress", "switch.completed"})

NAMES: Final = frozenset(
    {name for name, _ in _MEMBERS.values()}
    | {event_type.replace(".", "_") for event_type in _WHOLE}
    | {"emergency_event"}
)


def live(row: Row) -> Live | None:
    """What an event of the outbox is live; None for what is not shown."""
    known = _MEMBERS.get(row.event_type)
    if known is not None:
        name, members = known
        return Live(name, _pick(row.data, members))
    if row.event_type in _WHOLE:
        data = {k: v for k, v in row.data.items() if k != "correlation_id"}
        return Live(row.event_type.replace(".", "_"), data)
    if row.event_type in _EMERGENCIES:
        kind = row.event_type.replace(".", "_")
        about = _pick(row.data, ("agent_id", "instance_id"))
        return Live("emergency_event", {"event_type": kind, **about})
    return None


_UPPER: Final = {
    "instance_status_change": "INSTANCE_STATE_CHANGED",
    "agent_status_change": "AGENT_STATUS_CHANGED",
}
_STATES: Final = {
    "launching": "INSTANCE_LAUNCHING",
    "running_primary": "INSTANCE_RUNNING",
    "running_replica": "INSTANCE_RUNNING",
    "terminating": "INSTANCE_TERMINATING",
    "terminated": "INSTANCE_TERMINATED",
}


def upper_names(name: str, data: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a live event in upper case: its own, and that of an instance's new state."""
    own = _UPPER.get(name, name.upper())
    state = _STATES.get(str(data.get("new_status"))) if name == "instance_status_change" else None
    return (own, state) if state else (own,)


def _pick(data: Mapping[str, Any], members: tuple[str, ...]) -> dict[str, Any]:
    return {member: data.get(member) for member in members}
