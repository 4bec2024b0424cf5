"""A tenant's agents with what was decided for them, as an answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from spotplane.v1 import decision_pb2 as pb

from spotplane_server.decisions.overview_queries import (
    AgentRow,
    DecisionRow,
    EventRow,
    ReportRow,
)
from spotplane_server.kernel.api import wire

# An agent that beat longer ago is not healthy, whatever its state says.
BEATING: Final = timedelta(minutes=5)
# So many price reports in half an hour, and its pricing is healthy.
ENOUGH_REPORTS: Final = 5

_WARNINGS: Final = frozenset(
    {
        "agent.marked_offline",
        "instance.displaced",
        "instance.extra",
        "instance.terminated",
        "rebalance.recommendation",
        "termination.notice",
        "emergency.bypass",
        "replica.unconfirmed",
        "zombies.reported",
    }
)
_ERRORS: Final = frozenset({"switch.failed", "replica.failed", "instance.termination_failed"})
# What says most about an event, in the order in which it is told.
_TELLING: Final = (
    "reason",
    "message",
    "old_instance_id",
    "new_instance_id",
    "instance_id",
    "target_pool_id",
    "target_mode",
)
_MOST: Final = 300


def agent(
    row: AgentRow,
    decisions: list[DecisionRow],
    reports: list[ReportRow],
    events: list[EventRow],
    now: datetime,
) -> pb.AgentDecisions:
    """One agent."""
    return pb.AgentDecisions(
        agent_id=str(row.id),
        agent_name=row.logical_agent_id,
        status=row.status,
        current_mode=row.mode or "unknown",
        current_pool_id=row.pool_id if row.mode == "spot" else None,
        healthy=is_beating(row, now) and is_active(row),
        last_heartbeat_at=wire.timestamp(row.last_heartbeat_at),
        decisions=[_decision(found) for found in decisions],
        recent_decision_count=row.decisions,
        price_reports=[_report(found) for found in reports],
        recent_report_count=row.reports,
        events=[_event(found) for found in events],
        read_at=wire.timestamp(now),
        heartbeat_healthy=is_beating(row, now),
        activity_healthy=is_active(row),
        pricing_healthy=row.reports >= ENOUGH_REPORTS,
    )


def is_beating(row: AgentRow, now: datetime) -> bool:
    """Whether it is online and was heard of lately."""
    beat = row.last_heartbeat_at
    return row.status == "online" and beat is not None and now - beat <= BEATING


def is_active(row: AgentRow) -> bool:
    """Whether it reports, or is decided for."""
    return row.reports_now > 0 or row.decisions > 0


def severity(event_type: str) -> str:
    """How much an event matters."""
    if event_type in _ERRORS:
        return "error"
    return "warning" if event_type in _WARNINGS else "info"


def message(event_type: str, data: Mapping[str, Any]) -> str:
    """An event in words: its name, and what it says of itself."""
    words = event_type.replace(".", " ").replace("_", " ")
    said = [
        f"{name.removesuffix('_id').replace('_', ' ')} {data[name]}"
        if name not in {"reason", "message"}
        else str(data[name])
        for name in _TELLING
        if isinstance(data.get(name), str) and data[name]
    ]
    return f"{words}: {', '.join(said)}"[:_MOST] if said else words


def _decision(row: DecisionRow) -> pb.AgentDecision:
    where = "spot" if row.target_mode == "spot" else "ondemand"
    return pb.AgentDecision(
        type="stay" if row.action == "stay" else f"switch_{where}",
        outcome=row.outcome,
        risk_score=row.risk_score,
        expected_savings_usd_per_hour=row.expected_savings,
        current_mode=row.current_mode,
        decided_at=wire.timestamp(row.decided_at),
    )


def _report(row: ReportRow) -> pb.AgentPriceReport:
    return pb.AgentPriceReport(
        reported_at=wire.timestamp(row.received_at),
        on_demand_price_nanousd=row.on_demand_nanousd or 0,
        spot_price_nanousd=row.spot_nanousd or 0,
    )


def _event(row: EventRow) -> pb.AgentDecisionEvent:
    return pb.AgentDecisionEvent(
        type=row.event_type.replace(".", "_"),
        severity=severity(row.event_type),
        message=message(row.event_type, row.data),
        occurred_at=wire.timestamp(row.occurred_at),
    )
