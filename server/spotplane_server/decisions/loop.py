"""The decision loop: every agent that may be switched, every minute and when something changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from spotplane_server import events
from spotplane_server.agents import store as agents
from spotplane_server.agents import switch_requests
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.switch_requests import Asked, Mode, Queued, Target
from spotplane_server.decisions import (
    agent_queries,
    engine_uploads_store,
    recording,
    snapshots,
    standby,
    store,
)
from spotplane_server.decisions.agent_queries import FIRST, Key, Subject
from spotplane_server.decisions.engine_registry import Panel
from spotplane_server.decisions.recording import Ruling
from spotplane_server.decisions.standby import Left
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance
from spotplane_server.kernel.db.database import ALL_TENANTS, PERMANENT_ERRORS, Conn, Database
from spotplane_server.kernel.errors import DomainError
from spotplane_server.replicas.lifecycle import Replicas

log = structlog.get_logger(__name__)

NAME: Final = "decision-loop"
BATCH: Final = 50
PRIORITY: Final = 25
URGENT: Final = 45
# However often prices change, the loop begins at most so often for it.
PACE_SECONDS: Final = 5.0


class DecisionLoop:
    """Decides for all eligible agents of all tenants.

    Args:
        db: The database.
        panel: The engine.
        ledger: To order switches.
        changed: Called with an agent whose instances have new roles.
    """

    name = NAME
    period = timedelta(seconds=60)
    singleton = True

    def __init__(
        self,
        db: Database,
        panel: Panel,
        ledger: Ledger,
        changed: Callable[[UUID], None],
    ) -> None:
        self._db = db
        self.panel = panel
        self._ledger = ledger
        self._changed = changed
        self._replicas = Replicas(ledger)

    async def run_once(self, now: datetime) -> int:
        """Decide; answer how many switches were ordered."""
        await self.panel.refresh()
        await self._let_go(now)
        ordered, after = 0, FIRST
        while True:
            async with self._db.connection(ALL_TENANTS) as conn:
                keys = await agent_queries.list_eligible(conn, after, now=now, limit=BATCH)
            if keys:
                ordered += await self._decide(keys, now)
            if len(keys) < BATCH:
                return ordered
            after = keys[-1]

    async def _decide(self, keys: Sequence[Key], now: datetime) -> int:
        history = self.panel.judge.seat.history
        async with self._db.connection(ALL_TENANTS) as conn:
            subjects = await agent_queries.list_subjects(conn, keys, now)
            seen = await snapshots.read(conn, subjects, now=now, history=history)
        engine = self.panel.judge.seat.name
        judged = await self.panel.judge.decide(
            [snapshots.remembering(view, engine) for view in seen], now
        )
        rulings = [recording.rule(view, one) for view, one in zip(seen, judged, strict=True)]
        await self._tell_fallback(rulings, now)
        await self._store([one for one in rulings if one.outcome != "executed"], now)
        ordered = 0
        for ruling in rulings:
            if ruling.outcome == "executed":
                ordered += await self._guarded(ruling.view.subject, self._switch(ruling, now))
            elif self.panel.judge.seat.hedges and (step := standby.plan(ruling)) is not None:
                await self._guarded(ruling.view.subject, self._hedge(ruling, step, now))
        return ordered

    async def _store(self, rulings: Sequence[Ruling], now: datetime) -> None:
        """Keep what changed or is due, all in three statements."""
        due = [ruling for ruling in rulings if ruling.due]
        rows = [recording.record(ruling, "loop") for ruling in due]
        heads = [
            recording.head(ruling, stored=ruling.due)
            for ruling in rulings
            if ruling.due or not (ruling.remembered or ruling.judged.active_fallback)
        ]
        news = [
            recording.event(ruling, row)
            for ruling, row in zip(due, rows, strict=True)
            if ruling.changed and ruling.outcome != "stay"
        ]
        if not heads:
            return
        async with self._db.transaction(ALL_TENANTS) as conn:
            await store.insert(conn, rows)
            await store.put_heads(conn, heads)
            await events.append_many(conn, news, now)

    async def _let_go(self, now: datetime) -> None:
        """End standbys of agents for which no engine that hedges decides any more."""
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await standby.list_left(conn, hedging=self.panel.judge.seat.hedges)
        for left in found:
            await self._guarded(left, self._end_left(left, now))

    async def _guarded(self, whose: Subject | Left, step: Awaitable[int]) -> int:
        """One agent's trouble must not keep the others waiting; the next run is the retry."""
        try:
            return await step
        except DomainError as err:
            log.info("decision_not_applied", agent_id=str(whose.agent_id), reason=err.reason)
        except PERMANENT_ERRORS:
            log.exception("decision_defect", agent_id=str(whose.agent_id))
        return 0

    async def _switch(self, ruling: Ruling, now: datetime) -> int:
        subject = ruling.view.subject
        async with self._db.transaction(subject.tenant_id) as conn:
            queued = await self._order(conn, ruling, now)
        if queued is None:
            return 0
        self._ledger.wake(queued.command.tenant_id, queued.command.instance_id)
        return int(queued.fresh)

    async def _hedge(self, ruling: Ruling, step: standby.Step, now: datetime) -> int:
        tenant_id = ruling.view.subject.tenant_id
        async with self._db.transaction(tenant_id) as conn:
            primary = await standby.apply(conn, self._replicas, ruling, step, now)
        return self._woken(primary)

    async def _end_left(self, left: Left, now: datetime) -> int:
        async with self._db.transaction(left.tenant_id) as conn:
            primary = await standby.end_left(conn, self._replicas, left, now)
        return self._woken(primary)

    def _woken(self, primary: Instance | None) -> int:
        if primary is None:
            return 0
        self._ledger.wake(primary.tenant_id, primary.id)
        self._changed(primary.agent_id)
        return 1

    async def _order(self, conn: Conn, ruling: Ruling, now: datetime) -> Queued | None:
        """Order the switch, unless something has changed since the snapshot was read."""
        subject, decision = ruling.view.subject, ruling.judged.decision
        locked = await agents.lock(conn, subject.agent_id)
        if locked is None or not (
            locked.status == "online"
            and locked.config.enabled
            and locked.config.auto_switch_enabled
        ):
            return None
        primary = await instances.find_primary(conn, subject.tenant_id, subject.agent_id)
        if (
            primary is None
            or (primary.id, primary.mode, primary.pool_id)
            != (subject.instance_id, subject.mode, subject.pool_id)
            or await switch_requests.find_open(conn, locked) is not None
            or await agent_queries.in_emergency(conn, subject.tenant_id, subject.agent_id, now)
        ):
            return None
        consent = locked.config.auto_terminate_enabled
        if self.panel.judge.seat.hedges and await standby.promote_if_standing(
            conn, self._replicas, ruling, consent=consent, now=now
        ):
            await self._note(conn, ruling, None, now)
            self._changed(subject.agent_id)
            return None
        mode: Mode = "spot" if decision.target_mode == "spot" else "ondemand"
        queued = await self._ledger.queue_switch(
            conn,
            locked,
            Target(mode, decision.target_pool_id),
            Asked(
                "AUTOMATIC",
                URGENT if decision.action == "emergency" else PRIORITY,
                NAME,
                reason=decision.reasoning[:500],
            ),
            now,
        )
        await self._note(conn, ruling, queued.command.id, now)
        return queued

    async def _note(
        self, conn: Conn, ruling: Ruling, command_id: UUID | None, now: datetime
    ) -> None:
        """Keep a decision that was carried out, in the transaction of what it led to."""
        row = recording.record(ruling, "loop", command_id=command_id)
        await store.insert(conn, [row])
        await store.put_heads(conn, [recording.head(ruling, stored=True)])
        await events.append(conn, recording.event(ruling, row), now)

    async def _tell_fallback(self, rulings: Sequence[Ruling], now: datetime) -> None:
        """Say once that the built-in rules stand in, and once that they do no more."""
        faults = [one.judged.fault for one in rulings if one.judged.fault is not None]
        if not rulings:
            return
        async with self._db.transaction(ALL_TENANTS) as conn:
            state = await engine_uploads_store.read_state(conn)
            if state.active_fallback == bool(faults):
                return
            generation = self.panel.generation
            said = await engine_uploads_store.set_active_fallback(
                conn, generation, bool(faults), now
            )
            if said and faults:
                name = self.panel.judge.seat.name
                told = events.Event("decision.error", name, {"engine": name, "reason": faults[0]})
                await events.append(conn, told, now)
