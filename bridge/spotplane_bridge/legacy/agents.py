"""Routes of agents: registration, configuration, heartbeats, and their lists for dashboards."""

from __future__ import annotations

from typing import Any, Final

from spotplane_bridge.body_limits import LIST_BYTES
from spotplane_bridge.legacy.requests import parameter
from spotplane_bridge.legacy.response_shapes import Array, Shape, default, each, nested, optional
from spotplane_bridge.legacy.routes import LegacyRoute, route

_INSTANCE: Final = parameter("instance_id", max_length=128)
_INSTANCE_HEADER: Final = parameter("X-Instance-Id", field="instance_id", max_length=128)

# The settings that an agent has to follow, from an `AgentConfig`.
CONFIG: Final = Shape(
    agent_id="agent_id",
    enabled="enabled",
    auto_switch_enabled="auto_switch_enabled",
    auto_terminate_enabled="auto_terminate_enabled",
    terminate_wait_seconds="terminate_wait_seconds",
    replica_enabled="replica_enabled",
    replica_count="replica_count",
    manual_replica_enabled="manual_replica_enabled",
    min_savings_percent="min_savings_percent",
    risk_threshold="risk_threshold",
    max_switches_per_week="max_switches_per_week",
    max_switches_per_day="max_switches_per_day",
    min_pool_duration_hours="min_pool_duration_hours",
    config_version="config_version",
)

# The result of a change of the configuration.
CHANGED: Final = Shape(
    success=True,
    auto_switch_enabled="auto_switch_enabled",
    manual_replica_enabled="manual_replica_enabled",
    auto_terminate_enabled="auto_terminate_enabled",
    terminate_wait_seconds="terminate_wait_seconds",
    config_version="config_version",
)

DONE: Final = Shape(success=True)

_PLACE: Final = Shape(
    instanceId=optional("instance_id"),
    instanceType=optional("instance_type"),
    region=optional("region"),
    az=optional("az"),
    currentMode="mode",
)

OF_ALL_TENANTS: Final = Shape(
    Shape(
        id="id",
        logicalAgentId="logical_agent_id",
        hostname=optional("hostname"),
        clientId="tenant_id",
        clientName="tenant_name",
    ),
    _PLACE,
    currentPoolId=optional("pool_id"),
    status="status",
    enabled="enabled",
    autoSwitchEnabled="auto_switch_enabled",
    version=optional("agent_version"),
    lastHeartbeatAt="last_heartbeat_at",
    createdAt="created_at",
)

OF_A_TENANT: Final = Shape(
    Shape(id="id", logicalAgentId="logical_agent_id", hostname=optional("hostname")),
    _PLACE,
    currentPoolId=optional("pool_id"),
    status="status",
    lastHeartbeat="last_heartbeat_at",
    instanceCount="instance_count",
    enabled="enabled",
    autoSwitchEnabled="auto_switch_enabled",
    manualReplicaEnabled="manual_replica_enabled",
    autoTerminateEnabled="auto_terminate_enabled",
    terminateWaitMinutes="terminate_wait_minutes",
    agentVersion=optional("agent_version"),
)

PAST: Final = Shape(
    Shape(id="id", logicalAgentId="logical_agent_id"),
    _PLACE,
    status="status",
    enabled="enabled",
    autoSwitchEnabled="auto_switch_enabled",
    manualReplicaEnabled="manual_replica_enabled",
    createdAt="created_at",
    updatedAt="updated_at",
    lastHeartbeat="last_heartbeat_at",
    installedAt="installed_at",
    terminatedAt="terminated_at",
)

AGENT: Final = Shape(
    id="id",
    agent_id="id",
    client_id="tenant_id",
    logical_agent_id="logical_agent_id",
    hostname=optional("hostname"),
    instance_id=optional("instance_id"),
    instance_type=optional("instance_type"),
    region=optional("region"),
    az=optional("az"),
    current_mode="mode",
    current_pool_id=optional("pool_id"),
    status="status",
    enabled=default("config.enabled", False),
    auto_switch_enabled=default("config.auto_switch_enabled", False),
    manual_replica_enabled=default("config.manual_replica_enabled", False),
    auto_terminate_enabled=default("config.auto_terminate_enabled", False),
    terminate_wait_seconds=default("config.terminate_wait_seconds", 0),
    replica_count=default("config.replica_count", 0),
    config_version=default("config.config_version", 0),
    agent_version=optional("agent_version"),
    last_heartbeat_at="last_heartbeat_at",
    created_at="created_at",
)

HEALTH: Final = Shape(
    totalAgents="total_agents",
    activeAgents="active_agents",
    healthyAgents="healthy_agents",
    warningAgents="warning_agents",
    criticalAgents="critical_agents",
    healthPercentage="health_percentage",
    averageHeartbeatDelay="average_heartbeat_delay_seconds",
    clientBreakdown=each(
        "tenants",
        Shape(
            clientId="tenant_id",
            clientName="tenant_name",
            totalAgents="total_agents",
            activeAgents="active_agents",
            healthyAgents="healthy_agents",
        ),
    ),
    total_agents="total_agents",
    online="active_agents",
    offline="offline_agents",
    deleted="deleted_agents",
    by_client=each(
        "tenants",
        Shape(
            client_id="tenant_id",
            client_name="tenant_name",
            online="active_agents",
            offline="offline_agents",
            total="total_agents",
        ),
    ),
    recent_offline=each(
        "recent_offline",
        Shape(
            agent_id="agent_id",
            hostname=optional("hostname"),
            client_name="tenant_name",
            last_heartbeat="last_heartbeat_at",
            offline_duration_minutes="offline_minutes",
        ),
    ),
    heartbeat_distribution=Shape(
        healthy="healthy_agents", degraded="warning_agents", critical="critical_agents"
    ),
)


def _inventory(snapshot: Any) -> Any:
    """Return the listed instances; a snapshot may be empty."""
    return snapshot.get("instances") if isinstance(snapshot, dict) else None


def _load(metrics: Any, of: str) -> Any:
    """Return a percentage of the health metrics; None when it is not a number."""
    value = metrics.get(f"{of}_percent") if isinstance(metrics, dict) else None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


ROUTES: Final[tuple[LegacyRoute, ...]] = (
    route(
        "7",
        "GET /api/admin/agents",
        "AgentService.ListAgentOverviews",
        Shape(
            agents=each("agents", OF_ALL_TENANTS),
            total="pagination.total",
            filters=nested(
                "filters",
                Shape(
                    status=optional("status"),
                    client_id=optional("tenant_id"),
                    search=optional("search"),
                ),
                always=True,
            ),
        ),
        query=(
            "status",
            parameter("client_id", field="tenant_id"),
            parameter("search", max_length=255),
            "limit",
            "cursor",
        ),
    ),
    route(
        "14",
        "POST /api/agents/register",
        "AgentService.Register",
        Shape(
            agent_id="agent_id",
            client_id="tenant_id",
            config=nested("config", CONFIG, always=True),
            message=optional("message"),
            agent_token=optional("agent_token"),
        ),
        body=(
            parameter("logical_agent_id", max_length=255),
            _INSTANCE,
            parameter("instance_type", max_length=64),
            parameter("region", max_length=64),
            parameter("az", "availability_zone", max_length=64),
            parameter("hostname", max_length=255),
            parameter("ami_id", field="image_id", max_length=64),
            parameter("agent_version", "version", max_length=32),
            parameter("mode", "current_mode", max_length=64),
            parameter("private_ip", max_length=45),
            parameter("public_ip", max_length=45),
            parameter("cloud_account", max_length=128),
            parameter("project_id", max_length=128),
            parameter("issue_agent_token"),
            parameter("client_id", field="tenant_id"),
        ),
    ),
    route(
        "15",
        "POST /api/agents/{agent_id}/heartbeat",
        "AgentService.Heartbeat",
        Shape(
            success=True,
            config_version="config_version",
            commands_pending="commands_pending",
            config=nested("config", CONFIG, always=True),
            next_heartbeat_seconds="next_heartbeat_seconds",
        ),
        body=(
            parameter("status", max_length=64),
            "monitored_instances",
            _INSTANCE,
            parameter("instance_type", max_length=64),
            parameter("mode", "current_mode", max_length=64),
            parameter("az", max_length=64),
            parameter("current_pool_id", field="pool_id", max_length=128),
            parameter("inventory_snapshot", field="inventory", convert=_inventory),
            parameter(
                "health_metrics", field="cpu_percent", convert=lambda metrics: _load(metrics, "cpu")
            ),
            parameter(
                "health_metrics",
                field="memory_percent",
                convert=lambda metrics: _load(metrics, "memory"),
            ),
        ),
        max_body_bytes=LIST_BYTES,
    ),
    route(
        "16",
        "GET /api/agents/{agent_id}/config",
        "AgentService.GetAgentConfig",
        CONFIG,
        query=(_INSTANCE,),
        headers=(_INSTANCE_HEADER,),
    ),
    route(
        "17",
        "POST /api/client/agents/{agent_id}/toggle-enabled",
        "AgentService.SetAgentEnabled",
        Shape(success=True, enabled="enabled"),
        body=("enabled",),
    ),
    route(
        "18",
        "POST /api/client/agents/{agent_id}/settings",
        "AgentService.UpdateAgentConfig",
        CHANGED,
        body=(
            "auto_switch_enabled",
            "manual_replica_enabled",
            "auto_terminate_enabled",
            "terminate_wait_seconds",
            "replica_enabled",
            "replica_count",
            "min_savings_percent",
            "risk_threshold",
            "max_switches_per_week",
            "max_switches_per_day",
            "min_pool_duration_hours",
        ),
    ),
    route(
        "19",
        "POST /api/client/agents/{agent_id}/config",
        "AgentService.UpdateAgentConfig",
        CHANGED,
        body=(
            parameter("autoSwitchEnabled", field="auto_switch_enabled"),
            parameter("manualReplicaEnabled", field="manual_replica_enabled"),
            parameter("autoTerminateEnabled", field="auto_terminate_enabled"),
            parameter(
                "terminateWaitMinutes", "terminate_wait_minutes", field="terminate_wait_minutes"
            ),
        ),
    ),
    route(
        "20",
        "DELETE /api/client/agents/{agent_id}",
        "AgentService.DeleteAgent",
        Shape(success=True, message="message", agent_id="agent_id"),
    ),
    route(
        "21",
        "GET /api/client/{client_id}/agents",
        "AgentService.ListTenantAgents",
        Array("agents", OF_A_TENANT),
        query=("limit", "cursor"),
    ),
    route(
        "23",
        "GET /api/client/{client_id}/agents/history",
        "AgentService.ListAgentHistory",
        Array("agents", PAST),
        query=("limit", "cursor"),
    ),
    route(
        "43",
        "POST /api/agents/{agent_id}/termination",
        "AgentService.ReportTermination",
        DONE,
        body=(
            _INSTANCE,
            parameter("reason", max_length=500),
            parameter("termination_type", max_length=64),
            parameter("timestamp", field="occurred_at"),
        ),
    ),
    route(
        "71",
        "GET /api/admin/agents/health-summary",
        "AgentService.GetHealthSummary",
        HEALTH,
    ),
    route("X6", "GET /api/agents/{agent_id}", "AgentService.GetAgent", AGENT),
    route(
        "X15",
        "POST /api/agents/{agent_id}/shutdown",
        "AgentService.ReportShutdown",
        DONE,
        body=(parameter("cloud_instance_id", "instance_id", field="instance_id", max_length=128),),
    ),
    route(
        "X18",
        "POST /api/agents/uninstall",
        "AgentService.UninstallAgent",
        Shape(success=True, message="message", agent_id=optional("agent_id")),
        body=(
            "agent_id",
            _INSTANCE,
            parameter("logical_agent_id", max_length=255),
            parameter("reason", max_length=500),
            parameter("client_id", field="tenant_id"),
        ),
    ),
)
