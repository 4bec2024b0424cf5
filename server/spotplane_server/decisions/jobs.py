"""Background work of decisions besides their loop."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from spotplane_server.decisions import engine_uploads_store
from spotplane_server.kernel.db.database import ALL_TENANTS, Database

KEPT: Final = timedelta(days=30)


class SessionRetention:
    """Forgets sessions that have had no role for 30 days, but the newest uploaded one."""

    name = "engine-session-retention"
    period = timedelta(hours=6)
    singleton = True

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Forget; answer how many sessions were."""
        async with self._db.transaction(ALL_TENANTS) as conn:
            await engine_uploads_store.lock_state(conn)
            return await engine_uploads_store.delete_old(conn, now - KEPT)
