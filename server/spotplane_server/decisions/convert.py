"""Rulings, sessions and engines as answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from spotplane.v1 import decision_pb2 as pb

from spotplane_server.decisions import candidates, gates, on_demand
from spotplane_server.decisions.agent_queries import Subject
from spotplane_server.decisions.circuit_breaker import Judge
from spotplane_server.decisions.engine import Decision, PoolView
from spotplane_server.decisions.engine_uploads_store import Session, SessionFile
from spotplane_server.decisions.manual_switch import Issued
from spotplane_server.decisions.recording import Ruling
from spotplane_server.decisions.requests import Wanted
from spotplane_server.kernel.api import wire

NANO: Final = 1_000_000_000
ALTERNATIVES: Final = 5


def recommendation(ruling: Ruling) -> pb.GetRecommendationResponse:
    """What the engine would do, and which gates it would pass."""
    subject, snapshot = ruling.view.subject, ruling.view.snapshot
    judged, decision = ruling.judged, ruling.judged.decision
    current = on_demand.place_of(snapshot)
    return pb.GetRecommendationResponse(
        agent_id=str(subject.agent_id),
        decision_type=decision_type(decision),
        recommended_pool_id=decision.target_pool_id,
        risk_score=decision.risk_score,
        expected_savings_usd_per_hour=decision.expected_savings,
        confidence=decision.confidence,
        reason=decision.reasoning,
        auto_switch_enabled=subject.auto_switch_enabled,
        will_auto_execute=(
            subject.enabled and subject.auto_switch_enabled and ruling.outcome == "executed"
        ),
        current_pool=_pool(current, snapshot.instance_type) if current else None,
        alternative_pools=[
            _pool(pool, snapshot.instance_type)
            for pool in sorted(
                (p for p in snapshot.pools if p.price is not None and p != current),
                key=lambda pool: (candidates.price(pool), pool.id),
            )[:ALTERNATIVES]
        ],
        gates=[_gate(gate) for gate in ruling.gates],
        engine=judged.engine,
        engine_version=judged.version,
        active_fallback=judged.active_fallback,
    )


def nothing_serves(subject: Subject) -> pb.GetRecommendationResponse:
    """What there is to say of an agent without a serving instance."""
    return pb.GetRecommendationResponse(
        agent_id=str(subject.agent_id),
        decision_type="stay_ondemand",
        confidence=0.5,
        reason="no instance serves this agent at present",
        auto_switch_enabled=subject.auto_switch_enabled,
        engine="rules",
        engine_version="1",
    )


def decision_type(decision: Decision) -> str:
    """A decision as routes say it; a place that is not known counts as on demand."""
    where = "spot" if decision.target_mode == "spot" else "ondemand"
    return f"stay_{where}" if decision.action == "stay" else f"switch_to_{where}"


def decided(ruling: Ruling, decision_id: str) -> pb.DecideResponse:
    """A decision that was asked for."""
    subject, decision = ruling.view.subject, ruling.judged.decision
    held = [gate.name for gate in ruling.gates if not gate.passed]
    return pb.DecideResponse(
        decision_id=decision_id,
        instance_id=subject.instance_id or "",
        risk_score=decision.risk_score,
        recommended_action="stay" if decision.action == "stay" else "switch",
        recommended_mode=decision.target_mode,
        recommended_pool_id=decision.target_pool_id,
        expected_savings_usd_per_hour=decision.expected_savings,
        allowed=on_demand.allowed(ruling),
        reason=decision.reasoning + (f"; held back by {', '.join(held)}" if held else ""),
        confidence=decision.confidence,
        enabled=subject.enabled,
    )


def issued(done: Issued, wanted: Wanted) -> pb.IssueSwitchResponse:
    """A switch by hand, or why there is none."""
    queued, primary = done.queued, done.primary
    if queued is None:
        message = "the agent is served from there already"
    else:
        message = "the switch is queued" if queued.fresh else "this switch is queued already"
    return pb.IssueSwitchResponse(
        success=queued is not None,
        command_id=str(queued.command.id) if queued else None,
        agent_id=str(done.agent.id),
        target_mode=wanted.target.mode,
        target_pool_id=wanted.target.pool_id,
        reason=wanted.reason,
        message=message,
        auto_switch_enabled=done.agent.config.auto_switch_enabled,
        current_mode=primary.mode,
        current_pool_id=primary.pool_id if primary.mode == "spot" else None,
    )


def engine_status(judge: Judge, *, stands_in: bool) -> pb.EngineStatus:
    """What decides."""
    seat = judge.seat
    return pb.EngineStatus(
        loaded=not stands_in,
        type=seat.kind,
        name=seat.name,
        version=seat.version,
        active_fallback=stands_in,
        session_id=str(seat.session_id) if seat.session_id else None,
        model=seat.kind == "onnx",
    )


def session(found: Session, files: Sequence[SessionFile]) -> pb.ModelSession:
    """An uploaded engine."""
    return pb.ModelSession(
        id=str(found.id),
        kind=found.kind,
        status=found.status,
        live=found.role == "live",
        fallback=found.role == "fallback",
        files=[
            pb.ModelSessionFile(
                name=file.name,
                size_bytes=file.size_bytes,
                sha256=file.sha256.hex(),
                uploaded_at=wire.timestamp(found.created_at),
            )
            for file in files
        ],
        total_bytes=sum(file.size_bytes for file in files),
        created_at=wire.timestamp(found.created_at),
        activated_at=wire.timestamp(found.activated_at),
        shadow=_shadow(found),
        name=found.name,
        version=found.version,
        fault=found.fault,
    )


def _shadow(found: Session) -> pb.ShadowResult | None:
    if found.shadow is None:
        return None
    at = datetime.fromisoformat(found.shadow["evaluated_at"])
    members = {name: value for name, value in found.shadow.items() if name != "evaluated_at"}
    return pb.ShadowResult(**members, evaluated_at=wire.timestamp(at))


def _pool(pool: PoolView, instance_type: str) -> pb.RecommendedPool:
    return pb.RecommendedPool(
        id=pool.id,
        name=f"{instance_type} ({pool.az})",
        az=pool.az,
        spot_price_nanousd=None if pool.price is None else round(pool.price * NANO),
    )


def _gate(gate: gates.Gate) -> pb.DecisionGate:
    return pb.DecisionGate(
        name=gate.name,
        passed=gate.passed,
        value=gate.value,
        limit=gate.limit,
        waived=gate.waived,
    )
