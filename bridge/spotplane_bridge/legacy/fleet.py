"""Routes of instances: lists, terminations, launches, cleanups, logs and bulk operations."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from spotplane_bridge.body_limits import LIST_BYTES
from spotplane_bridge.legacy.emergencies import termination
from spotplane_bridge.legacy.requests import Incoming, parameter
from spotplane_bridge.legacy.response_shapes import (
    Array,
    Shape,
    default,
    each,
    nested,
    optional,
    usd,
)
from spotplane_bridge.legacy.routes import LegacyRoute, call, route

LISTED: Final = Shape(
    id="id",
    instanceId="id",
    clientId="tenant_id",
    clientName="tenant_name",
    agentId=optional("agent_id"),
    region="region",
    az="az",
    instanceType="instance_type",
    currentMode="mode",
    currentPoolId=optional("pool_id"),
    spotPrice=usd("spot_price_nanousd"),
    ondemandPrice=usd("on_demand_price_nanousd"),
    isActive="is_active",
    instanceStatus="status",
    installedAt="installed_at",
    createdAt="created_at",
    logicalAgentId=optional("logical_agent_id"),
    agentStatus=optional("agent_status"),
)
OF_CLIENT: Final = Shape(
    id="id",
    type="instance_type",
    region="region",
    az="az",
    mode="mode",
    poolId=default("pool_id", "n/a"),
    spotPrice=usd("spot_price_nanousd", absent=0),
    onDemandPrice=usd("on_demand_price_nanousd", absent=0),
    isActive="is_active",
    instanceStatus="status",
    isPrimary="is_primary",
    agentId=optional("agent_id"),
    lastSwitch="last_switch_at",
)
FILTERS: Final = Shape(
    status="status", mode="mode", region="region", client_id="tenant_id", search="search"
)
TERMINATION_CANDIDATE: Final = Shape(
    instance_id="instance_id",
    instance_type="instance_type",
    az="az",
    reason="reason",
    # Older agents read the first, newer ones the second.
    seconds_waiting="waiting_seconds",
    seconds_since_marked="waiting_seconds",
)
LOG: Final = Shape(
    timestamp="timestamp",
    eventType="event_type",
    event_type="event_type",
    status="status",
    severity="severity",
    message="message",
    fromValue="from_value",
    toValue="to_value",
    savings="savings_nanousd",
    reason="reason",
    instanceType="instance_type",
    price="price_nanousd",
    metadata="metadata",
)
RESULT: Final = Shape(
    agent_id="agent_id", instance_id="instance_id", status="status", error="error"
)

_INSTANCE: Final = parameter("instance_id", "cloud_instance_id", max_length=128)
_SEARCH: Final = parameter("search", max_length=255, exact=True)


def _id_or_nothing(value: Any) -> str | None:
    """Return an id of a command; None for anything else that agents send there."""
    try:
        return str(UUID(str(value)))
    except ValueError:
        return None


def _across_tenants(_request: Incoming, message: Any) -> None:
    message.across_tenants = True


def _has_ended(_request: Incoming, message: Any) -> None:
    message.success = True


def _is_notice(request: Incoming) -> bool:
    body = request.body
    if body.get("success") is not None:
        return False
    notice_type = str(body.get("notice_type") or "").upper()
    return notice_type == "TERMINATION" or body.get("termination_time") is not None


def _is_post_mortem(request: Incoming) -> bool:
    body = request.body
    return body.get("success") is None and body.get("termination_reason") is not None


_COMMAND: Final = parameter("request_id", field="command_id", convert=_id_or_nothing)

ROUTES: Final[tuple[LegacyRoute, ...]] = (
    route(
        "6",
        "GET /api/admin/instances",
        "FleetService.ListInstances",
        Shape(
            instances=each("instances", LISTED),
            total="pagination.total",
            filters=nested("filters", FILTERS, always=True),
        ),
        query=(
            "status",
            "mode",
            "region",
            parameter("client_id", field="tenant_id"),
            _SEARCH,
            "limit",
            "cursor",
        ),
        fill=_across_tenants,
    ),
    route(
        "24",
        "GET /api/client/{client_id}/instances",
        "FleetService.ListInstances",
        Array("instances", OF_CLIENT),
        query=("status", "mode", _SEARCH, "limit", "cursor"),
    ),
    route(
        "44",
        "GET /api/agents/{agent_id}/instances-to-terminate",
        "FleetService.ListInstancesToTerminate",
        Shape(
            instances=each("instances", TERMINATION_CANDIDATE),
            auto_terminate_enabled="auto_terminate_enabled",
            terminate_wait_seconds="terminate_wait_seconds",
        ),
    ),
    route(
        "57",
        "POST /api/agents/{agent_id}/cleanup-report",
        "FleetService.ReportCleanup",
        Shape(
            success=True,
            message="message",
            deleted_snapshots="deleted_snapshot_count",
            deleted_amis="deleted_image_count",
            failed_count="failed_count",
        ),
        body=("timestamp", "snapshots", "amis", "amis_deleted", "snapshots_deleted", "errors"),
        max_body_bytes=LIST_BYTES,
    ),
    route(
        "69",
        "GET /api/client/instances/{instance_id}/logs",
        "FleetService.ListInstanceLogs",
        Array("logs", LOG),
        query=("limit",),
    ),
    route(
        "77",
        "POST /api/admin/bulk/execute",
        "FleetService.BulkExecute",
        Shape(
            operation="operation",
            total="total",
            succeeded="succeeded",
            failed="failed",
            dry_run="dry_run",
            results=each("results", RESULT),
        ),
        body=("operation", "agent_ids", "instance_ids", "confirm", "dry_run"),
    ),
    route(
        "X7",
        "POST /api/agents/{agent_id}/register-instance",
        "FleetService.RegisterInstance",
        Shape(success=True, message="message", instance_id="instance_id", is_primary="is_primary"),
        body=(
            parameter("instance_id", max_length=128),
            parameter("instance_type", max_length=64),
            parameter("region", max_length=64),
            parameter("az", "availability_zone", max_length=64),
            parameter("mode", "current_mode"),
            parameter("pool_id", max_length=128),
            parameter("ami_id", field="image_id", max_length=64),
            "is_primary",
            parameter("spot_price", field="spot_price_nanousd"),
            parameter("ondemand_price", "on_demand_price", field="on_demand_price_nanousd"),
        ),
    ),
    route(
        "X8",
        "POST /api/agents/{agent_id}/termination-report",
        "FleetService.ReportInstanceTermination",
        Shape(success=True, message="message"),
        body=(_INSTANCE, "success", "error", "terminated_at"),
        instead=(
            termination(_is_notice),
            call(
                "AgentService.ReportTermination",
                Shape(success=True),
                when=_is_post_mortem,
                body=(
                    _INSTANCE,
                    parameter("termination_reason", field="reason"),
                    "termination_type",
                    parameter("terminated_at", "timestamp", field="occurred_at"),
                ),
            ),
        ),
    ),
    route(
        "X13",
        "POST /api/agents/{agent_id}/instance-launched",
        "FleetService.ReportInstanceLaunched",
        Shape(success=True, instance_id="instance_id", status="status"),
        body=(
            parameter("temp_instance_id", field="placeholder_id", max_length=128),
            parameter("instance_id", max_length=128),
            parameter("instance_type", max_length=64),
            parameter("az", max_length=64),
            _COMMAND,
            "confirmed_at",
        ),
    ),
    route(
        "X14",
        "POST /api/agents/{agent_id}/instance-terminated",
        "FleetService.ReportInstanceTermination",
        Shape(success=True, message="message"),
        body=(_INSTANCE, _COMMAND, parameter("confirmed_at", field="terminated_at")),
        fill=_has_ended,
    ),
)
