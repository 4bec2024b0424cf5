"""The job that keeps the ledger."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from spotplane_server import events
from spotplane_server.kernel.db import partitions
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.savings import ledger, rules
from spotplane_server.savings.rules import Step

TABLE: Final = "savings_buckets"
# Of a transaction, so that each stays within seconds whatever the fleet's size.
MAX_CHANGES: Final = 10_000
MAX_AGENTS: Final = 1_000


class SavingsJob:
    """Closes buckets that are over, and makes those anew whose spans or prices have changed.

    Each transaction moves some agents as a whole: their buckets, the sums over them and how far
    they are. A crash between two loses nothing, and a run with nothing to do writes nothing.
    Daily and monthly sums move with their buckets, so nothing rolls up at night.
    """

    name = "savings"
    period = timedelta(minutes=5)
    singleton = True

    def __init__(
        self,
        db: Database,
        *,
        buckets: int = rules.MAX_BUCKETS,
        agents: int = MAX_AGENTS,
        changes: int = MAX_CHANGES,
    ) -> None:
        self._db = db
        self._buckets = buckets
        self._agents = agents
        self._changes = changes
        self._months: set[datetime] = set()

    async def run_once(self, now: datetime) -> int:
        """Bring the ledger up to now; answer how many buckets have changed."""
        taken = False
        while not taken:
            async with self._db.transaction(ALL_TENANTS) as conn:
                taken = await ledger.take_changes(conn, now=now, limit=self._changes)
        changed, done = 0, False
        while not done:
            made = await self._move(now)
            changed, done = changed + (made or 0), made is None
        return changed

    async def _move(self, now: datetime) -> int | None:
        """Move some agents on; None when there are none to move."""
        async with self._db.transaction(ALL_TENANTS) as conn:
            claimed = await ledger.claim(conn, now=now, limit=self._agents)
            if not claimed:
                return None
            steps = rules.plan(claimed, buckets=self._buckets)
            await self._make_room(steps)
            changed = await ledger.replace(conn, steps)
            if changed:
                told = {"buckets": changed, "agents": len(steps)}
                await events.append(conn, events.Event("savings.computed", "savings", told), now)
            return changed

    async def _make_room(self, steps: list[Step]) -> None:
        """Have a partition for every month: an agent may be back after longer than they are kept.

        On a connection of its own, so that nobody waits for the transaction.
        """
        months = {month for step in steps for month in _months(step)} - self._months
        async with self._db.connection(ALL_TENANTS) as conn:
            for month in sorted(months):
                end = partitions.month(month, 1)
                await conn.fetchval(partitions.ENSURE, TABLE, month, end)
        self._months |= months


def _months(step: Step) -> list[datetime]:
    month, found = partitions.month(step.start, 0), []
    while month < step.end:
        found.append(month)
        month = partitions.month(month, 1)
    return found
