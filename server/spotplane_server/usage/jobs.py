"""Background work on usage."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database

# Beyond the oldest record that is taken, so that its resend is still recognised.
KEPT: Final = timedelta(days=40)
BATCH: Final = 5000

DELETE_OLD_REQUEST_IDS: Final = """
    DELETE FROM usage_dedup
     WHERE ctid = ANY(ARRAY(SELECT ctid FROM usage_dedup WHERE "timestamp" < $1 LIMIT $2))
"""


class RequestIdRetention:
    """Forgets request ids 40 days after their records, in short transactions."""

    name = "usage_request_ids"
    period = timedelta(hours=1)
    singleton = True

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Delete all that is due; answer how many ids that were."""
        total = 0
        while True:
            async with self._db.connection(ALL_TENANTS) as conn:
                deleted = await delete_old_request_ids(conn, before=now - KEPT, limit=BATCH)
            total += deleted
            if deleted < BATCH:
                return total


async def delete_old_request_ids(conn: Conn, *, before: datetime, limit: int) -> int:
    """Delete up to ``limit`` ids of records older than ``before``; answer how many."""
    status: str = await conn.execute(DELETE_OLD_REQUEST_IDS, before, limit)
    return int(status.rpartition(" ")[2])
