"""Reading the requests of AgentService; every refusal names its field."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from spotplane.v1 import agent_pb2 as pb

from spotplane_server.agents import errors
from spotplane_server.agents.commands import service
from spotplane_server.agents.commands.store import Order
from spotplane_server.agents.polling.heartbeats import Beat
from spotplane_server.agents.registration import Registration
from spotplane_server.agents.rules import Dialect
from spotplane_server.instances import rules as instance_rules
from spotplane_server.instances.store import Machine, Said
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.errors import Invalid
from spotplane_server.kernel.request_context import Caller

_NAME: Final = re.compile(r"[a-z0-9._-]{1,64}")
_ISSUABLE: Final = ("switch", "terminate", "update_config", "custom")
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{8,128}")
MAX_PARAMETERS: Final = 64 * 1024
MAX_INVENTORY: Final = 1000
_FAILURES: Final = frozenset({"failed", "failure", "error"})


def registration(request: pb.RegisterRequest) -> Registration:
    """What an instance says of itself."""

    def required(field: str, maximum: int) -> str:
        return wire.text(getattr(request, field), field, maximum=maximum, required=True)

    instance_id = required("instance_id", 128)
    instance_type, az = required("instance_type", 64), required("az", 64)
    mode = wire.optional_one_of(request, "mode", ("spot", "ondemand", "unknown")) or "unknown"
    machine = Machine(
        instance_id,
        instance_type,
        required("region", 64),
        az,
        mode,
        instance_rules.pool_id(instance_type, az) if mode == "spot" else None,
        hostname=wire.optional_text(request, "hostname", maximum=255),
        image_id=wire.optional_text(request, "image_id", maximum=64),
        private_ip=wire.optional_text(request, "private_ip", maximum=45),
        public_ip=wire.optional_text(request, "public_ip", maximum=45),
    )
    return Registration(
        wire.optional_text(request, "logical_agent_id", maximum=255) or instance_id,
        machine,
        wire.optional_text(request, "agent_version", maximum=32),
        wire.optional_uuid(request, "replica_id", "replica ID"),
        request.issue_agent_token,
        wire.optional_text(request, "cloud_account", maximum=128),
        wire.optional_text(request, "project_id", maximum=128),
    )


def config_changes(request: pb.UpdateAgentConfigRequest) -> dict[str, Any]:
    """The fields to change, and what the one mode does to the other.

    `terminate_wait_minutes` is among them when it was given instead of the seconds.

    Raises:
        ModeConflict: Both modes would be on.
    """

    def number(field: str, minimum: int, maximum: int) -> Any:
        return lambda: wire.integer(getattr(request, field), field, minimum, maximum)

    def flag(field: str) -> Any:
        return lambda: getattr(request, field)

    wanted: dict[str, Any] = wire.changes(
        request,
        {
            "enabled": flag("enabled"),
            "auto_switch_enabled": flag("auto_switch_enabled"),
            "auto_terminate_enabled": flag("auto_terminate_enabled"),
            "terminate_wait_seconds": number("terminate_wait_seconds", 0, 86400),
            "manual_replica_enabled": flag("manual_replica_enabled"),
            "min_savings_percent": lambda: wire.decimal(
                request.min_savings_percent, "min_savings_percent", digits=2, maximum=100
            ),
            "risk_threshold": lambda: wire.decimal(
                request.risk_threshold, "risk_threshold", digits=3, maximum=1
            ),
            "max_switches_per_week": number("max_switches_per_week", 0, 1000),
            "max_switches_per_day": number("max_switches_per_day", 0, 1000),
            "min_pool_duration_hours": number("min_pool_duration_hours", 0, 720),
            "replica_enabled": flag("replica_enabled"),
            "replica_count": number("replica_count", 0, 1),
            "terminate_wait_minutes": number("terminate_wait_minutes", 0, 1440),
        },
    )
    automatic, manual = wanted.get("auto_switch_enabled"), wanted.get("manual_replica_enabled")
    if automatic and manual:
        raise errors.ModeConflict(
            "automatic switching and manual replicas exclude each other",
            field="manual_replica_enabled",
        )
    if "terminate_wait_seconds" in wanted:
        wanted.pop("terminate_wait_minutes", None)
    if automatic:
        wanted["manual_replica_enabled"] = False
    if manual:
        wanted["auto_switch_enabled"] = False
    return wanted


def order(request: pb.IssueCommandRequest, caller: Caller) -> Order:
    """The command asked for."""
    kind = wire.optional_one_of(request, "type", _ISSUABLE) or "custom"
    name = kind
    if kind == "custom":
        name = request.name or ""
        if not name:
            raise wire.missing("name")
        if not _NAME.fullmatch(name):
            raise Invalid("name must be 1..64 characters of [a-z0-9._-]", field="name")
    elif request.HasField("name") and request.name != kind:
        raise Invalid("name is for custom commands", field="name")
    priority = wire.optional_integer(request, "priority", 1, 100) or 75
    lifetime = wire.optional_integer(request, "expires_in_seconds", 1, 86400)
    default = service.EMERGENCY_EXPIRES_IN if priority == service.EMERGENCY else service.EXPIRES_IN
    request_id = wire.optional(request, "request_id")
    if request_id is not None and not _REQUEST_ID.fullmatch(request_id):
        raise wire.out_of_range("request_id", "8..128 printable characters")
    return Order(
        kind,
        name,
        wire.json_object(request, "parameters", maximum=MAX_PARAMETERS) or {},
        priority,
        "MANUAL",
        caller.name,
        request_id,
        timedelta(seconds=lifetime) if lifetime else default,
    )


def beat(request: pb.HeartbeatRequest) -> Beat:
    """What a heartbeat says."""
    watched = wire.texts(request, "monitored_instances", maximum=128)
    if len(request.inventory) > MAX_INVENTORY:
        raise wire.out_of_range("inventory", f"at most {MAX_INVENTORY} instances")
    mode = wire.optional_text(request, "mode", maximum=64)
    az = wire.optional_text(request, "az", maximum=64)
    instance_type = wire.optional_text(request, "instance_type", maximum=64)
    return Beat(
        wire.optional_text(request, "status", maximum=64) or "",
        wire.optional_text(request, "instance_id", maximum=128) or None,
        watched[0] if len(watched) == 1 else None,
        Said(
            "",
            instance_type or None,
            az or None,
            mode if mode in {"spot", "ondemand"} else None,
            _pool(request, instance_type, az),
        ),
        [
            wire.text(told.instance_id, "inventory", maximum=128)
            for told in request.inventory
            if told.state.lower() == "terminated"
        ],
        (_percent(request, "cpu_percent"), _percent(request, "memory_percent")),
    )


def _pool(request: pb.HeartbeatRequest, instance_type: str | None, az: str | None) -> str | None:
    said = wire.optional_text(request, "pool_id", maximum=128)
    if said:
        return said
    return instance_rules.pool_id(instance_type, az) if instance_type and az else None


def _percent(request: pb.HeartbeatRequest, field: str) -> float | None:
    value = wire.optional(request, field)
    return value if value is not None and 0 <= value <= 100 else None


def dialect(request: pb.LeaseCommandsRequest) -> Dialect:
    """In which words the agent understands its commands."""
    said = wire.optional_one_of(request, "dialect", ("loop", "action")) or "loop"
    return "action" if said == "action" else "loop"


def command_id(request: pb.CompleteCommandRequest) -> UUID:
    """The command that was done; a malformed id is one that does not exist.

    Raises:
        CommandNotFound: It is no UUID.
    """
    if not request.command_id:
        raise wire.missing("command_id")
    try:
        return UUID(request.command_id)
    except ValueError as err:
        raise errors.CommandNotFound from err


def outcome(request: pb.CompleteCommandRequest) -> tuple[bool, str, dict[str, Any]]:
    """Whether a command succeeded, what there is to say about it, and what it returned."""
    word = (wire.optional_text(request, "outcome", maximum=64) or "").lower()
    success = request.success if request.HasField("success") else word not in _FAILURES
    result = wire.json_object(request, "result", maximum=service.MAX_RESULT_BYTES) or {}
    instance_id = wire.optional_text(request, "instance_id", maximum=128)
    if instance_id:
        result = result | {"instance_id": instance_id}
    if request.HasField("duration_seconds"):
        result = result | {"duration_seconds": request.duration_seconds}
    said = request.message if success else request.error or request.message
    return success, said.replace("\x00", "")[:2000].strip(), result


def settings_changes(request: pb.UpdateFleetSettingsRequest) -> dict[str, Any]:
    """The tenant's settings to change; -1 takes a limit away.

    Raises:
        Invalid: None was given, or one is out of its range.
    """

    def limit(field: str) -> Any:
        def read() -> int | None:
            value = wire.integer(getattr(request, field), field, -1, 1_000_000)
            return None if value < 0 else value

        return read

    def number(field: str, maximum: int) -> Any:
        return lambda: wire.integer(getattr(request, field), field, 0, maximum)

    def exact(field: str, digits: int, maximum: int) -> Any:
        return lambda: wire.decimal(getattr(request, field), field, digits=digits, maximum=maximum)

    def flag(field: str) -> Any:
        return lambda: getattr(request, field)

    return wire.changes(
        request,
        {
            "max_agents": limit("max_agents"),
            "max_instances": limit("max_instances"),
            "auto_switch_enabled": flag("auto_switch_enabled"),
            "auto_terminate_enabled": flag("auto_terminate_enabled"),
            "terminate_wait_seconds": number("terminate_wait_seconds", 86_400),
            "min_savings_percent": exact("min_savings_percent", 2, 100),
            "risk_threshold": exact("risk_threshold", 3, 1),
            "max_switches_per_week": number("max_switches_per_week", 1000),
            "max_switches_per_day": number("max_switches_per_day", 1000),
            "min_pool_duration_hours": number("min_pool_duration_hours", 720),
        },
    )
