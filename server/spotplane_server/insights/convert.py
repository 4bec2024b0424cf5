"""Figures as answers."""

from __future__ import annotations

from datetime import datetime

from spotplane.v1 import insight_pb2 as pb

from spotplane_server.insights import rules
from spotplane_server.insights.details_queries import AgentFacts, InstanceFacts, InstanceSavings
from spotplane_server.insights.plane_queries import Engine
from spotplane_server.insights.platform_queries import FleetStats, Operations
from spotplane_server.insights.search_queries import FoundAgent, FoundInstance, FoundTenant
from spotplane_server.insights.tenant_queries import ActiveAgent, Figures, RecentSwitch
from spotplane_server.kernel.api import wire


def fleet_stats(found: FleetStats) -> pb.GetFleetStatsResponse:
    """The fleet of all tenants."""
    return pb.GetFleetStatsResponse(
        tenant_count=found.tenants,
        agents_online=found.agents_online,
        agents_total=found.agents_total,
        pools_covered=found.pools_covered,
        total_savings_nanousd=found.savings_nanousd,
        total_switches=found.switches,
        manual_switches=found.manual,
        automatic_switches=found.automatic,
        emergency_switches=found.emergency,
        total_downtime_seconds=found.downtime_seconds,
        decision_engine_loaded=found.engine_loaded,
        models_loaded=found.model_live and found.engine_loaded,
    )


def figures(found: Figures) -> pb.TenantFigures:
    """A tenant and its figures."""
    return pb.TenantFigures(
        id=str(found.id),
        name=found.name,
        email=found.email,
        status=found.status,
        agents_online=found.agents_online,
        agents_total=found.agents_total,
        active_instances=found.active_instances,
        total_savings_nanousd=found.savings_nanousd,
        last_sync_at=wire.timestamp(found.last_sync_at),
        created_at=wire.timestamp(found.created_at),
    )


def export_row(found: Figures) -> pb.GlobalStatsRow:
    """A tenant of the export."""
    return pb.GlobalStatsRow(
        tenant_id=str(found.id),
        name=found.name,
        email=found.email,
        total_savings_nanousd=found.savings_nanousd,
        active_instances=found.active_instances,
        active_agents=found.agents_online,
        created_at=wire.timestamp(found.created_at),
    )


def recent_switch(found: RecentSwitch) -> pb.RecentSwitch:
    """A switch in brief."""
    return pb.RecentSwitch(
        id=str(found.id),
        old_instance_id=found.old_instance_id or "",
        new_instance_id=found.new_instance_id or "",
        old_mode=found.old_mode or "unknown",
        new_mode=found.new_mode or "unknown",
        savings_impact_nanousd=found.savings_impact_nanousd,
        initiated_at=wire.timestamp(found.initiated_at),
    )


def active_agent(found: ActiveAgent) -> pb.ActiveAgent:
    """An agent in brief."""
    return pb.ActiveAgent(
        id=str(found.id),
        hostname=found.hostname,
        status=found.status,
        instance_id=found.instance_id,
        instance_type=found.instance_type,
        region=found.region,
        current_mode=found.mode or "unknown",
    )


def engine(found: Engine) -> pb.UploadedEngine:
    """An uploaded engine."""
    return pb.UploadedEngine(
        kind=found.kind,
        name=found.name,
        version=found.version,
        active=found.role is not None,
        live=found.role == "live",
        files=[
            pb.UploadedFile(
                name=name, size_bytes=size, modified_at=wire.timestamp(found.created_at)
            )
            for name, size in zip(found.file_names, found.file_sizes, strict=True)
        ],
    )


def instance_metrics(
    found: InstanceFacts, savings: InstanceSavings, now: datetime
) -> pb.GetInstanceMetricsResponse:
    """What one instance did and saved."""
    since = (found.ended_at or now) - (found.switched_at or found.first_at)
    return pb.GetInstanceMetricsResponse(
        id=found.id,
        instance_type=found.instance_type,
        current_mode=found.mode,
        current_pool_id=found.pool_id,
        spot_price_nanousd=found.spot_nanousd,
        on_demand_price_nanousd=found.on_demand_nanousd,
        baseline_price_nanousd=found.baseline_nanousd,
        uptime_hours=found.uptime_seconds / 3600,
        hours_since_last_switch=max(0.0, since.total_seconds() / 3600),
        total_switches=found.switches,
        switches_last_7_days=found.switches_7_days,
        switches_last_30_days=found.switches_30_days,
        savings_last_30_days_nanousd=savings.recent_nanousd,
        total_savings_nanousd=savings.total_nanousd,
    )


def agent_statistics(agent_id: str, found: AgentFacts) -> pb.GetAgentStatisticsResponse:
    """How one agent was decided about."""
    return pb.GetAgentStatisticsResponse(
        agent_id=agent_id,
        total_decisions=found.decisions,
        switches_recommended=found.recommended,
        average_confidence=found.confidence,
        last_decision_at=wire.timestamp(found.last_decision_at),
        successful_switches=found.successful,
        failed_switches=found.failed,
        success_ratio=rules.ratio(found.successful, found.successful + found.failed),
        automatic_switches=found.automatic,
        manual_switches=found.manual,
        emergency_switches=found.emergency,
        average_downtime_seconds=found.downtime,
        total_savings_nanousd=found.savings_nanousd,
    )


def operations(found: Operations) -> pb.GetOperationalMetricsResponse:
    """How the plane does its work."""
    return pb.GetOperationalMetricsResponse(
        agents_total=found.agents_total,
        agents_online=found.agents_online,
        uptime_percent=rules.percent(found.agents_online, found.agents_total),
        downtime_mean_seconds=found.downtime_mean,
        downtime_stddev_seconds=found.downtime_stddev,
        downtime_p95_seconds=found.downtime_p95,
        total_savings_nanousd=found.savings_nanousd,
        baseline_nanousd=found.baseline_nanousd,
        savings_percent=rules.percent(found.savings_nanousd, found.baseline_nanousd),
        emergency_count=found.emergencies,
        rebalance_count=found.rebalances,
        termination_count=found.terminations,
        silence_count=found.silences,
        duplicates_removed=found.duplicates,
        gaps_interpolated=found.gaps,
        backfills_added=found.backfills,
        cleaner_last_run_at=wire.timestamp(found.last_run_at),
    )


def found_tenant(found: FoundTenant) -> pb.FoundTenant:
    """A tenant that was found."""
    return pb.FoundTenant(
        id=str(found.id),
        name=found.name,
        email=found.email,
        status=found.status,
        created_at=wire.timestamp(found.created_at),
        match_field=found.match_field,
    )


def found_instance(found: FoundInstance) -> pb.FoundInstance:
    """An instance that was found."""
    return pb.FoundInstance(
        id=found.id,
        instance_type=found.instance_type,
        az=found.az,
        region=found.region,
        status=found.status,
        tenant_id=str(found.tenant_id),
        tenant_name=found.tenant_name,
    )


def found_agent(found: FoundAgent) -> pb.FoundAgent:
    """An agent that was found."""
    return pb.FoundAgent(
        id=str(found.id),
        name=found.name,
        hostname=found.hostname,
        active=found.active,
        status=found.status,
        last_heartbeat_at=wire.timestamp(found.last_heartbeat_at),
        instance_id=found.instance_id,
        tenant_id=str(found.tenant_id),
        tenant_name=found.tenant_name,
    )
