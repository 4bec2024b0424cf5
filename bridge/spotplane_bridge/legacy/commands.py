"""Routes of the command queue for polling agents, in the loop and the action format."""

from __future__ import annotations

from typing import Any, Final

from spotplane_bridge.body_limits import OBJECT_BYTES
from spotplane_bridge.legacy.requests import Incoming, parameter
from spotplane_bridge.legacy.response_shapes import Array, Shape, default, each, optional
from spotplane_bridge.legacy.routes import LegacyRoute, route

_INSTANCE: Final = parameter("instance_id", max_length=128)
_INSTANCE_HEADER: Final = parameter("X-Instance-Id", field="instance_id", max_length=128)

COMMAND: Final = Shape(
    id="id",
    request_id="id",
    agent_id="agent_id",
    instance_id="instance_id",
    command_type="type",
    target_mode=optional("target_mode"),
    target_pool_id=optional("target_pool_id"),
    replica_id=optional("replica_id"),
    priority="priority",
    terminate_wait_seconds="terminate_wait_seconds",
    created_at="created_at",
    expires_at="expires_at",
    metadata=default("metadata", {}),
)

ACTION: Final = Shape(
    command_type=default("action.type", ""),
    request_id="id",
    instance_id=optional("action.instance_id"),
    params=default("action.params", {}),
    metadata=default("metadata", {}),
)

DONE: Final = Shape(success=True)


def _use_action_dialect(_request: Incoming, message: Any) -> None:
    message.dialect = "action"


ROUTES: Final[tuple[LegacyRoute, ...]] = (
    route(
        "53",
        "GET /api/agents/{agent_id}/pending-commands",
        "AgentService.LeaseCommands",
        Array("commands", COMMAND),
        query=(_INSTANCE,),
        headers=(_INSTANCE_HEADER,),
    ),
    route(
        "54",
        "POST /api/agents/{agent_id}/commands/{command_id}/executed",
        "AgentService.CompleteCommand",
        DONE,
        body=(
            "success",
            "message",
            parameter("status", field="outcome", max_length=64),
            "error",
            "duration_seconds",
            "result",
        ),
        max_body_bytes=OBJECT_BYTES,
    ),
    route(
        "X10",
        "POST /api/agents/{agent_id}/mark-command-executed",
        "AgentService.CompleteCommand",
        DONE,
        body=("command_id", "success", "message"),
    ),
    route(
        "X11",
        "GET /api/agents/{agent_id}/commands/pending",
        "AgentService.LeaseCommands",
        Shape(commands=each("commands", ACTION)),
        query=(_INSTANCE,),
        headers=(_INSTANCE_HEADER,),
        fill=_use_action_dialect,
    ),
    route(
        "X12",
        "POST /api/agents/{agent_id}/action-result",
        "AgentService.CompleteCommand",
        DONE,
        body=(
            parameter("request_id", field="command_id"),
            parameter("result", field="outcome", max_length=64),
            parameter("cloud_instance_id", field="instance_id", max_length=128),
            parameter("error_message", field="error"),
            parameter("metadata", field="result"),
        ),
        max_body_bytes=OBJECT_BYTES,
    ),
)
