"""A judged view as the row that explains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from spotplane_server import events
from spotplane_server.decisions import gates as gate_rules
from spotplane_server.decisions import inputs
from spotplane_server.decisions.agent_queries import Subject
from spotplane_server.decisions.circuit_breaker import Judged
from spotplane_server.decisions.gates import Facts, Gate, Outcome, Used
from spotplane_server.decisions.snapshots import View
from spotplane_server.decisions.store import Head, Record

# A decision that does not change is stored this often.
STORE_EVERY: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What was decided for a view, and what holds it back."""

    view: View
    judged: Judged
    gates: Sequence[Gate]
    outcome: Outcome
    signature: str

    @property
    def changed(self) -> bool:
        """Whether the decision or a gate differs from what was stored last."""
        return self.signature != self.view.subject.signature

    @property
    def due(self) -> bool:
        """Whether it is to be stored."""
        last = self.view.subject.stored_at
        return self.changed or last is None or self.view.snapshot.now - last >= STORE_EVERY

    @property
    def remembered(self) -> bool:
        """Whether the engine's memory is the one that is stored."""
        subject = self.view.subject
        return (subject.memory_of, subject.memory) == (
            self.judged.engine,
            self.judged.decision.memory,
        )


def rule(view: View, judged: Judged) -> Ruling:
    """Hold a judged view to the gates."""
    gates = gate_rules.check(judged.decision, view.snapshot, facts_of(view))
    return Ruling(
        view,
        judged,
        gates,
        gate_rules.outcome(judged.decision, gates),
        gate_rules.signature(
            judged.decision, gates, judged.engine, fallback=judged.active_fallback
        ),
    )


def facts_of(view: View) -> Facts:
    """What gates need besides the snapshot."""
    subject = view.subject
    return Facts(
        observed=view.observed,
        overlap_seconds=subject.terminate_wait_seconds if subject.auto_terminate_enabled else 0,
        used=counts_of(subject),
    )


def counts_of(subject: Subject) -> Used:
    """How often an agent has switched."""
    return Used(subject.switches_day, subject.switches_week)


def record(
    ruling: Ruling,
    cause: Literal["loop", "request"],
    *,
    outcome: Outcome | None = None,
    command_id: UUID | None = None,
) -> Record:
    """The row that explains a ruling."""
    subject, snapshot = ruling.view.subject, ruling.view.snapshot
    judged, decision = ruling.judged, ruling.judged.decision
    return Record(
        tenant_id=subject.tenant_id,
        decided_at=snapshot.now,
        id=uuid4(),
        agent_id=subject.agent_id,
        instance_id=subject.instance_id,
        cause=cause,
        engine=judged.engine,
        engine_version=judged.version,
        session_id=judged.session_id,
        active_fallback=judged.active_fallback,
        action=decision.action,
        current_mode=snapshot.mode,
        current_pool_id=snapshot.pool_id,
        target_mode=decision.target_mode,
        target_pool_id=decision.target_pool_id,
        standby=decision.standby,
        reason_class=decision.reason_class,
        reasoning=decision.reasoning,
        confidence=decision.confidence,
        risk_score=decision.risk_score,
        expected_savings=decision.expected_savings,
        inputs=inputs.to_json(snapshot),
        scores=decision.scores,
        gates=[asdict(gate) for gate in ruling.gates],
        outcome=outcome or ruling.outcome,
        command_id=command_id,
    )


def head(ruling: Ruling, *, stored: bool) -> Head:
    """Where the agent's decisions stand after a ruling."""
    subject, now = ruling.view.subject, ruling.view.snapshot.now
    kept = subject.signature is not None and subject.stored_at is not None and not stored
    return Head(
        subject.tenant_id,
        subject.agent_id,
        (subject.signature or "") if kept else ruling.signature,
        (subject.stored_at or now) if kept else now,
        ruling.judged.engine,
        # A failure forgets nothing: the engine goes on from where it was.
        dict(subject.memory or {})
        if ruling.judged.active_fallback
        else dict(ruling.judged.decision.memory),
    )


def event(ruling: Ruling, row: Record) -> events.Event:
    """The event of a decision that matters."""
    decision = ruling.judged.decision
    data: dict[str, Any] = {
        "agent_id": str(row.agent_id),
        "agent_name": ruling.view.subject.logical_agent_id,
        "instance_id": row.instance_id,
        "decision_id": str(row.id),
        "decision": decision.action,
        "target_mode": decision.target_mode,
        "target_pool_id": decision.target_pool_id,
        "outcome": row.outcome,
        "reason": decision.reasoning,
        "failed_gates": [gate.name for gate in ruling.gates if not gate.passed],
        "confidence": decision.confidence,
        "expected_savings": round(decision.expected_savings, 6),
        "engine": row.engine,
        "engine_version": row.engine_version,
        "command_id": str(row.command_id) if row.command_id else None,
    }
    return events.Event("decision.made", str(row.agent_id), data, row.tenant_id)
