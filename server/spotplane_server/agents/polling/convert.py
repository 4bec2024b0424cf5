"""Commands as polls are answered with them."""

from __future__ import annotations

from typing import Any, Final

from spotplane.v1 import agent_pb2 as pb

from spotplane_server.agents.commands.store import Command
from spotplane_server.agents.polling.action_dialect import Action
from spotplane_server.kernel.api import wire

_OWN_FIELDS: Final = frozenset(
    {"target_mode", "target_pool_id", "replica_id", "terminate_wait_seconds"}
)


def leased(command: Command, action: Action | None) -> pb.LeasedCommand:
    """A leased command; numbers are there whatever its parameters lack, and so is a mode."""
    given = command.parameters
    told = pb.LeasedCommand(
        id=str(command.id),
        agent_id=str(command.agent_id),
        instance_id=command.instance_id,
        type=command.type,
        target_mode=_mode(command),
        target_pool_id=_text(given.get("target_pool_id") or given.get("pool_id")),
        replica_id=_text(given.get("replica_id")),
        priority=command.priority,
        terminate_wait_seconds=wait_seconds(command),
        created_at=wire.timestamp(command.created_at),
        expires_at=wire.timestamp(command.expires_at),
        metadata=wire.struct(_metadata(command)),
    )
    if action is not None:
        told.action.type = action.type
        if action.instance_id is not None:
            told.action.instance_id = action.instance_id
        told.action.params.update(action.params)
    return told


def wait_seconds(command: Command) -> int:
    """How long the old instance stays before the agent ends it; 0 when nothing says so."""
    given = command.parameters.get("terminate_wait_seconds")
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        return 0
    return max(0, min(86_400, int(given)))


def _mode(command: Command) -> str | None:
    # An agent skips a switch without a mode, and nobody would ever know.
    if command.type != "switch":
        return None
    given = command.parameters.get("target_mode")
    if given in {"spot", "ondemand"}:
        return str(given)
    return "spot" if command.parameters.get("target_pool_id") else "ondemand"


def _metadata(command: Command) -> dict[str, Any]:
    rest = {k: v for k, v in command.parameters.items() if k not in _OWN_FIELDS}
    return rest | {"trigger": command.trigger, "created_by": command.created_by}


def _text(value: Any) -> str | None:
    return str(value) if value else None
