"""Background work of tenants and keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from spotplane_server.kernel import metrics
from spotplane_server.kernel.auth.authenticator import Authenticator
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.tenants import clients_store, keys_store, store


class LastUsedJob:
    """Writes down when keys were last used: seldom and in one statement, never in their requests.

    Every process runs it for the uses that it has seen.
    """

    name = "api_key_last_used"
    period = timedelta(seconds=20)
    singleton = False

    def __init__(self, db: Database, auth: Authenticator) -> None:
        self._db = db
        self._auth = auth
        self._pending: dict[UUID, datetime] = {}

    async def run_once(self, now: datetime) -> int:
        """Write what was seen since the last run that succeeded; answer how many keys that were."""
        used, self._pending = self._pending | self._auth.take_used(), {}
        if not used:
            return 0
        try:
            async with self._db.connection(ALL_TENANTS) as conn:
                return await keys_store.touch_keys(conn, used)
        except BaseException:
            self._pending = used | self._pending
            raise


class FiguresJob:
    """Counts tenants and keys for the metrics of this process."""

    name = "tenant-figures"
    period = timedelta(seconds=60)
    singleton = False

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Count; nothing is done that would be worth a line in the log."""
        async with self._db.connection(ALL_TENANTS) as conn:
            counts = await store.count_by_status(conn)
        for kind, gauge in (("tenant", metrics.TENANTS), ("api_key", metrics.API_KEYS)):
            gauge.clear()
            for status, count in counts[kind].items():
                gauge.labels(status).set(count)
        return 0


class EscrowJob:
    """Forgets copies of tokens: of dead ones, and all of them once the operator wants none.

    Args:
        db: Where they are.
        keeps: Whether copies are kept.
    """

    name = "token_escrow"
    period = timedelta(minutes=10)
    singleton = True

    def __init__(self, db: Database, *, keeps: bool) -> None:
        self._db = db
        self._keeps = keeps

    async def run_once(self, now: datetime) -> int:
        """Forget; answer how many."""
        async with self._db.connection(ALL_TENANTS) as conn:
            if not self._keeps:
                return await clients_store.drop_copies(conn)
            return await clients_store.drop_dead_copies(conn, now=now)
