"""Looking at every budget."""

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
from spotplane_server.spending.store import Named

BATCH: Final = 500
_FIRST: Final = Named(UUID(int=0), UUID(int=0))


class BudgetsJob:
    """Tells of what was reached, stops whom a budget stops, and lets go on whose period is over.

    What is to be done is decided by what is stored, and done under the budget's lock: a run that
    is repeated, or meets another one, finds nothing left.
    """

    name = "budgets"
    period = timedelta(seconds=15)
    singleton = True

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Look at all of them; answer how many things were told of, stopped or let go on."""
        done, after = 0, _FIRST
        while True:
            async with self._db.connection(ALL_TENANTS) as conn:
                batch = await store.following(conn, after, limit=BATCH)
                found = await store.read(conn, batch, now) if batch else []
            for standing in found:
                if rules.plan(standing):
                    done += await self._act(Named(standing.tenant_id, standing.id), now)
            if len(batch) < BATCH:
                return done
            after = batch[-1]

    async def _act(self, named: Named, now: datetime) -> int:
        async def once() -> int:
            async with self._db.transaction(TenantId(named.tenant_id)) as conn:
                standing = await store.lock(conn, named, now)
                return 0 if standing is None else await enforcement.act(conn, standing, now)

        return await retry_on_serialization_failure(once)
