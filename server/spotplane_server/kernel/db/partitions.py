"""Monthly partitions, created ahead and dropped by retention.

The plain role may not create tables, so both go through functions of the schema's owner that accept
only the tables they were written for.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from spotplane_server.kernel import metrics
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database

MONTHS_BACK: Final = 2
MONTHS_AHEAD: Final = 3

# Read from the database, so that a migration cannot add a table that the job does not maintain.
LIST_TABLES: Final = "SELECT name FROM partitioned_tables ORDER BY name"

ENSURE: Final = "SELECT ensure_partition($1, $2, $3)"

COUNT_AHEAD: Final = """
    SELECT count(*)
      FROM pg_inherits i
      JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = $1::text::regclass
       AND c.relname > $2
"""


class PartitionJob:
    """Keeps the past two, the current and the next months present.

    Args:
        db: The database.
        ahead: How many months beyond the current one.
    """

    name = "partitions"
    period = timedelta(hours=6)
    singleton = True

    def __init__(self, db: Database, ahead: int = MONTHS_AHEAD) -> None:
        self._db = db
        self._ahead = ahead

    async def run_once(self, now: datetime) -> int:
        """Create what is missing; answer how many were."""
        made = 0
        async with self._db.connection(ALL_TENANTS) as conn:
            for table in await _list_tables(conn):
                for offset in range(-MONTHS_BACK, self._ahead + 1):
                    start, end = month(now, offset), month(now, offset + 1)
                    made += bool(await conn.fetchval(ENSURE, table, start, end))
            current = f"usage_records_{now:%Y%m}"
            metrics.PARTITIONS_AHEAD.set(await conn.fetchval(COUNT_AHEAD, "usage_records", current))
        return made


async def ready(db: Database, now: datetime) -> bool:
    """Whether next month's partitions exist."""
    async with db.connection(ALL_TENANTS) as conn:
        for table in await _list_tables(conn):
            if not await conn.fetchval(COUNT_AHEAD, table, f"{table}_{now:%Y%m}"):
                return False
    return True


async def _list_tables(conn: Conn) -> list[str]:
    return [row["name"] for row in await conn.fetch(LIST_TABLES)]


def month(now: datetime, offset: int) -> datetime:
    """Start of the month ``offset`` months from now's, UTC."""
    index = now.year * 12 + now.month - 1 + offset
    return datetime(index // 12, index % 12 + 1, 1, tzinfo=UTC)
