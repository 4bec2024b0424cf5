"""Reading the requests of AgentService; every refusal names its field."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

from spotplane.v1 import agent_pb2 as pb

from spotplane_server import audit
from spotplane_server.agents import errors, ledger, store
from spotplane_server.agents.commands_store import Order
from spotplane_server.agents.registration import Registration
from spotplane_server.instances import rules as instance_rules
from spotplane_server.instances.store import Machine
from spotplane_server.kernel import wire
from spotplane_server.kernel.calls import Caller
from spotplane_server.kernel.errors import Invalid

_NAME: Final = re.compile(r"[a-z0-9._-]{1,64}")
_ISSUABLE: Final = ("switch", "terminate", "update_config", "custom")
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{8,128}")
MAX_PARAMETERS: Final = 64 * 1024


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
    )


def config_changes(request: pb.UpdateAgentConfigRequest) -> dict[str, Any]:
    """The fields to change, and what the one mode does to the other.

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
        },
    )
    automatic, manual = wanted.get("auto_switch_enabled"), wanted.get("manual_replica_enabled")
    if automatic and manual:
        raise errors.ModeConflict(
            "automatic switching and manual replicas exclude each other",
            field="manual_replica_enabled",
        )
    if automatic:
        wanted["manual_replica_enabled"] = False
    if manual:
        wanted["auto_switch_enabled"] = False
    return wanted


def config_change(locked: store.Locked, config: store.Config) -> audit.Change:
    """What an update changed, for the audit."""
    before, after = asdict(locked.config), asdict(config)
    changed = [name for name in after if after[name] != before[name]]
    return audit.Change(
        "agent.update_config",
        "agent",
        str(locked.id),
        locked.tenant_id,
        before={name: _plain(before[name]) for name in changed},
        after={name: _plain(after[name]) for name in changed},
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int)) else str(value)


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
    default = ledger.EMERGENCY_EXPIRES_IN if priority == ledger.EMERGENCY else ledger.EXPIRES_IN
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
