"""Existing dashboards can read every member that they need, with the expected types."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.clients.notation import faults, parse
from tests.clients.test_loop_agent import World
from tests.legacy.field import ADMIN, Field
from tests.support.clock import FakeClock

POOL: Final = "m5.large.us-east-1b"


@dataclass(frozen=True)
class Read:
    """One request of a dashboard, and the members that it needs."""

    path: str
    noted: str
    array: bool = False
    method: str = "GET"
    body: Any = None
    status: int = 200


STATS = Read(
    "/api/admin/stats",
    "totalAccounts:i, agentsOnline:i, agentsTotal:i, poolsCovered:i, totalSavings:n,"
    "totalSwitches:i, manualSwitches:i, modelSwitches:i, emergencySwitches:i,"
    "totalDowntimeSeconds:i, backendHealth, decisionEngineLoaded:b, mlModelsLoaded:b",
)
FLEET: Final = (
    STATS,
    Read(
        "/api/admin/clients",
        "id:u, name, email?, status, agentsOnline:i, agentsTotal:i, instances:i, totalSavings:n,"
        "lastSync:t?, createdAt:t",
        array=True,
    ),
    Read("/api/admin/clients/growth?days=7", "date:d, total:i, new:i, active:i, count:i", True),
    Read("/api/admin/activity", "id:i, type, text, time:t", True),
    Read(
        "/api/admin/system-health",
        "apiStatus, database, decisionEngine, connectionPool, timestamp:t,"
        "modelStatus{loaded:b, name?, version?, filesUploaded:i,"
        "activeModels[]{name, version, active:b}, files[]{name, size:i, modified:t}},"
        "decisionEngineStatus{loaded:b, type?, version?, filesUploaded:i,"
        "files[]{name, size:i, modified:t}, active_fallback:b}",
    ),
    Read(
        "/api/admin/instances",
        "instances[]{id, instanceId, clientId:u, clientName, agentId:u?, region, az, instanceType,"
        "currentMode, currentPoolId?, spotPrice:n?, ondemandPrice:n?, isActive:b, instanceStatus,"
        "installedAt:t?, createdAt:t, logicalAgentId?, agentStatus?}, total:i,"
        "filters{status?, mode?, region?, client_id?, search?}",
    ),
    Read(
        "/api/admin/agents",
        "agents[]{id:u, logicalAgentId, hostname?, clientId:u, clientName, instanceId?,"
        "instanceType?, region?, az?, currentMode, currentPoolId?, status, enabled:b,"
        "autoSwitchEnabled:b, version?, lastHeartbeatAt:t?, createdAt:t}, total:i,"
        "filters{status?, client_id?, search?}",
    ),
    Read(
        "/api/client/{client}/agents",
        "id:u, logicalAgentId, hostname?, instanceId?, instanceType?, region?, az?, currentMode,"
        "currentPoolId?, status, lastHeartbeat:t?, instanceCount:i, enabled:b,"
        "autoSwitchEnabled:b, manualReplicaEnabled:b, autoTerminateEnabled:b,"
        "terminateWaitMinutes:i, agentVersion?",
        array=True,
    ),
    Read(
        "/api/client/{client}/agents/decisions",
        "agentId:u, agentName, status, currentMode, currentPoolId?, isHealthy:b, lastHeartbeat,"
        "lastDecision{type, time:t, elapsed{value:i, unit, minutes:i, formatted}}?,"
        "decisionHistory[]{type, action, riskScore:n, expectedSavings:n, currentMode, time:t},"
        "pricingHealth{status, recentReportsCount:i,"
        "recentReports[]{time:t, onDemandPrice:n, spotPrice:n}},"
        "recentActivity{pricingReports[]{time:t, onDemandPrice:n, spotPrice:n},"
        "systemEvents[]{type, severity, message, time:t},"
        "healthStatus{overall, heartbeat, activity, recentReportsCount:i, decisionCount:i}}",
        array=True,
    ),
    Read(
        "/api/client/{client}/agents/history",
        "id:u, logicalAgentId, instanceId?, instanceType?, region?, az?, currentMode, status,"
        "enabled:b, autoSwitchEnabled:b, manualReplicaEnabled:b, createdAt:t, updatedAt:t,"
        "lastHeartbeat:t?, installedAt:t?, terminatedAt:t?",
        array=True,
    ),
    Read(
        "/api/client/{client}/instances?status=all&mode=all&search=",
        "id, type, region, az, mode, poolId, spotPrice:n, onDemandPrice:n, isActive:b,"
        "instanceStatus, isPrimary:b, agentId:u?, lastSwitch:t?",
        array=True,
    ),
    Read(
        "/api/client/instances/{instance}/pricing",
        "currentMode, currentPool{id, name, az}?, onDemand{name, price:n},"
        "pools[]{id, name, az, price:n, savings:n}",
    ),
    Read(
        "/api/client/instances/{instance}/metrics",
        "id, instanceType, currentMode, currentPoolId?, spotPrice:n, onDemandPrice:n,"
        "baselineOnDemandPrice:n, uptimeHours:n, hoursSinceLastSwitch:n, totalSwitches:i,"
        "switchesLast7Days:i, switchesLast30Days:i, savingsLast30Days:n, totalSavings:n",
    ),
    Read(
        "/api/client/instances/{instance}/available-options",
        "currentType, currentRegion, currentAz,"
        "availablePools[]{id, name, az, instanceType, price:n?},"
        "pools[]{id, name, az, instanceType, price:n?}, availableTypes[], instanceTypes[]",
    ),
    Read(
        "/api/client/instances/{instance}/logs",
        "timestamp:t, eventType, event_type, status, severity, message, fromValue?, toValue?,"
        "savings:n, reason?, instanceType?, price:n?, metadata{}",
        array=True,
    ),
    Read(
        "/api/client/{client}/replicas",
        "agentId:u, primary{instanceId, instanceType, region, az, mode},"
        "replica{id:u, instanceId, type, status, sync_status, sync_latency_ms:i?,"
        "state_transfer_progress:n, pool{id, name, instance_type, region, az}?,"
        "cost{hourly:n?, total:n}, created_by, created_at:t, ready_at:t?, terminated_at:t?,"
        "is_active:b}",
        array=True,
    ),
    Read(
        "/api/client/{client}/savings",
        "name, period:d, savings:n, onDemandCost:n, modelCost:n",
        True,
    ),
    Read(
        "/api/client/{client}/switch-history",
        "id:u, instanceId, oldInstanceId, newInstanceId, timestamp:t, fromMode, toMode, fromPool,"
        "toPool, trigger, price:n, savingsImpact:n, downtimeSeconds:i, success:b",
        array=True,
    ),
    Read(
        "/api/client/{client}/stats/charts",
        "savingsTrend[]{month, savings:n, baseline:n, actual:n},"
        "modeDistribution[]{mode, count:i}, switchFrequency[]{date:d, switches:i}",
    ),
    Read(
        "/api/notifications?limit=50",
        "id:u, message, severity, isRead:b, time:t, client_id:u?",
        True,
    ),
    Read(
        "/api/admin/ml-models/sessions",
        "id:u, kind, status, isLive:b, isFallback:b, fileCount:i, files[], totalSize:i,"
        "createdAt:t, activatedAt:t?, shadow{evaluated:i, agreement:n, errors:i, p95_ms:n}?",
        array=True,
    ),
    Read(
        "/api/admin/pools/statistics",
        "overall{totalInstances:i, totalRegions:i, totalZones:i, totalTypes:i},"
        "byRegion[]{region, availabilityZone, instanceCount:i, typeVariety:i, averagePrice:n},"
        "byInstanceType[]{instanceType, instanceCount:i, averagePrice:n, region},"
        "interruptions[]{date:d, count:i, instanceType}, total_pools:i, active_pools:i,"
        "inactive_pools:i, total:i, active:i,"
        "regions[]{region, pools:i, average_price:n, cheapest_pool?, cheapest_price:n?},"
        "instance_types[]{instance_type, pools_available:i, avg_spot_price:n, ondemand_price:n?}",
    ),
    Read(
        "/api/admin/agents/health-summary",
        "totalAgents:i, activeAgents:i, healthyAgents:i, warningAgents:i, criticalAgents:i,"
        "healthPercentage:n, averageHeartbeatDelay:n,"
        "clientBreakdown[]{clientId:u, clientName, totalAgents:i, activeAgents:i,"
        "healthyAgents:i}, total_agents:i, online:i, offline:i, deleted:i,"
        "by_client[]{client_id:u, client_name, online:i, offline:i, total:i},"
        "recent_offline[]{agent_id:u, hostname?, client_name, last_heartbeat:t?,"
        "offline_duration_minutes:i}, heartbeat_distribution{healthy:i, degraded:i, critical:i}",
    ),
    Read(
        "/api/admin/search?q=web",
        "clients[]{id:u, name, email?, status, createdAt:t, matchField},"
        "instances[]{instanceId, id, instanceType, availabilityZone, az, region, status,"
        "clientId:u, clientName},"
        "agents[]{id:u, name, hostname?, isActive:b, status, lastHeartbeat:t?, instanceId?,"
        "clientId:u, clientName}, query, results{clients[]{id:u, name, email?, status, createdAt:t,"
        "matchField}, instances[]{instanceId, id, instanceType, availabilityZone, az, region,"
        "status, clientId:u, clientName}, agents[]{id:u, name, hostname?, isActive:b, status,"
        "lastHeartbeat:t?, instanceId?, clientId:u, clientName}}, total_results:i",
    ),
)
OPERATIONS: Final = (
    Read(
        "/api/client/instances/{instance}/pool-volatility",
        "current_pool{pool_id, current_price:n?, volatility_score:n?, volatility_category,"
        "interruption_rate_24h:n, price_stability_7d:n?}?,"
        "alternative_pools[]{pool_id, current_price:n?, volatility_score:n?,"
        "volatility_category, interruption_rate_24h:n, price_stability_7d:n?, recommendation?}",
    ),
    Read(
        "/api/client/instances/{instance}/simulate-switch",
        "simulation{current_price:n, target_price:n, hourly_savings:n, daily_savings:n,"
        "monthly_savings:n, estimated_downtime_seconds:n, confidence:n, volatility_risk,"
        "interruption_probability_24h:n, recommendation}",
        method="POST",
        body={"pool_id": POOL, "target_type": "spot"},
    ),
    Read(
        "/api/client/{client}/analytics/downtime",
        "total_downtime_seconds:i, average_downtime_per_switch:n, switches_with_downtime:i,"
        "switches_without_downtime:i,"
        "downtime_by_trigger{automatic{total_seconds:i, average_seconds:n, count:i},"
        "manual{total_seconds:i, average_seconds:n, count:i},"
        "emergency{total_seconds:i, average_seconds:n, count:i}},"
        "longest_downtime{switch_id:u, downtime_seconds:i, timestamp:t, reason}?,"
        "total_switches:i, successful_switches:i, failed_switches:i, avg_downtime_seconds:n,"
        "p95_downtime_seconds:n, min_downtime_seconds:n, max_downtime_seconds:n, trend:n?",
    ),
    Read(
        "/api/admin/metrics/operational",
        "agent_uptime{total_agents:i, online_agents:i, uptime_percentage:n},"
        "switch_downtime{avg_downtime_seconds:n, stddev_downtime_seconds:n,"
        "p95_downtime_seconds:n},"
        "savings{total_savings:n, baseline_cost:n, savings_percentage:n},"
        "emergency_stats{total_emergency_events:i, rebalance_count:i, termination_count:i},"
        "data_cleaner{total_duplicates_removed:i, total_gaps_interpolated:i,"
        "total_backfills_added:i, last_run_at:t?}",
    ),
    Read(
        "/api/admin/consolidation-jobs",
        "jobs[]{id:u, job, status, started_at:t, completed_at:t?, records_processed:i,"
        "duplicates_removed:i, gaps_interpolated:i, backfills_added:i, error?}, total:i, days:i",
    ),
    Read(
        "/api/admin/emergency-events",
        "events[]{id:u, client_id:u, agent_id:u, instance_id, signal_type, detected_at:t, status,"
        "response_action, replica_id:u?, new_instance_id?, response_time_ms:i?, bypassed[]},"
        "summary{total:i, rebalance:i, termination:i, promoted:i, failed:i}, total:i, days:i",
    ),
    Read(
        "/api/agents/{agent}/emergency-status",
        "agent_id:u, emergency_mode_active:b, rebalance_only_mode:b, ml_models_loaded:b,"
        "decision_engine_active:b,"
        "last_emergency_event{timestamp:t, type, action_taken, outcome}?,"
        "emergency_replicas_count:i, termination_notices_24h:i, notice_status,"
        "notice_received_at:t?, notice_deadline:t?,"
        "emergency_replica{id:u, status, pool_id?, sync_progress:n}?,"
        "actions[]{description, time:t}",
    ),
    Read(
        "/api/agents/{agent}/statistics",
        "totalDecisions:i, successfulSwitches:i, failedSwitches:i, successRate:n,"
        "averageConfidence:n, agent_id:u, statistics{total_decisions:i, switches_executed:i,"
        "switches_recommended:i, success_rate:n, average_confidence:n, last_decision_at:t?,"
        "decisions_by_trigger{automatic:i, manual:i, emergency:i}, avg_downtime_seconds:n,"
        "total_savings_generated:n}",
    ),
)
TENANT: Final = (
    Read("/api/client/validate", "valid:b, client_id:u?, name, client_name, email?, role"),
    Read(
        "/api/client/{client}",
        "id:u, name, email?, status, agentsOnline:i, agentsTotal:i, instances:i, totalSavings:n,"
        "totalDowntimeSeconds:i, totalSwitches:i, averageDowntimeSeconds:n, lastSync:t?,"
        "total_agents:i, online_agents:i, active_instances:i, spot_instances:i,"
        "total_switches:i, switches_today:i, total_savings:n, monthly_savings:n,"
        "recent_switches[]{id:u, old_instance_id, new_instance_id, old_mode, new_mode,"
        "savings_impact:n, initiated_at:t},"
        "active_agents[]{id:u, hostname?, status, instance_id?, instance_type?, region?,"
        "current_mode}",
    ),
    Read(
        "/api/client/{client}/switches",
        "switches[]{id:u, agent_id:u, old_instance_id, new_instance_id, old_mode, new_mode,"
        "old_az?, new_az?, trigger_type, savings_impact:n, initiated_at:t}, total:i",
    ),
    Read(
        "/api/client/pricing-history",
        "history[]{timestamp:t, ondemand_price:n?, spot_pools[]{pool_id, az, price:n}},"
        "days:i, data_points:i, agent_id:u, instance_type, region",
    ),
    Read(
        "/api/agents/{agent}/switch-recommendation",
        "decision_type, recommended_pool_id?, risk_score:n, expected_savings:n, confidence:n,"
        "reason, agent_id:u, auto_switch_enabled:b, will_auto_execute:b,"
        "current_pool{id, name, az}?, alternative_pools[]{id, name, az, spot_price:n},"
        "gates[]{name, passed:b}",
    ),
)


@pytest.fixture
async def busy(field: Field, clock: FakeClock) -> AsyncIterator[World]:
    """A tenant whose agent has switched once and keeps a replica."""
    async with World.running(field, clock) as world:
        path = f"/api/client/instances/{world.agent.machine.id}/force-switch"
        await field.post(path, {"target": "pool", "pool_id": POOL})
        await world.agent.commands()
        (world.agent,) = world.agent.children
        await world.agent.read_config()
        await world.agent.report_prices()
        await world.with_replica()
        yield world


async def _look(world: World, reads: tuple[Read, ...], by: str | None) -> list[str]:
    names = {
        "client": world.field.tenant.id,
        "agent": world.agent.agent_id,
        "instance": world.agent.machine.id,
    }
    found: list[str] = []
    for read in reads:
        path = read.path.format(**names)
        reply = await world.field.call(read.method, path, read.body, status=read.status, by=by)
        if read.array and not isinstance(reply, list):
            found.append(f"{path} is no bare array")
            continue
        noted = parse(read.noted)
        for item in reply if read.array else [reply]:
            if "gates" in item:  # values and limits are of any type
                item["gates"] = [{k: g[k] for k in ("name", "passed")} for g in item["gates"]]
            found += [f"{path}{fault}" for fault in faults(item, noted)]
    return found


async def test_fleet_dashboard_reads_everything_that_it_shows(busy: World) -> None:
    assert await _look(busy, FLEET, ADMIN) == []


async def test_operations_dashboard_reads_everything_that_it_shows(busy: World) -> None:
    assert await _look(busy, OPERATIONS, ADMIN) == []


async def test_tenant_dashboard_reads_everything_that_it_shows(busy: World) -> None:
    assert await _look(busy, TENANT, None) == []
