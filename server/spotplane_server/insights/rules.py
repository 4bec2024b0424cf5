"""What administrators see of events, and in which words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from spotplane_server.notifications import templates

# Severities info and warning only: failures have their own places. Stored decisions would leave no
# room for anything else.
ACTIVITY: Final = (
    "agent_registered",
    "agent_toggled",
    "agent_deleted",
    "agent_marked_offline",
    "config_changed",
    "switch_completed",
    "manual_switch_requested",
    "instance_registered",
    "instance_terminated",
    "replica_created",
    "replica_ready",
    "replica_promoted",
    "replica_terminated",
    "replicas_disabled",
    "rebalance_recommendation",
    "termination_notice",
    "emergency_bypass",
    "cleanup_completed",
    "client_created",
    "client_deleted",
    "token_regenerated",
    "token_revealed",
    "decision_engine_loaded",
    "decision_engine_updated",
    "ml_models_uploaded",
    "ml_models_activated",
    "ml_models_rollback",
    "data_cleanup",
)
_KINDS: Final = {
    "switch_completed": "switch",
    "manual_switch_requested": "switch",
    "agent_registered": "agent",
}
_ABOUT: Final = ("instance_id", "pool_id", "name")


def kind(event_type: str) -> str:
    """What an event counts as: ``switch``, ``agent`` or ``event``."""
    return _KINDS.get(event_type.replace(".", "_"), "event")


def text(event_type: str, data: Mapping[str, Any], agent: str | None) -> str:
    """An event in words: those of its notification, else its name and what it is about."""
    told = templates.draft(event_type, data, agent)
    if told is not None:
        return told.message
    words = event_type.replace(".", " ").replace("_", " ").capitalize()
    about = [str(data[name]) for name in _ABOUT if data.get(name)]
    return ": ".join((words, ", ".join([*([agent] if agent else []), *about]) or "the plane"))


def agent_ids(events: Sequence[Mapping[str, Any]]) -> set[UUID]:
    """The agents that events are about."""
    return {found for found in map(agent_id, events) if found is not None}


def agent_id(data: Mapping[str, Any]) -> UUID | None:
    """The agent that an event is about, if any."""
    try:
        return UUID(str(data["agent_id"]))
    except (KeyError, ValueError):
        return None


def percent(part: float, whole: float) -> float:
    """A share in percent; 0 of nothing."""
    return part / whole * 100 if whole else 0.0


def ratio(part: int, whole: int) -> float:
    """A share, 0..1; 0 of nothing."""
    return part / whole if whole else 0.0
