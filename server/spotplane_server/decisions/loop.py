"""The decision loop: every agent that may be switched, every minute and when something changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from spotplane_server import events
from spotplane_server.agents import store as agents
from spotplane_server.agents import switch_orders
from spotplane_server.agents.ledger import Ledger
from spotplane_server.agents.switch_orders import Asked, Mode, Queued, Target
from spotplane_server.decisions import recording, sessions_store, store, subjects_store, views
from spotplane_server.decisions.panel import Panel
from spotplane_server.decisions.recording import Ruling
from spotplane_server.decisions.subjects_store import FIRST, Key
from spotplane_server.instances import store as instances
from spotplane_server.kernel.db import DEFECTS, EVERY_TENANT, Conn, Database
from spotplane_server.kernel.errors import DomainError

log = structlog.get_logger(__name__)

NAME: Final = "decision-loop"
BATCH: Final = 2000
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
    """

    name = NAME
    period = timedelta(seconds=60)
    singleton = True

    def __init__(self, db: Database, panel: Panel, ledger: Ledger) -> None:
        self._db = db
        self.panel = panel
        self._ledger = ledger

    async def run_once(self, now: datetime) -> int:
        """Decide; answer how many switches were ordered."""
        await self.panel.refresh()
        ordered, after = 0, FIRST
        while True:
            async with self._db.read(EVERY_TENANT) as conn:
                keys = await subjects_store.list_eligible(conn, after, now=now, limit=BATCH)
            if keys:
                ordered += await self._decide(keys, now)
            if len(keys) < BATCH:
                return ordered
            after = keys[-1]

    async def _decide(self, keys: Sequence[Key], now: datetime) -> int:
        history = self.panel.judge.seat.history
        async with self._db.read(EVERY_TENANT) as conn:
            subjects = await subjects_store.list_subjects(conn, keys, now)
            seen = await views.read(conn, subjects, now=now, history=history)
        engine = self.panel.judge.seat.name
        judged = await self.panel.judge.decide(
            [views.remembering(view, engine) for view in seen], now
        )
        rulings = [recording.rule(view, one) for view, one in zip(seen, judged, strict=True)]
        await self._tell_fallback(rulings, now)
        await self._store([one for one in rulings if one.outcome != "executed"], now)
        ordered = 0
        for ruling in rulings:
            if ruling.outcome == "executed":
                ordered += await self._guarded(ruling, now)
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
        async with self._db.transaction(EVERY_TENANT) as conn:
            await store.insert(conn, rows)
            await store.put_heads(conn, heads)
            await events.append_many(conn, news, now)

    async def _guarded(self, ruling: Ruling, now: datetime) -> int:
        """One agent's trouble must not keep the others waiting; the next run is the retry."""
        subject = ruling.view.subject
        try:
            async with self._db.transaction(subject.tenant_id) as conn:
                queued = await self._order(conn, ruling, now)
        except DomainError as err:
            log.info("switch_not_ordered", agent_id=str(subject.agent_id), reason=err.reason)
            return 0
        except DEFECTS:
            log.exception("switch_defect", agent_id=str(subject.agent_id))
            return 0
        if queued is None:
            return 0
        self._ledger.wake(queued.command.tenant_id, queued.command.instance_id)
        return int(queued.fresh)

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
            or await switch_orders.find_open(conn, locked) is not None
            or await subjects_store.in_emergency(conn, subject.tenant_id, subject.agent_id, now)
        ):
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
        row = recording.record(ruling, "loop", command_id=queued.command.id)
        await store.insert(conn, [row])
        await store.put_heads(conn, [recording.head(ruling, stored=True)])
        await events.append(conn, recording.event(ruling, row), now)
        return queued

    async def _tell_fallback(self, rulings: Sequence[Ruling], now: datetime) -> None:
        """Say once that the built-in rules stand in, and once that they do no more."""
        faults = [one.judged.fault for one in rulings if one.judged.fault is not None]
        if not rulings:
            return
        async with self._db.transaction(EVERY_TENANT) as conn:
            state = await sessions_store.read_state(conn)
            if state.active_fallback == bool(faults):
                return
            generation = self.panel.generation
            said = await sessions_store.set_active_fallback(conn, generation, bool(faults), now)
            if said and faults:
                name = self.panel.judge.seat.name
                told = events.Event("decision.error", name, {"engine": name, "reason": faults[0]})
                await events.append(conn, told, now)


class Pacer:
    """Passes hints on to the loop, gathered so that it does not begin for each."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin
        self._hinted = asyncio.Event()

    def hint(self, _key: str = "") -> None:
        """Something may have changed that decisions depend on."""
        self._hinted.set()

    async def run(self) -> None:
        """Begin the loop when hinted, at most every few seconds, until cancelled."""
        while True:
            await self._hinted.wait()
            self._hinted.clear()
            self._begin()
            await asyncio.sleep(PACE_SECONDS)
