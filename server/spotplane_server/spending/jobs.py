"""Background job that evaluates every budget."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import (
    ALL_TENANTS,
    Database,
    retry_on_serialization_failure,
)
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.spending import enforcement, rules, store
from spotplane_server.spending.store import BudgetRef

BATCH: Final = 500
_FIRST: Final = BudgetRef(UUID(int=0), UUID(int=0))


class BudgetsJob:
    """Publishes reached thresholds, and begins and ends hard stops.

    The plan follows from stored state and is applied under the budget's lock, so that repeated and
    concurrent runs have no further effect.
    """

    name = "budgets"
    period = timedelta(seconds=15)
    singleton = True

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Evaluate all budgets; return the number of events."""
        done, after = 0, _FIRST
        while True:
            async with self._db.connection(ALL_TENANTS) as conn:
                batch = await store.list_after(conn, after, limit=BATCH)
                found = await store.load_statuses(conn, batch, now) if batch else []
            for budget in found:
                if rules.plan(budget):
                    done += await self._act(BudgetRef(budget.tenant_id, budget.id), now)
            if len(batch) < BATCH:
                return done
            after = batch[-1]

    async def _act(self, named: BudgetRef, now: datetime) -> int:
        async def once() -> int:
            async with self._db.transaction(TenantId(named.tenant_id)) as conn:
                budget = await store.lock(conn, named, now)
                return 0 if budget is None else await enforcement.apply_plan(conn, budget, now)

        return await retry_on_serialization_failure(once)
