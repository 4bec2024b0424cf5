"""The coordinator: one replica standing for every agent in manual mode, none for the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from spotplane_server.agents import store as agents
from spotplane_server.agents.ledger import Ledger
from spotplane_server.instances import store as instances
from spotplane_server.kernel.db import DEFECTS, EVERY_TENANT, Database
from spotplane_server.kernel.errors import Conflict, NotFound, Precondition
from spotplane_server.replicas import placement, rules, store
from spotplane_server.replicas.lifecycle import Replicas

log = structlog.get_logger(__name__)

BATCH: Final = 200
# How often, and for how long, an instance is ordered to be ended until the cloud confirms it.
ORDER_EVERY: Final = timedelta(minutes=6)
ORDERED_FOR: Final = timedelta(hours=24)


class CoordinatorJob:
    """Requests replicas that are missing and ends those that nobody wants.

    Args:
        db: The database.
        ledger: To wake primaries.
        replicas: What may be done with replicas.
        changed: Called with an agent whose instances have new roles.
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
    ) -> None:
        self._db = db
        self._ledger = ledger
        self._replicas = replicas
        self._changed = changed

    async def run_once(self, now: datetime) -> int:
        """Cover and clear; answer how many replicas were requested or ended."""
        async with self._db.read(EVERY_TENANT) as conn:
            uncovered = await store.list_uncovered(conn, limit=BATCH)
            unwanted = await store.list_unwanted(conn, limit=BATCH)
            stranded = await store.list_stranded(conn, limit=BATCH)
            unconfirmed = await store.list_unconfirmed(
                conn, ended_since=now - ORDERED_FOR, ordered_before=now - ORDER_EVERY, limit=BATCH
            )
        done = 0
        for replica in unconfirmed:
            done += await self._guarded(replica.agent_id, self._order_again(replica, now))
        for replica in stranded:
            done += await self._guarded(replica.agent_id, self._give_up(replica, now))
        for agent in uncovered:
            if agent.failed_at is None or rules.retry_at(agent.failed_at, agent.failures) <= now:
                done += await self._guarded(agent.agent_id, self._cover(agent, now))
        for replica in unwanted:
            done += await self._guarded(replica.agent_id, self._clear(replica, now))
        return done

    async def _guarded(self, agent_id: UUID, step: Awaitable[None]) -> int:
        """One agent's trouble must not keep the others waiting; the next run is the retry."""
        try:
            await step
        except (Precondition, Conflict, NotFound) as err:
            log.info("replica_step_skipped", agent_id=str(agent_id), reason=err.reason)
            return 0
        except DEFECTS:
            log.exception("replica_step_defect", agent_id=str(agent_id))
            return 0
        self._changed(agent_id)
        return 1

    async def _cover(self, agent: store.Uncovered, now: datetime) -> None:
        async with self._db.transaction(agent.tenant_id) as conn:
            await agents.lock(conn, agent.agent_id)
            primary = await instances.find_primary(conn, agent.tenant_id, agent.agent_id)
            if primary is None:
                return
            place = await placement.for_manual(conn, primary, created_by="coordinator", now=now)
            await self._replicas.request(conn, primary, place, now)
        self._ledger.wake(agent.tenant_id, primary.id)

    async def _order_again(self, unconfirmed: store.Unwanted, now: datetime) -> None:
        tenant_id, agent_id = unconfirmed.tenant_id, unconfirmed.agent_id
        async with self._db.transaction(tenant_id) as conn:
            await agents.lock(conn, agent_id)
            replica = await store.lock(conn, tenant_id, agent_id, unconfirmed.id)
            primary = await instances.find_primary(conn, tenant_id, agent_id)
            if replica is not None and not replica.termination_confirmed:
                await self._replicas.order_end(conn, replica, replica.instance_id, now)
        if primary is not None:
            self._ledger.wake(tenant_id, primary.id)

    async def _give_up(self, stranded: store.Unwanted, now: datetime) -> None:
        async with self._db.transaction(stranded.tenant_id) as conn:
            await agents.lock(conn, stranded.agent_id)
            replica = await store.lock(conn, stranded.tenant_id, stranded.agent_id, stranded.id)
            if replica is not None and not replica.bound:
                await self._replicas.fail(conn, replica, "its launch was called off", now)

    async def _clear(self, unwanted: store.Unwanted, now: datetime) -> None:
        async with self._db.transaction(unwanted.tenant_id) as conn:
            await agents.lock(conn, unwanted.agent_id)
            replica = await store.lock(conn, unwanted.tenant_id, unwanted.agent_id, unwanted.id)
            primary = await instances.find_primary(conn, unwanted.tenant_id, unwanted.agent_id)
            if replica is not None:
                await self._replicas.end(conn, replica, now)
        if primary is not None:
            self._ledger.wake(unwanted.tenant_id, primary.id)
