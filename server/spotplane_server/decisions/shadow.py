"""Asking an engine the questions of the last day, beside the one that decides, without effect."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from spotplane_server.decisions import inputs, market_queries, store
from spotplane_server.decisions.engine import Decision, Engine, Snapshot
from spotplane_server.decisions.engine_runners import Answer, InThread, Kind, Seat
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.prices import queries

MOST: Final = 1000
P95_MS: Final = 500.0
# So many times as often as the live engine it may switch.
SWITCHES: Final = 3


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it; the members of a session's ``shadow``."""

    evaluated: int
    agreement: float
    errors: int
    p95_ms: float | None
    switch_rate: float
    live_switch_rate: float
    evaluated_at: str

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)


def fault(result: Result, *, force: bool) -> str | None:
    """What an engine failed at; None when it passes. Force waives the last check only."""
    if result.errors:
        return f"{result.errors} of {result.evaluated} answers failed or were invalid"
    if result.p95_ms is not None and result.p95_ms >= P95_MS:
        return f"95 % of answers took up to {result.p95_ms:.0f} ms, more than {P95_MS:.0f}"
    if not force and result.switch_rate > SWITCHES * result.live_switch_rate:
        return (
            f"it switches in {result.switch_rate:.1%} of cases, more than {SWITCHES} times as"
            f" often as the live engine with {result.live_switch_rate:.1%}"
        )
    return None


async def evaluate(db: Database, engine: Engine, kind: Kind, live: Seat, now: datetime) -> Result:
    """Replay up to 1,000 stored inputs of the last 24 hours to both engines."""
    timed = _Timed(engine)
    candidate = InThread(kind, timed)
    async with db.connection(ALL_TENANTS) as conn:
        asked = await store.list_inputs(conn, now, MOST)
        snapshots = await _snapshots(conn, asked, max(candidate.history, live.history))
    answers = await candidate.ask(snapshots) if snapshots else []
    standard = await live.ask(snapshots) if snapshots else []
    agreeing = sum(_same(a, b) for a, b in zip(answers, standard, strict=True))
    count = len(snapshots)
    return Result(
        evaluated=count,
        agreement=agreeing / count if count else 1.0,
        errors=sum(not isinstance(answer, Decision) for answer in answers),
        p95_ms=_p95(timed.seconds),
        switch_rate=_switch_rate(answers),
        live_switch_rate=_switch_rate(standard),
        evaluated_at=now.isoformat(),
    )


class _Timed:
    """An engine that measures itself."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.version, self.hedges = engine.name, engine.version, engine.hedges
        self.seconds: list[float] = []
        self._engine = engine

    def decide(self, snapshot: Snapshot) -> Decision:
        started = time.perf_counter()
        try:
            return self._engine.decide(snapshot)
        finally:
            self.seconds.append(time.perf_counter() - started)


async def _snapshots(
    conn: Conn, asked: Sequence[store.Asked], history: timedelta
) -> list[Snapshot]:
    if not asked:
        return []
    pools = {pool for question in asked for pool in inputs.pools_of(question.inputs)}
    first = min(question.decided_at for question in asked)
    last = max(question.decided_at for question in asked)
    series = await queries.list_series(conn, pools, first - history, last) if history else {}
    interruptions = await market_queries.list_interruptions(
        conn, pools, first - market_queries.INTERRUPTIONS, last
    )
    return [
        inputs.from_json(
            question.inputs,
            question.agent_id,
            question.decided_at,
            series=series,
            interruptions=interruptions,
            history=history,
        )
        for question in asked
    ]


def _same(one: Answer, other: Answer) -> bool:
    return (
        isinstance(one, Decision)
        and isinstance(other, Decision)
        and (one.action == "stay") == (other.action == "stay")
        and (one.target_mode, one.target_pool_id) == (other.target_mode, other.target_pool_id)
    )


def _switch_rate(answers: Sequence[Answer]) -> float:
    if not answers:
        return 0.0
    switches = sum(isinstance(a, Decision) and a.action != "stay" for a in answers)
    return switches / len(answers)


def _p95(seconds: Sequence[float]) -> float | None:
    if not seconds:
        return None
    return sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1] * 1000
