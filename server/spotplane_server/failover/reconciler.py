"""Finishing failovers: snapshot, pure plan, guarded steps.

Every step is one transaction that checks again, under the agent's row, what the plan assumed. So
any number of processes may reconcile the same failover at the same time, and a process may die
anywhere: what was committed is whole, and what was not is planned anew.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import structlog

from spotplane_server import events
from spotplane_server.agents import access, commands_queries
from spotplane_server.agents import errors as agent_errors
from spotplane_server.agents import ledger as ledger_rules
from spotplane_server.agents import store as agents
from spotplane_server.agents.ledger import Ledger
from spotplane_server.agents.sessions import Sessions
from spotplane_server.failover import rules, store
from spotplane_server.failover.rules import Kind, Move, Situation
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance
from spotplane_server.kernel import metrics
from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import DEFECTS, EVERY_TENANT, Conn, Database, attempt
from spotplane_server.kernel.errors import Conflict, NotFound, Precondition
from spotplane_server.market import store as market
from spotplane_server.replicas import errors as replica_errors
from spotplane_server.replicas import placement
from spotplane_server.replicas import store as replicas_store
from spotplane_server.replicas.lifecycle import Replicas

log = structlog.get_logger(__name__)

# What a cloud gives when it names no deadline (AWS: two minutes).
DEFAULT_NOTICE: Final = timedelta(seconds=120)

# What a failover has become after a step that closes it.
_FINAL: Final = {
    "promote": "promoted",
    "fail_replica": "ignored",
    "ignore": "ignored",
    "fail": "failed",
    "resolve": "resolved",
    "release": "resolved",
}
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

    async def signal(
        self,
        tenant_id: TenantId,
        agent_id: UUID,
        instance_id: str | None,
        kind: Kind,
        *,
        deadline: datetime | None,
        now: datetime,
    ) -> UUID:
        """Open or join a failover, and carry it as far as it goes at once.

        Args:
            tenant_id: Whose agent it is.
            agent_id: The agent.
            instance_id: The instance that goes; None, or one that is not the agent's, means the
                primary: a wrong id must not stop a rescue.
            kind: What is known of its going.
            deadline: When it goes; default in 120 seconds for a termination.
            now: When the signal arrived.

        Returns:
            Its id; of the closed one, when this very signal had opened it before.

        Raises:
            AgentNotFound: There is none. AgentOffline: No instance serves.
        """
        failover_id, fresh = await attempt(
            lambda: self._open(tenant_id, agent_id, instance_id, kind, deadline, now)
        )
        if fresh:
            await self.reconcile(only=failover_id)
        return failover_id

    async def run_once(self, now: datetime) -> int:
        """Open failovers of silent primaries, carry all open ones on, bury what the cloud took."""
        async with self._db.transaction(EVERY_TENANT) as conn:
            for silence in await store.open_silences(conn, now=now, after=self._offline_after):
                step = "detected" if silence.fresh else "upgraded"
                await store.add_step(conn, silence.tenant_id, silence.id, step, "silence", now)
        done = await self.reconcile()
        return done + await self._bury(now)

    async def reconcile(self, *, only: UUID | None = None) -> int:
        """Plan on a snapshot and apply each step; answer how many steps took effect."""
        now = self._clock.now()
        async with self._db.read(EVERY_TENANT) as conn:
            situations = await store.snapshot(
                conn, now=now, offline_after=self._offline_after, only=only
            )
        done = 0
        for move in rules.plan(situations, now):
            try:
                done += await attempt(lambda move=move: self._apply(move))  # type: ignore[misc]
            except (Precondition, Conflict, NotFound) as err:
                # Somebody was faster or things have changed: the next snapshot knows.
                log.info("failover_step_lost", step=move.step, reason=err.reason)
            except DEFECTS:
                failover_id = str(move.situation.failover_id)
                log.exception("failover_step_defect", step=move.step, failover_id=failover_id)
        return done

    async def _open(
        self,
        tenant_id: TenantId,
        agent_id: UUID,
        instance_id: str | None,
        kind: Kind,
        deadline: datetime | None,
        now: datetime,
    ) -> tuple[UUID, bool]:
        async with self._db.transaction(tenant_id) as conn:
            await access.lock(conn, agent_id)
            instance = await self._meant(conn, tenant_id, agent_id, instance_id)
            closed = await store.find_closed(conn, tenant_id, instance.id, kind, deadline, now)
            if closed is not None:
                return closed, False
            if kind == "termination" and deadline is None:
                deadline = now + DEFAULT_NOTICE
            known = await store.find_open(conn, tenant_id, instance.id)
            opened = await store.open_failover(
                conn,
                tenant_id,
                uuid4(),
                agent_id,
                instance.id,
                instance.pool_id,
                kind,
                deadline=deadline,
                now=now,
            )
            if known is None or opened.kind != known.kind:
                step = "detected" if known is None else "upgraded"
                await store.add_step(conn, tenant_id, opened.id, step, kind, now)
            if instance.pool_id and kind in {"rebalance", "termination"}:
                await market.record_interruption(conn, instance.pool_id, instance.id, now)
            if known is None:
                await self._announce(
                    conn, tenant_id, agent_id, opened.id, "detected", now, kind=kind
                )
        return opened.id, True

    async def _meant(
        self, conn: Conn, tenant_id: TenantId, agent_id: UUID, instance_id: str | None
    ) -> Instance:
        if instance_id:
            named = await instances.find(conn, tenant_id, instance_id)
            if named is not None and named.agent_id == agent_id:
                return named
        primary = await instances.find_primary(conn, tenant_id, agent_id)
        if primary is None:
            raise agent_errors.AgentOffline("no instance serves this agent at present")
        return primary

    async def _apply(self, move: Move) -> int:
        situation = move.situation
        steps = {
            "promote": self._promote,
            "launch": self._launch,
            "fail_replica": self._fail_replica,
        }
        async with self._db.transaction(situation.tenant_id) as conn:
            await access.lock(conn, situation.agent_id)
            primary = await instances.find_primary(conn, situation.tenant_id, situation.agent_id)
            if (primary.id if primary else None) != situation.primary_id:
                raise Conflict("the agent has moved meanwhile")
            if move.step in steps:
                await steps[move.step](conn, move, primary)
            else:
                await self._close(conn, move, primary)
        # Only now is it true: a transaction that is run again must not count twice.
        self._count(move)
        self._sessions.signal_agent(situation.agent_id)
        if situation.primary_id:
            self._ledger.wake(situation.tenant_id, situation.primary_id)
        return 1

    def _count(self, move: Move) -> None:
        outcome = _FINAL.get(move.step)
        if outcome is not None:
            metrics.FAILOVERS.labels(move.situation.kind, outcome).inc()
        if outcome == "promoted":
            took = self._clock.now() - move.situation.detected_at
            metrics.FAILOVER_SECONDS.observe(took.total_seconds())

    async def _promote(self, conn: Conn, move: Move, primary: Instance | None) -> None:
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
            s.tenant_id,
            s.agent_id,
            s.failover_id,
            "promoted",
            now,
            old_instance_id=s.instance_id,
            new_instance_id=replica.instance_id,
            response_ms=round((now - s.detected_at).total_seconds() * 1000, 3),
        )

    async def _launch(self, conn: Conn, move: Move, primary: Instance | None) -> None:
        s, now = move.situation, self._clock.now()
        if primary is None:
            raise Conflict("no instance serves")
        kind = _REPLICA_TYPES.get(s.kind, "automatic-termination")
        place = await placement.for_emergency(
            conn, primary, kind=kind, since=s.detected_at, now=now
        )
        if place is None and s.kind == "rebalance":
            raise replica_errors.NoPoolAvailable("no pool is left, and the instance still serves")
        if place is None:
            await self._switch_to_ondemand(conn, s, primary, now)
            return
        replica = await self._replicas.request(conn, primary, place, now)
        await self._advance(conn, s, "handling", action="created_replica", replica_id=replica.id)
        await store.add_step(
            conn, s.tenant_id, s.failover_id, "replica_requested", place.pool_id, now
        )

    async def _switch_to_ondemand(
        self, conn: Conn, s: Situation, primary: Instance, now: datetime
    ) -> None:
        order = ledger_rules.emergency(
            "switch",
            {"target_mode": "ondemand", "terminate_wait_seconds": 0},
            "failover",
            f"failover-{s.failover_id}",
        )
        # Another reconciler may have queued it since the snapshot; and it is tried once.
        if await commands_queries.find(conn, s.tenant_id, s.agent_id, request_id=order.request_id):
            raise Conflict("the switch was queued already")
        await self._ledger.issue(conn, s.tenant_id, s.agent_id, primary.id, order, now)
        await self._advance(conn, s, "handling", action="queued_ondemand_switch")
        await store.add_step(conn, s.tenant_id, s.failover_id, "switch_queued", "ondemand", now)

    async def _fail_replica(self, conn: Conn, move: Move, primary: Instance | None) -> None:
        s, now = move.situation, self._clock.now()
        replica = await replicas_store.find_live(conn, s.tenant_id, s.agent_id)
        if replica is not None and replica.instance_id == s.instance_id:
            await self._replicas.fail(conn, replica, f"its instance got a {s.kind} notice", now)
            await agents.raise_generation(conn, s.tenant_id, s.agent_id, now=now)
        await self._close(conn, Move("ignore", s, move.why), primary)

    async def _close(self, conn: Conn, move: Move, primary: Instance | None) -> None:
        s, now = move.situation, self._clock.now()
        if move.step == "release":
            replica = await replicas_store.find_live(conn, s.tenant_id, s.agent_id)
            if replica is not None and replica.id == s.replica_id:
                await self._replicas.end(conn, replica, now)
        status = _FINAL[move.step]
        new = primary.id if primary and primary.id != s.instance_id else None
        await self._advance(conn, s, status, message=move.why, new_instance_id=new)
        await store.add_step(conn, s.tenant_id, s.failover_id, status, move.why, now)
        await self._announce(
            conn, s.tenant_id, s.agent_id, s.failover_id, status, now, message=move.why
        )

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
        async with self._db.read(EVERY_TENANT) as conn:
            taken = await store.list_taken(conn, now)
            for instance in taken:
                await instances.move(
                    conn, instance.tenant_id, instance.id, frm=("zombie",), to="terminated", now=now
                )
        return len(taken)

    async def _announce(
        self,
        conn: Conn,
        tenant_id: TenantId,
        agent_id: UUID,
        failover_id: UUID,
        what: str,
        now: datetime,
        **more: object,
    ) -> None:
        data = {"failover_id": str(failover_id), "agent_id": str(agent_id), **more}
        await events.append(
            conn, events.Event(f"failover.{what}", str(agent_id), data, tenant_id), now
        )
