"""Finishing failovers: snapshot, pure plan, guarded steps.

Every step is one transaction that checks again, under the agent's row, what the plan assumed. So
any number of processes may reconcile the same failover at the same time, and a process may die
anywhere: what was committed is whole, and what was not is planned anew.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import structlog

from spotplane_server import events
from spotplane_server.agents import access
from spotplane_server.agents import rules as ledger_rules
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.sessions.registry import Sessions
from spotplane_server.agents.store import Locked
from spotplane_server.agents.switch_requests import Asked, Target
from spotplane_server.failover import features, rules, signals, snapshot_queries, store
from spotplane_server.failover.rules import Move, Situation
from spotplane_server.failover.signals import Signal
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance
from spotplane_server.kernel import metrics
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import (
    ALL_TENANTS,
    PERMANENT_ERRORS,
    Conn,
    Database,
    retry_on_serialization_failure,
)
from spotplane_server.kernel.db.unit_of_work import after_commit
from spotplane_server.kernel.errors import Conflict, NotFound, Precondition
from spotplane_server.replicas import placement
from spotplane_server.replicas import store as replicas_store
from spotplane_server.replicas.lifecycle import Replicas
from spotplane_server.replicas.placement import Wish

log = structlog.get_logger(__name__)

# What a failover has become after a step that closes it.
_FINAL: Final = {
    "promote": "promoted",
    "fail_replica": "ignored",
    "ignore": "ignored",
    "fail": "failed",
    "resolve": "resolved",
    "release": "resolved",
}
# A row is locked for longer by a stuck transaction only, which PostgreSQL ends within seconds.
LIMIT_LOCK_WAIT: Final = "SET LOCAL lock_timeout = '1s'"
_REPLICA_TYPES: Final = {"rebalance": "automatic-rebalance"}


class Reconciler:
    """Opens failovers and carries them through.

    Args:
        db: The database.
        clock: The plane's clock.
        replicas: What may be done with replicas.
        ledger: For the switch of last resort.
        sessions: To tell everyone.
        offline_after: Silence that counts.
    """

    name = "failover"
    period = timedelta(seconds=5)
    singleton = True

    def __init__(
        self,
        db: Database,
        clock: Clock,
        replicas: Replicas,
        ledger: Ledger,
        sessions: Sessions,
        offline_after: timedelta,
    ) -> None:
        self._db = db
        self._clock = clock
        self._replicas = replicas
        self._ledger = ledger
        self._sessions = sessions
        self._offline_after = offline_after

    async def signal(self, signal: Signal, now: datetime) -> UUID:
        """Open or join a failover, and carry it as far as it goes at once.

        Returns:
            Its id; of the closed one, when this very signal had opened it before.

        Raises:
            AgentNotFound: There is none. AgentOffline: No instance serves or ever did.
        """
        failover_id, is_open = await retry_on_serialization_failure(lambda: self._take(signal, now))
        if is_open:
            await self._carry(failover_id, speaking=signal.by_agent)
        return failover_id

    async def _take(self, signal: Signal, now: datetime) -> tuple[UUID, bool]:
        async with self._db.transaction(signal.tenant_id) as conn:
            return await signals.take(conn, signal, now)

    async def run_once(self, now: datetime) -> int:
        """Open failovers of silent primaries, carry all open ones on, bury what the cloud took."""
        async with self._db.transaction(ALL_TENANTS) as conn:
            silences = await snapshot_queries.open_silences(
                conn, now=now, after=self._offline_after
            )
            for silence in [*silences, *await snapshot_queries.open_vacancies(conn, now)]:
                step = "detected" if silence.fresh else "upgraded"
                await store.add_step(conn, silence.tenant_id, silence.id, step, "silence", now)
        done = await self.reconcile()
        async with self._db.connection(ALL_TENANTS) as conn:
            await features.fill(conn, now)
        return done + await self._bury(now)

    async def reconcile(self, *, only: UUID | None = None) -> int:
        """Plan on a snapshot and apply each step; answer how many steps took effect."""
        return await self._carry(only)

    async def _carry(self, only: UUID | None, *, speaking: bool = False) -> int:
        now = self._clock.now()
        async with self._db.connection(ALL_TENANTS) as conn:
            situations = await snapshot_queries.snapshot(
                conn, now=now, offline_after=self._offline_after, only=only
            )
        if speaking:
            # Whoever calls is there to launch, whatever it has been heard of before.
            situations = [replace(s, launcher_online=True) for s in situations]
        done = 0
        for move in rules.plan(situations, now):
            try:
                await retry_on_serialization_failure(lambda move=move: self._apply(move))  # type: ignore[misc]
                done += 1
            except asyncpg.LockNotAvailableError:
                # The failovers of other agents must not wait; the next run tries again.
                log.warning("failover_step_blocked", step=move.step)
            except (Precondition, Conflict, NotFound) as err:
                # Somebody was faster or things have changed: the next snapshot knows.
                log.info("failover_step_lost", step=move.step, reason=err.reason)
            except PERMANENT_ERRORS:
                failover_id = str(move.situation.failover_id)
                log.exception("failover_step_defect", step=move.step, failover_id=failover_id)
        return done

    async def _apply(self, move: Move) -> None:
        situation = move.situation
        steps = {
            "promote": self._promote,
            "launch": self._launch,
            "fail_replica": self._fail_replica,
        }
        async with self._db.transaction(situation.tenant_id) as conn:
            await conn.execute(LIMIT_LOCK_WAIT)
            agent = await access.lock(conn, situation.agent_id)
            primary = await instances.find_primary(conn, situation.tenant_id, situation.agent_id)
            if (primary.id if primary else None) != situation.primary_id:
                raise Conflict("the agent has moved meanwhile")
            if move.step in steps:
                await steps[move.step](conn, agent, move, primary)
            else:
                await self._close(conn, agent, move, primary)
        # Only now is it true: a transaction that is run again must not count twice.
        after_commit(lambda: self._count(move))
        self._sessions.signal_agent(situation.agent_id)
        if situation.primary_id:
            self._ledger.wake(situation.tenant_id, situation.primary_id)

    def _count(self, move: Move) -> None:
        outcome = _FINAL.get(move.step)
        if outcome is not None:
            metrics.FAILOVERS.labels(move.situation.kind, outcome).inc()
        if outcome == "promoted":
            took = self._clock.now() - move.situation.detected_at
            metrics.FAILOVER_SECONDS.observe(took.total_seconds())

    async def _promote(
        self, conn: Conn, agent: Locked, move: Move, primary: Instance | None
    ) -> None:
        s = move.situation
        now = self._clock.now()
        replica = await replicas_store.find_live(conn, s.tenant_id, s.agent_id)
        if replica is None or replica.id != s.replica_id:
            raise Conflict("the replica has changed meanwhile")
        await self._replicas.promote(conn, replica, cause=s.kind, now=now)
        await self._advance(
            conn,
            s,
            "resolved",
            action="promoted_replica",
            replica_id=replica.id,
            new_instance_id=replica.instance_id,
        )
        await store.add_step(conn, s.tenant_id, s.failover_id, "promoted", replica.instance_id, now)
        await self._announce(
            conn,
            agent,
            s,
            "promoted",
            now,
            old_instance_id=s.instance_id,
            new_instance_id=replica.instance_id,
            response_ms=round((now - s.detected_at).total_seconds() * 1000, 3),
        )

    async def _launch(
        self, conn: Conn, agent: Locked, move: Move, primary: Instance | None
    ) -> None:
        s, now = move.situation, self._clock.now()
        if primary is None:
            raise Conflict("no instance serves")
        kind = _REPLICA_TYPES.get(s.kind, "automatic-termination")
        wanted = await store.find_wanted(conn, s.tenant_id, s.failover_id)
        wish = Wish(
            "emergency",
            pool_id=wanted.pool_id,
            preferred_zones=wanted.preferred_zones,
            exclude_zones=wanted.exclude_zones,
        )
        place = await placement.for_emergency(
            conn, primary, wish, kind=kind, since=s.detected_at, now=now
        )
        if place is None:
            await self._switch_to_ondemand(conn, agent, s, now)
            return
        replica = await self._replicas.request(conn, primary, place, now)
        await self._advance(conn, s, "handling", action="created_replica", replica_id=replica.id)
        await store.add_step(
            conn, s.tenant_id, s.failover_id, "replica_requested", place.pool_id, now
        )

    async def _switch_to_ondemand(
        self, conn: Conn, agent: Locked, s: Situation, now: datetime
    ) -> None:
        asked = Asked(
            "EMERGENCY",
            ledger_rules.EMERGENCY,
            "failover",
            reason=f"no pool is left after a {s.kind}",
            request_id=f"failover-{s.failover_id}-{s.switch_count + 1}",
        )
        queued = await self._ledger.queue_switch(conn, agent, Target("ondemand"), asked, now)
        # Another reconciler may have queued it since the snapshot.
        if not await store.note_switch(
            conn,
            s.tenant_id,
            s.failover_id,
            count=s.switch_count,
            command_id=queued.command.id,
            now=now,
        ):
            raise Conflict("the switch was queued already")
        await self._advance(conn, s, "handling", action="queued_ondemand_switch")
        await store.add_step(conn, s.tenant_id, s.failover_id, "switch_queued", "ondemand", now)

    async def _fail_replica(
        self, conn: Conn, agent: Locked, move: Move, primary: Instance | None
    ) -> None:
        s, now = move.situation, self._clock.now()
        replica = await replicas_store.find_live(conn, s.tenant_id, s.agent_id)
        if replica is not None and replica.instance_id == s.instance_id:
            await self._replicas.fail(conn, replica, f"its instance got a {s.kind} notice", now)
        await self._close(
            conn, agent, Move("ignore", s, move.why), primary, action="failed_replica"
        )

    async def _close(
        self,
        conn: Conn,
        agent: Locked,
        move: Move,
        primary: Instance | None,
        action: str | None = None,
    ) -> None:
        s, now = move.situation, self._clock.now()
        if move.step == "release":
            replica = await replicas_store.find_live(conn, s.tenant_id, s.agent_id)
            if replica is not None and replica.id == s.replica_id:
                await self._replicas.end(conn, replica, now)
        status = _FINAL[move.step]
        new = primary.id if primary and primary.id != s.instance_id else None
        await self._advance(conn, s, status, action=action, message=move.why, new_instance_id=new)
        await store.add_step(conn, s.tenant_id, s.failover_id, status, move.why, now)
        severity = "error" if status == "failed" else "info"
        await self._announce(conn, agent, s, status, now, message=move.why, severity=severity)

    async def _advance(
        self,
        conn: Conn,
        s: Situation,
        status: str,
        *,
        action: str | None = None,
        replica_id: UUID | None = None,
        new_instance_id: str | None = None,
        message: str | None = None,
    ) -> None:
        moved = await store.advance(
            conn,
            s.tenant_id,
            s.failover_id,
            status,
            now=self._clock.now(),
            action=action,
            replica_id=replica_id,
            new_instance_id=new_instance_id,
            message=message,
        )
        if not moved:
            raise Conflict("the failover was closed meanwhile")

    async def _bury(self, now: datetime) -> int:
        async with self._db.connection(ALL_TENANTS) as conn:
            taken = await snapshot_queries.list_taken(conn, now)
        for instance in taken:
            async with self._db.transaction(instance.tenant_id) as conn:
                await instances.move(
                    conn, instance.tenant_id, instance.id, frm=("zombie",), to="terminated", now=now
                )
                await replicas_store.confirm_termination(conn, instance.tenant_id, instance.id, now)
        return len(taken)

    async def _announce(
        self, conn: Conn, agent: Locked, s: Situation, what: str, now: datetime, **more: object
    ) -> None:
        data = {
            "failover_id": str(s.failover_id),
            "agent_id": str(s.agent_id),
            "agent_name": agent.logical_agent_id,
            "instance_id": s.instance_id,
            "kind": s.kind,
            **more,
        }
        event = events.Event(f"failover.{what}", str(s.agent_id), data, s.tenant_id)
        await events.append(conn, event, now)
