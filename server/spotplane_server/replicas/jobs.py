"""The coordinator: one replica standing for every agent in manual mode, none for the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from spotplane_server import events
from spotplane_server.agents import store as agents
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.instances import store as instances
from spotplane_server.kernel.db.database import ALL_TENANTS, PERMANENT_ERRORS, Conn, Database
from spotplane_server.kernel.errors import Conflict, NotFound, Precondition
from spotplane_server.replicas import coordinator_queries, placement, rules, store
from spotplane_server.replicas.coordinator_queries import Found, Uncovered
from spotplane_server.replicas.lifecycle import Replicas
from spotplane_server.replicas.placement import Wish
from spotplane_server.replicas.store import Replica

log = structlog.get_logger(__name__)

# Does something about a replica that is locked.
Step = Callable[[Conn, Replica, datetime], Awaitable[None]]


class CoordinatorJob:
    """Requests replicas that are missing and ends those that nobody wants.

    Args:
        db: The database.
        ledger: To wake primaries.
        replicas: What may be done with replicas.
        changed: Called with an agent whose instances have new roles.
        offline_after: Silence that counts.
    """

    name = "replica-coordinator"
    period = timedelta(seconds=2)
    singleton = True

    def __init__(
        self,
        db: Database,
        ledger: Ledger,
        replicas: Replicas,
        changed: Callable[[UUID], None],
        offline_after: timedelta,
    ) -> None:
        self._db = db
        self._ledger = ledger
        self._replicas = replicas
        self._changed = changed
        self._offline_after = offline_after

    async def run_once(self, now: datetime) -> int:
        """Cover, clear and confirm; answer how many replicas something was done about."""
        async with self._db.connection(ALL_TENANTS) as conn:
            await coordinator_queries.accrue_costs(conn, now)
            work: list[tuple[Step, list[Found]]] = [
                (self._order_again, await coordinator_queries.list_unconfirmed(conn, now)),
                (self._give_up, await coordinator_queries.list_stranded(conn, now)),
                (
                    self._lose,
                    await coordinator_queries.list_lost(
                        conn, silent_since=now - self._offline_after
                    ),
                ),
                (self._end, await coordinator_queries.list_left_running(conn, now)),
                (self._end, await coordinator_queries.list_unwanted(conn)),
            ]
            uncovered = await coordinator_queries.list_uncovered(conn, now)
        done = await self._tell_unconfirmed(now)
        for step, found in work:
            for one in found:
                done += await self._guarded(one.agent_id, self._apply(step, one, now))
        for agent in uncovered:
            if agent.failed_at is None or rules.retry_at(agent.failed_at, agent.failures) <= now:
                done += await self._guarded(agent.agent_id, self._cover(agent, now))
        return done

    async def _guarded(self, agent_id: UUID, step: Awaitable[None]) -> int:
        """One agent's trouble must not keep the others waiting; the next run is the retry."""
        try:
            await step
        except (Precondition, Conflict, NotFound) as err:
            log.info("replica_step_skipped", agent_id=str(agent_id), reason=err.reason)
            return 0
        except PERMANENT_ERRORS:
            log.exception("replica_step_defect", agent_id=str(agent_id))
            return 0
        self._changed(agent_id)
        return 1

    async def _cover(self, agent: Uncovered, now: datetime) -> None:
        async with self._db.transaction(agent.tenant_id) as conn:
            await agents.lock(conn, agent.agent_id)
            primary = await instances.find_primary(conn, agent.tenant_id, agent.agent_id)
            if primary is None:
                return
            wish = Wish("coordinator", for_manual_mode=True)
            place = await placement.for_manual(conn, primary, wish, now)
            await self._replicas.request(conn, primary, place, now)
        self._ledger.wake(agent.tenant_id, primary.id)

    async def _apply(self, step: Step, found: Found, now: datetime) -> None:
        tenant_id, agent_id = found.tenant_id, found.agent_id
        async with self._db.transaction(tenant_id) as conn:
            await agents.lock_any(conn, tenant_id, agent_id)
            replica = await store.lock(conn, tenant_id, agent_id, found.id)
            primary = await instances.find_primary(conn, tenant_id, agent_id)
            if replica is not None:
                await step(conn, replica, now)
        if primary is not None:
            self._ledger.wake(tenant_id, primary.id)

    async def _order_again(self, conn: Conn, replica: Replica, now: datetime) -> None:
        if not replica.termination_confirmed:
            await self._replicas.order_end(conn, replica, replica.instance_id, now)

    async def _give_up(self, conn: Conn, replica: Replica, now: datetime) -> None:
        if not replica.bound:
            await self._replicas.fail(conn, replica, "nobody launched it", now)

    async def _lose(self, conn: Conn, replica: Replica, now: datetime) -> None:
        await self._replicas.fail(conn, replica, "its instance went silent", now)

    async def _end(self, conn: Conn, replica: Replica, now: datetime) -> None:
        await self._replicas.end(conn, replica, now)

    async def _tell_unconfirmed(self, now: datetime) -> int:
        async with self._db.transaction(ALL_TENANTS) as conn:
            told = await coordinator_queries.tell_unconfirmed(conn, now)
            for one in told:
                data = {
                    "agent_id": str(one.agent_id),
                    "replica_id": str(one.id),
                    "instance_id": one.instance_id,
                    "pool_id": one.pool_id,
                    "severity": "error",
                    "message": "a replica's end has not been confirmed for a day; it may still run",
                }
                event = events.Event("replica.unconfirmed", str(one.agent_id), data, one.tenant_id)
                await events.append(conn, event, now)
        return len(told)
