"""What agents are told of their signals: pure, from what was committed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from spotplane.v1 import failover_pb2 as pb

from spotplane_server.failover.queries import (
    Around,
    Emergency,
    Failover,
    Outcome,
    Step,
    Summary,
)
from spotplane_server.kernel.api import wire

# Above this a pool is better left, when there is another place to go to.
RISKY: Final = 0.30
ACTIVE_WITHIN: Final = timedelta(hours=2)
URGENCY: Final = {"termination": "critical"}
SIGNALS: Final = {
    "rebalance": "rebalance-recommendation",
    "termination": "termination-notice",
    "silence": "silence",
}
RESPONSES: Final = {
    "created_replica": "created-replica",
    "promoted_replica": "promoted-existing-replica",
    "queued_ondemand_switch": "queued-ondemand-switch",
}

_TEXTS: Final = {
    "created_replica": "a replica is being launched",
    "existing_replica": "a replica stands by already",
    "replica_promoted": "the replica has taken over",
    "launching_replica": "no replica could take over yet; one that is bound is promoted at once",
    "switch_to_ondemand": "no pool is left; a switch to on-demand is queued",
    "switch_queued": "no pool is left; a switch to on-demand is queued",
    "replica_failed": "the instance stood by; its replica is given up",
    "ignored": "the instance does not serve",
    "pending": "nothing could be done yet; the plane keeps trying",
}


def emergency_replica(found: Outcome, called_at: datetime) -> pb.CreateEmergencyReplicaResponse:
    """What a call for an emergency replica is told; one that is younger is there because of it."""
    launched = found.replica_created_at is not None and found.replica_created_at >= called_at
    action = _stage(found)
    if action == "relies":
        action = "created_replica" if launched else "existing_replica"
    elif action == "switched":
        action = "switch_to_ondemand"
    there = found.replica_id is not None
    return pb.CreateEmergencyReplicaResponse(
        failover_id=str(found.id),
        replica_id=str(found.replica_id) if there else None,
        instance_id=found.replica_instance_id,
        pool_id=found.replica_pool_id,
        instance_type=found.replica_type,
        az=found.replica_az,
        hourly_cost_nanousd=found.replica_cost_nanousd,
        message=_TEXTS[action],
        urgency=URGENCY.get(found.kind, "high"),
        existing=there and not launched,
        action=action,
        command_id=_command(found) if action == "switch_to_ondemand" else None,
        error=_TEXTS[action] if action == "pending" else None,
    )


def termination(found: Outcome) -> pb.HandleTerminationNoticeResponse:
    """What a termination notice is told: success only when a real instance has taken over."""
    action = {"relies": "launching_replica", "switched": "switch_queued"}.get(
        _stage(found), _stage(found)
    )
    success = action == "replica_promoted"
    took = None
    if success and found.promoted_at and found.noticed_at:
        took = _milliseconds(found.noticed_at, found.promoted_at)
    return pb.HandleTerminationNoticeResponse(
        failover_id=str(found.id),
        success=success,
        message=_TEXTS[action],
        new_instance_id=found.new_instance_id if success else None,
        old_instance_id=found.instance_id,
        replica_id=str(found.replica_id) if found.replica_id else None,
        failover_time_ms=took,
        action=action,
    )


def rebalance(found: Outcome, risk: float) -> pb.HandleRebalanceResponse:
    """What a rebalance recommendation is told: leave a risky pool where there is another place."""
    stage = _stage(found)
    elsewhere = found.replica_id is not None and found.replica_az != found.az
    leave = risk > RISKY and (elsewhere or stage == "switched")
    answer: dict[str, Any] = {}
    if leave and elsewhere:
        answer = {"target_mode": "spot", "target_pool_id": found.replica_pool_id}
    elif leave:
        answer = {"target_mode": "ondemand"}
    action = "ignored" if stage in {"ignored", "replica_failed"} else "monitor"
    return pb.HandleRebalanceResponse(
        failover_id=str(found.id),
        action="switch" if leave else action,
        risk_score=risk,
        reason=_why(leave=leave, action=action, risk=risk),
        replica_id=str(found.replica_id) if found.replica_id else None,
        command_id=_command(found),
        **answer,
    )


def emergency(row: Emergency) -> pb.EmergencyEvent:
    """A signal as it is listed."""
    answered = row.promoted_at or row.acted_at
    took = _milliseconds(row.noticed_at or row.detected_at, answered) if answered else None
    return pb.EmergencyEvent(
        id=str(row.id),
        tenant_id=str(row.tenant_id),
        agent_id=str(row.agent_id),
        instance_id=row.instance_id,
        signal_type=SIGNALS[row.kind],
        detected_at=wire.timestamp(row.detected_at),
        status=row.status,
        response_action=RESPONSES.get(row.action, "no-action"),
        replica_id=str(row.replica_id) if row.replica_id else None,
        new_instance_id=row.new_instance_id,
        response_time_ms=took,
        bypassed=row.bypassed,
    )


def status(
    last: Emergency | None,
    around: Around,
    steps: Sequence[Step],
    now: datetime,
    *,
    model_loaded: bool,
) -> pb.GetEmergencyStatusResponse:
    """What emergency an agent is in; the newest signal counts while it is open, for two hours."""
    answer = pb.GetEmergencyStatusResponse(
        ml_models_loaded=model_loaded,
        # The built-in rules are always loaded.
        decision_engine_active=True,
        notice_status="none",
        emergency_replicas_count=around.replicas,
        termination_notices_24h=around.notices,
        actions=[step_message(step) for step in steps],
    )
    if last is None:
        return answer
    answer.last_event.CopyFrom(emergency(last))
    noticed = last.noticed_at or last.detected_at
    if last.status in {"detected", "handling"} and noticed > now - ACTIVE_WITHIN:
        answer.emergency_mode_active = True
        answer.rebalance_only_mode = last.kind == "rebalance"
        answer.notice_status = last.kind if last.kind in {"rebalance", "termination"} else "none"
        answer.MergeFrom(
            pb.GetEmergencyStatusResponse(
                notice_received_at=wire.timestamp(noticed),
                notice_deadline=wire.timestamp(last.deadline),
            )
        )
    return answer


def summary(row: Summary) -> pb.EmergencySummary:
    """How many emergencies there were."""
    return pb.EmergencySummary(
        total=row.total,
        rebalance=row.rebalance,
        termination=row.termination,
        silence=row.silence,
        promoted=row.promoted,
        failed=row.failed,
    )


def failover(row: Failover, steps: Sequence[Step] = ()) -> pb.Failover:
    """A failover, with its steps where they are wanted."""
    response = row.promoted_at - row.detected_at if row.promoted_at else None
    return pb.Failover(
        id=str(row.id),
        agent_id=str(row.agent_id),
        instance_id=row.instance_id,
        kind=row.kind,
        status=row.status,
        action=row.action,
        replica_id=str(row.replica_id) if row.replica_id else None,
        new_instance_id=row.new_instance_id,
        pool_id=row.pool_id,
        message=row.message,
        detected_at=wire.timestamp(row.detected_at),
        deadline=wire.timestamp(row.deadline),
        promoted_at=wire.timestamp(row.promoted_at),
        resolved_at=wire.timestamp(row.resolved_at),
        response_ms=None if response is None else response.total_seconds() * 1000,
        steps=[step_message(step) for step in steps],
    )


def step_message(step: Step) -> pb.FailoverStep:
    """One step of a failover."""
    return pb.FailoverStep(
        kind=step.kind, occurred_at=wire.timestamp(step.occurred_at), detail=step.detail
    )


def _stage(found: Outcome) -> str:
    """How far a rescue is: done, ignored, relying on a replica, on a switch, or on nothing yet."""
    if found.action == "promoted_replica":
        return "replica_promoted"
    if found.status == "ignored":
        return "replica_failed" if found.action == "failed_replica" else "ignored"
    if found.replica_id is not None:
        return "relies"
    return "switched" if found.switch_command_id is not None else "pending"


def _command(found: Outcome) -> str | None:
    return str(found.switch_command_id) if found.switch_command_id else None


def _why(*, leave: bool, action: str, risk: float) -> str:
    if action == "ignored":
        return _TEXTS["ignored"]
    if leave:
        return f"the pool's risk of {risk:.2f} is above {RISKY:.2f}, and there is another place"
    return f"the pool's risk is {risk:.2f}; a replacement stands by or is on its way"


def _milliseconds(start: datetime, end: datetime) -> int:
    return max(0, round((end - start).total_seconds() * 1000))
