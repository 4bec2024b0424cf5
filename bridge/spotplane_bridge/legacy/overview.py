"""Routes of overview pages: the control plane, its tenants, an instance, an agent."""

from __future__ import annotations

from typing import Any, Final

from spotplane_bridge.legacy.exports import Column, Csv
from spotplane_bridge.legacy.requests import parameter
from spotplane_bridge.legacy.response_shapes import (
    Array,
    Shape,
    date,
    each,
    made,
    mapped,
    optional,
)
from spotplane_bridge.legacy.routes import LegacyRoute, route

_TENANT_STATUS: Final = {"active": "active", "suspended": "inactive"}

_STATS: Final = Shape(
    totalAccounts="tenant_count",
    agentsOnline="agents_online",
    agentsTotal="agents_total",
    poolsCovered="pools_covered",
    totalSavings="total_savings_nanousd",
    totalSwitches="total_switches",
    manualSwitches="manual_switches",
    modelSwitches="automatic_switches",
    emergencySwitches="emergency_switches",
    totalDowntimeSeconds="total_downtime_seconds",
    backendHealth=mapped(
        "decision_engine_loaded", {True: "Healthy", False: "Decision Engine Not Loaded"}
    ),
    decisionEngineLoaded="decision_engine_loaded",
    mlModelsLoaded="models_loaded",
)
_TENANT: Final = Shape(
    id="id",
    name="name",
    email=optional("email"),
    status=mapped("status", _TENANT_STATUS),
    agentsOnline="agents_online",
    agentsTotal="agents_total",
    instances="active_instances",
    totalSavings="total_savings_nanousd",
    lastSync="last_sync_at",
    createdAt="created_at",
)
_GROWTH: Final = Shape(
    date=date("day_time"), total="total", new="new_count", active="active_count", count="new_count"
)
_ACTIVITY: Final = Shape(id="id", type="type", text="text", time="occurred_at")


def _files(kind: str) -> Any:
    def files(health: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": file.name,
                "size": file.size_bytes,
                "modified": file.modified_at.ToJsonString(),
            }
            for engine in health.engines
            if engine.kind == kind
            for file in engine.files
        ]

    return files


def _listed(kind: str) -> Any:
    return made(
        _files(kind),
        type="array",
        items={
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "size": {"type": "integer"},
                "modified": {"type": "string", "format": "date-time"},
            },
            "required": ["name", "size", "modified"],
        },
    )


def _counted(kind: str) -> Any:
    return made(lambda health: len(_files(kind)(health)), type="integer")


def _live(field: str) -> Any:
    """Return a text of the live uploaded model; None without one."""

    def found(health: Any) -> str | None:
        return next(
            (getattr(e, field) for e in health.engines if e.live and e.kind == "model"), None
        )

    return made(found, type=["string", "null"])


def _active_models(health: Any) -> list[dict[str, Any]]:
    return [
        {"name": engine.name, "version": engine.version, "active": engine.live}
        for engine in health.engines
        if engine.active and engine.kind == "model"
    ]


_HEALTH: Final = Shape(
    apiStatus=made(lambda _health: "Healthy", type="string"),
    database=mapped("database_connected", {True: "Connected", False: "Disconnected"}),
    decisionEngine=mapped("engine_loaded", {True: "Loaded", False: "Not Loaded"}),
    connectionPool=made(lambda m: f"{m.connections_used}/{m.connections_limit}", type="string"),
    timestamp="measured_at",
    modelStatus=Shape(
        loaded="model_loaded",
        name=_live("name"),
        version=_live("version"),
        filesUploaded=_counted("model"),
        activeModels=made(
            _active_models,
            type="array",
            items={
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "version": {"type": "string"},
                    "active": {"type": "boolean"},
                },
                "required": ["name", "version", "active"],
            },
        ),
        files=_listed("model"),
    ),
    decisionEngineStatus=Shape(
        loaded="engine_loaded",
        type=optional("engine_name"),
        version="engine_version",
        filesUploaded=_counted("engine"),
        files=_listed("engine"),
        active_fallback="active_fallback",
    ),
)
_SUMMARY: Final = Shape(
    id="tenant.id",
    name="tenant.name",
    email=optional("tenant.email"),
    status=mapped("tenant.status", _TENANT_STATUS),
    agentsOnline="tenant.agents_online",
    agentsTotal="tenant.agents_total",
    instances="tenant.active_instances",
    totalSavings="tenant.total_savings_nanousd",
    totalDowntimeSeconds="total_downtime_seconds",
    totalSwitches="total_switches",
    averageDowntimeSeconds="average_downtime_seconds",
    lastSync="tenant.last_sync_at",
    total_agents="tenant.agents_total",
    online_agents="tenant.agents_online",
    active_instances="tenant.active_instances",
    spot_instances="spot_instances",
    total_switches="total_switches",
    switches_today="switches_today",
    total_savings="tenant.total_savings_nanousd",
    monthly_savings="monthly_savings_nanousd",
    recent_switches=each(
        "recent_switches",
        Shape(
            id="id",
            old_instance_id="old_instance_id",
            new_instance_id="new_instance_id",
            old_mode="old_mode",
            new_mode="new_mode",
            savings_impact="savings_impact_nanousd",
            initiated_at="initiated_at",
        ),
    ),
    active_agents=each(
        "active_agents",
        Shape(
            id="id",
            hostname="hostname",
            status="status",
            instance_id="instance_id",
            instance_type="instance_type",
            region="region",
            current_mode="current_mode",
        ),
    ),
)
_METRICS: Final = Shape(
    id="id",
    instanceType="instance_type",
    currentMode="current_mode",
    currentPoolId="current_pool_id",
    spotPrice="spot_price_nanousd",
    onDemandPrice="on_demand_price_nanousd",
    baselineOnDemandPrice="baseline_price_nanousd",
    uptimeHours="uptime_hours",
    hoursSinceLastSwitch="hours_since_last_switch",
    totalSwitches="total_switches",
    switchesLast7Days="switches_last_7_days",
    switchesLast30Days="switches_last_30_days",
    savingsLast30Days="savings_last_30_days_nanousd",
    totalSavings="total_savings_nanousd",
)
_FOUND_TENANTS: Final = each(
    "tenants",
    Shape(
        id="id",
        name="name",
        email=optional("email"),
        status=mapped("status", _TENANT_STATUS),
        createdAt="created_at",
        matchField="match_field",
    ),
)
_FOUND_INSTANCES: Final = each(
    "instances",
    Shape(
        instanceId="id",
        id="id",
        instanceType="instance_type",
        availabilityZone="az",
        az="az",
        region="region",
        status="status",
        clientId="tenant_id",
        clientName="tenant_name",
    ),
)
_FOUND_AGENTS: Final = each(
    "agents",
    Shape(
        id="id",
        name="name",
        hostname="hostname",
        isActive="active",
        status="status",
        lastHeartbeat="last_heartbeat_at",
        instanceId="instance_id",
        clientId="tenant_id",
        clientName="tenant_name",
    ),
)
_SEARCH: Final = Shape(
    clients=_FOUND_TENANTS,
    instances=_FOUND_INSTANCES,
    agents=_FOUND_AGENTS,
    query="query",
    results=Shape(clients=_FOUND_TENANTS, instances=_FOUND_INSTANCES, agents=_FOUND_AGENTS),
    total_results=made(lambda m: len(m.tenants) + len(m.instances) + len(m.agents), type="integer"),
)
_STATISTICS: Final = Shape(
    totalDecisions="total_decisions",
    successfulSwitches="successful_switches",
    failedSwitches="failed_switches",
    successRate=made(lambda m: m.success_ratio * 100, type="number"),
    averageConfidence="average_confidence",
    agent_id="agent_id",
    statistics=Shape(
        total_decisions="total_decisions",
        switches_executed="successful_switches",
        switches_recommended="switches_recommended",
        success_rate="success_ratio",
        average_confidence="average_confidence",
        last_decision_at="last_decision_at",
        decisions_by_trigger=Shape(
            automatic="automatic_switches",
            manual="manual_switches",
            emergency="emergency_switches",
        ),
        avg_downtime_seconds="average_downtime_seconds",
        total_savings_generated="total_savings_nanousd",
    ),
)
_OPERATIONS: Final = Shape(
    agent_uptime=Shape(
        total_agents="agents_total",
        online_agents="agents_online",
        uptime_percentage="uptime_percent",
    ),
    switch_downtime=Shape(
        avg_downtime_seconds="downtime_mean_seconds",
        stddev_downtime_seconds="downtime_stddev_seconds",
        p95_downtime_seconds="downtime_p95_seconds",
    ),
    savings=Shape(
        total_savings="total_savings_nanousd",
        baseline_cost="baseline_nanousd",
        savings_percentage="savings_percent",
    ),
    emergency_stats=Shape(
        total_emergency_events="emergency_count",
        rebalance_count="rebalance_count",
        termination_count="termination_count",
    ),
    data_cleaner=Shape(
        total_duplicates_removed="duplicates_removed",
        total_gaps_interpolated="gaps_interpolated",
        total_backfills_added="backfills_added",
        last_run_at="cleaner_last_run_at",
    ),
)

ROUTES: Final[tuple[LegacyRoute, ...]] = (
    route("1", "GET /api/admin/stats", "InsightService.GetFleetStats", _STATS),
    route(
        "2",
        "GET /api/admin/clients",
        "InsightService.ListTenantSummaries",
        Array("tenants", _TENANT),
        query=("limit", "cursor"),
    ),
    route(
        "3",
        "GET /api/admin/clients/growth",
        "InsightService.GetTenantGrowth",
        Array("days", _GROWTH),
        query=("days",),
    ),
    route(
        "4",
        "GET /api/admin/activity",
        "InsightService.ListActivity",
        Array("activities", _ACTIVITY),
        query=("limit",),
    ),
    route("5", "GET /api/admin/system-health", "InsightService.GetSystemHealth", _HEALTH),
    route("13", "GET /api/client/{client_id}", "InsightService.GetTenantSummary", _SUMMARY),
    route(
        "26",
        "GET /api/client/instances/{instance_id}/metrics",
        "InsightService.GetInstanceMetrics",
        _METRICS,
    ),
    route(
        "63",
        "GET /api/admin/export/global-stats",
        "InsightService.ExportGlobalStats",
        Csv(
            lambda _request: "global_stats.csv",
            (
                Column("Client ID", "client_id", "tenant_id"),
                Column("Name", "name", "name"),
                Column("Email", "email", optional("email")),
                Column("Total Savings ($)", "total_savings", "total_savings_nanousd", decimals=2),
                Column("Active Instances", "active_instances", "active_instances"),
                Column("Active Agents", "active_agents", "active_agents"),
                Column("Created At", "created_at", "created_at"),
            ),
        ),
    ),
    route(
        "67",
        "GET /api/admin/search",
        "InsightService.Search",
        _SEARCH,
        query=(parameter("q", field="query", exact=True), "types", "limit"),
    ),
    route(
        "68",
        "GET /api/agents/{agent_id}/statistics",
        "InsightService.GetAgentStatistics",
        _STATISTICS,
    ),
    route(
        "X23",
        "GET /api/admin/metrics/operational",
        "InsightService.GetOperationalMetrics",
        _OPERATIONS,
    ),
)
