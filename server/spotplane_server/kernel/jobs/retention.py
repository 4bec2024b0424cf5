"""Retention: deletes expired rows, daily at 02:00 UTC.

A feature says in its ``FeatureModule`` what of its own is to be forgotten:
``Parts(…, retention=[Rule("decisions", "decided_at", timedelta(days=30))])``. Tables partitioned by
month are not named here; how long their months are kept stands in ``partitioned_tables.kept_for``,
and beside it for how much longer a part of each, as administrators' actions in the audit trail.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final, TypeAlias

import asyncpg
import structlog

from spotplane_server.kernel import metrics
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.jobs import daily

log = structlog.get_logger(__name__)

# Tells of a day's work: rows and months that went, and when.
Tell: TypeAlias = Callable[[Conn, int, datetime], Awaitable[None]]

AT: Final = time(2, 0)
BATCH: Final = 5000

DELETE_BEFORE: Final = "SELECT delete_before($1::text::regclass, $2::text::name, $3, $4)"

# A month's partition is named after its table and the month. The two months before the current one
# stay whatever is kept: they are made ahead of late records. A month of which a part is kept longer
# is listed until all of it is gone; there is nothing to drop then, most of the time.
LIST_EXPIRED: Final = """
    SELECT t.name AS parent, m.starts_at
      FROM partitioned_tables t
      JOIN pg_inherits i ON i.inhparent = t.name::regclass
      JOIN pg_class c ON c.oid = i.inhrelid
     CROSS JOIN LATERAL
           (SELECT to_timestamp(substring(c.relname FROM '_([0-9]{6})$'), 'YYYYMM')::timestamp
                   AT TIME ZONE 'UTC' AS starts_at) AS m
     WHERE m.starts_at + interval '1 month' <= least(now(), $1) - t.kept_for
       AND m.starts_at < date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
                         - interval '2 months'
     ORDER BY 1, 2
"""

DROP_PARTITION: Final = "SELECT drop_partition($1, $2)"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is forgotten: rows of a table whose time in a column is longer ago than ``keep``.

    A row without a time stays, so a column such as ``read_at`` keeps what is unread. The plain role
    needs the right to delete; an index on the column keeps it cheap.
    """

    table: str
    column: str
    keep: timedelta


class RetentionJob:
    """Deletes and drops what is due, once a day.

    Args:
        db: The database.
        rules: What is deleted.
        tell: Says that something went, in the transaction that ends the day's work.
    """

    name = "retention"
    # How soon after its hour, or after a start, it is noticed to be due.
    period = timedelta(minutes=10)
    singleton = True

    def __init__(self, db: Database, rules: Sequence[Rule], tell: Tell | None = None) -> None:
        self._db = db
        self._rules = rules
        self._tell = tell

    async def run_once(self, now: datetime) -> int:
        """Do the day's work if it is due; answer how many rows and months went."""
        async with self._db.connection(ALL_TENANTS) as conn:
            day = await daily.due(conn, self.name, AT, now)
        if day is None:
            return 0
        done = await self.forget(now)
        async with self._db.transaction(ALL_TENANTS) as conn:
            await daily.mark_done(conn, self.name, day)
            if done and self._tell is not None:
                await self._tell(conn, done, now)
        return done

    async def forget(self, now: datetime) -> int:
        """Delete and drop all that is due, whatever the hour."""
        done = 0
        for rule in self._rules:
            done += await self._delete(rule, now)
        return done + await self._drop_months(now)

    async def _delete(self, rule: Rule, now: datetime) -> int:
        total = 0
        while True:
            # Every batch is a transaction of its own: nobody waits for long, nothing is done twice.
            async with self._db.connection(ALL_TENANTS) as conn:
                deleted: int = await conn.fetchval(
                    DELETE_BEFORE, rule.table, rule.column, now - rule.keep, BATCH
                )
            total += deleted
            metrics.RETENTION_DROPPED.labels(rule.table).inc(deleted)
            if deleted < BATCH:
                return total

    async def _drop_months(self, now: datetime) -> int:
        async with self._db.connection(ALL_TENANTS) as conn:
            expired = await conn.fetch(LIST_EXPIRED, now.astimezone(UTC))
            dropped = 0
            for row in expired:
                try:
                    gone: bool = await conn.fetchval(
                        DROP_PARTITION, row["parent"], row["starts_at"]
                    )
                    dropped += gone
                    metrics.RETENTION_DROPPED.labels(row["parent"]).inc(gone)
                except asyncpg.LockNotAvailableError:
                    # Somebody reads it; tomorrow it is as expired as today.
                    log.warning("month_not_dropped", table=row["parent"], month=row["starts_at"])
        return dropped
