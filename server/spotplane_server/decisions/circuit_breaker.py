"""The engine that decides here, with the built-in rules' `stay` standing in while it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from spotplane_server.decisions import candidates
from spotplane_server.decisions.engine import Decision, Snapshot
from spotplane_server.decisions.engine_runners import IN_A_ROW, Answer, InThread, NotAsked, Seat
from spotplane_server.decisions.engines.rules import BuiltInRules
from spotplane_server.decisions.validation import EngineFault
from spotplane_server.kernel import metrics

log = structlog.get_logger(__name__)

OPEN_FOR: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Judged:
    """A decision and whose it is.

    Attributes:
        session_id: Of an uploaded engine.
        active_fallback: Whether the built-in rules stood in for the engine.
        fault: What the engine did instead of deciding; None when it decided.
    """

    decision: Decision
    engine: str
    version: str
    session_id: UUID | None
    active_fallback: bool = False
    fault: str | None = None


class Judge:
    """Asks the seated engine; whatever that does, every question gets an answer."""

    def __init__(self) -> None:
        self.seat: Seat = InThread("rules", BuiltInRules())
        self._failures = 0
        self._open_until: datetime | None = None

    @property
    def failing(self) -> bool:
        """Whether the last answers were none, so that the built-in rules stand in."""
        return self._failures > 0

    def put(self, seat: Seat) -> Seat:
        """Let an engine decide from now on; the one that did, to be closed."""
        former, self.seat = self.seat, seat
        self._failures, self._open_until = 0, None
        return former

    def is_open(self, now: datetime) -> bool:
        """Whether the engine is not asked, having failed three times in a row."""
        return self._open_until is not None and now < self._open_until

    async def decide(self, snapshots: Sequence[Snapshot], now: datetime) -> list[Judged]:
        """Decide for each, in their order."""
        seat = self.seat
        if not snapshots:
            return []
        if self.is_open(now):
            why = f"engine {seat.name} is not asked for now, having failed {IN_A_ROW} times"
            return [_stand_in(snapshot, why) for snapshot in snapshots]
        answers = await seat.ask(snapshots)
        self._count(seat, answers, now)
        return [
            _judged(seat, snapshot, answer)
            for snapshot, answer in zip(snapshots, answers, strict=True)
        ]

    def _count(self, seat: Seat, answers: Sequence[Answer], now: datetime) -> None:
        if seat is not self.seat:
            return  # replaced while it was asked: what it did is nothing against the new one
        for answer in answers:
            if isinstance(answer, Decision):
                self._failures, self._open_until = 0, None
            elif not isinstance(answer, NotAsked):
                self._failures += 1
                metrics.ENGINE_FAULTS.labels(seat.kind).inc()
                log.warning("engine_failed", engine=seat.name, fault=str(answer))
        if self._failures >= IN_A_ROW:
            # After the pause one more failure is enough.
            self._failures, self._open_until = IN_A_ROW - 1, now + OPEN_FOR


def _judged(seat: Seat, snapshot: Snapshot, answer: Answer) -> Judged:
    if isinstance(answer, EngineFault):
        return _stand_in(snapshot, f"engine {seat.name} {answer}"[:1000])
    if answer.action == "emergency":
        answer = replace(answer, reason_class="risk")
    return Judged(answer, seat.name, seat.version, seat.session_id)


def _stand_in(snapshot: Snapshot, why: str) -> Judged:
    decision = candidates.stay(snapshot, 0.5, f"staying: {why}")
    rules = BuiltInRules
    return Judged(decision, rules.name, rules.version, None, active_fallback=True, fault=why)
