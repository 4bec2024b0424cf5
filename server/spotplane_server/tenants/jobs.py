"""Background jobs: last use of keys, metrics, and retention of token copies."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from spotplane_server.kernel import metrics
from spotplane_server.kernel.auth.authenticator import Authenticator
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.tenants import clients_store, keys_store, store


class LastUsedJob:
    """Stores the times of last use of keys periodically in one statement, outside of requests.

    Every process runs it for its own requests.
    """

    name = "api_key_last_used"
    period = timedelta(seconds=20)
    singleton = False

    def __init__(self, db: Database, auth: Authenticator) -> None:
        self._db = db
        self._auth = auth
        self._pending: dict[UUID, datetime] = {}

    async def run_once(self, now: datetime) -> int:
        """Store uses since the last successful run; return the number of keys."""
        used, self._pending = self._pending | self._auth.take_used(), {}
        if not used:
            return 0
        try:
            async with self._db.connection(ALL_TENANTS) as conn:
                return await keys_store.update_last_used(conn, used)
        except BaseException:
            self._pending = used | self._pending
            raise


class TenantMetricsJob:
    """Counts tenants and keys for the metrics of this process."""

    name = "tenant-figures"
    period = timedelta(seconds=60)
    singleton = False

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Update the metrics; return 0, so that the run is not logged."""
        async with self._db.connection(ALL_TENANTS) as conn:
            counts = await store.count_by_status(conn)
        for kind, gauge in (("tenant", metrics.TENANTS), ("api_key", metrics.API_KEYS)):
            gauge.clear()
            for status, count in counts[kind].items():
                gauge.labels(status).set(count)
        return 0


class EscrowJob:
    """Deletes copies of revoked and expired tokens, or all copies if they are disabled.

    Args:
        db: The database.
        keeps: Whether copies are enabled.
    """

    name = "token_escrow"
    period = timedelta(minutes=10)
    singleton = True

    def __init__(self, db: Database, *, keeps: bool) -> None:
        self._db = db
        self._keeps = keeps

    async def run_once(self, now: datetime) -> int:
        """Delete copies; return how many."""
        async with self._db.connection(ALL_TENANTS) as conn:
            if not self._keeps:
                return await clients_store.delete_copies(conn)
            return await clients_store.delete_expired_copies(conn, now=now)
