"""The job that remembers of which tenants was heard on which days."""

from __future__ import annotations

from datetime import datetime, timedelta

from spotplane_server.insights import platform_queries
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.savings import rules


class ActivityJob:
    """Writes days down while sessions still remember them.

    A session knows its start and its last sign of life. An agent whose signs of a day all fall
    between the last run of that day and midnight, on a session from earlier, is counted from the
    next day on.
    """

    name = "tenant-activity"
    period = timedelta(minutes=5)
    singleton = True

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Write down today and yesterday; answer how many days of tenants were new."""
        yesterday = rules.before("daily", rules.period("daily", now))
        async with self._db.connection(ALL_TENANTS) as conn:
            return await platform_queries.note_activity(conn, since=yesterday)
