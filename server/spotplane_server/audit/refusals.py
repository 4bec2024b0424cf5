"""Audit entries of denied calls."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final

from spotplane_server.audit.store import Change, record
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.errors import DomainError
from spotplane_server.kernel.request_context import Call

# One row says it; a caller that tries all the time must not fill the audit.
REPEAT_AFTER: Final = timedelta(minutes=1)
MAX_REMEMBERED: Final = 10_000


class Refusals:
    """Records refused calls and failed proofs, each caller and method once a minute."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._recorded: OrderedDict[tuple[str, str], datetime] = OrderedDict()

    async def record(self, call: Call, error: DomainError) -> None:
        """Append a row on its own; there is no change that it could belong to."""
        # Who could not prove itself is known by its address only.
        now, key = self._clock.now(), (call.caller.id or str(call.client_ip), call.method)
        last = self._recorded.get(key)
        if last is not None and last + REPEAT_AFTER > now:
            return
        self._recorded[key] = now
        if len(self._recorded) > MAX_REMEMBERED:
            self._recorded.popitem(last=False)
        change = Change(
            "call.refuse",
            "method",
            call.method,
            call.caller.tenant_id,
            after={"reason": error.reason},
            result="failure",
        )
        async with self._db.connection(ALL_TENANTS) as conn:
            await record(conn, call, change, now)
