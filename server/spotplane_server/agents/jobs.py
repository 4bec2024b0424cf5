"""Background work on agents: liveness, and the ends of leases and commands."""

from __future__ import annotations

from datetime import datetime, timedelta

from spotplane_server import events
from spotplane_server.agents import commands_store, convert, sessions_store
from spotplane_server.agents.ledger import Ledger
from spotplane_server.kernel.db import EVERY_TENANT, Database


class LivenessJob:
    """Takes agents offline whose primary has been silent too long, and online when heard again.

    Args:
        db: The database.
        offline_after: Silence that counts.
    """

    name = "agent-liveness"
    period = timedelta(seconds=15)
    singleton = True

    def __init__(self, db: Database, offline_after: timedelta) -> None:
        self._db = db
        self._offline_after = offline_after

    async def run_once(self, now: datetime) -> int:
        """Move both edges; answer how many agents moved."""
        async with self._db.transaction(EVERY_TENANT) as conn:
            silent = await sessions_store.mark_silent(conn, now=now, after=self._offline_after)
            heard = await sessions_store.mark_heard(conn, now=now, after=self._offline_after)
            for edges, status in ((silent, "offline"), (heard, "online")):
                for edge in edges:
                    event = convert.status_event(edge.tenant_id, edge.id, edge.instance_id, status)
                    await events.append(conn, event, now)
        return len(silent) + len(heard)


class CommandsJob:
    """Ends leases and commands whose time is over."""

    name = "commands"
    period = timedelta(seconds=15)
    singleton = True

    def __init__(self, db: Database, ledger: Ledger) -> None:
        self._db = db
        self._ledger = ledger

    async def run_once(self, now: datetime) -> int:
        """Give leases back, expire what is over; answer how many commands moved."""
        async with self._db.transaction(EVERY_TENANT) as conn:
            returned = await commands_store.return_leases(conn, now)
            expired = await commands_store.expire(conn, now)
            for command in expired:
                await self._ledger.take_effect(conn, command, now)
        for waiting in returned:
            self._ledger.wake(waiting.tenant_id, waiting.instance_id)
        return len(returned) + len(expired)
