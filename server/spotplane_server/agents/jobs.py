"""Background work on agents: liveness, and the ends of leases and commands."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import structlog

from spotplane_server import events
from spotplane_server.agents import access, convert, orphans, store
from spotplane_server.agents.commands import expiry
from spotplane_server.agents.commands.expiry import Due
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.sessions import store as store_module
from spotplane_server.instances import store as instances
from spotplane_server.kernel import metrics
from spotplane_server.kernel.db.database import (
    ALL_TENANTS,
    PERMANENT_ERRORS,
    Database,
    retry_on_serialization_failure,
)
from spotplane_server.kernel.jobs.retention import Rule

log = structlog.get_logger(__name__)

# Finished commands are forgotten after a week, servers a day after they stopped.
RETENTION: Final = (
    Rule("agent_commands", "done_at", timedelta(days=7)),
    Rule("heartbeat_listeners", "last_flush_at", timedelta(days=1)),
)


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
        async with self._db.transaction(ALL_TENANTS) as conn:
            silent = await store_module.mark_silent(conn, now=now, after=self._offline_after)
            heard = await store_module.mark_heard(conn, now=now, after=self._offline_after)
            for edge in silent:
                event = convert.marked_offline(
                    edge.tenant_id, edge.id, edge.instance_id, "no sign of life"
                )
                await events.append(conn, event, now)
        return len(silent) + len(heard)


class CommandsJob:
    """Ends leases and commands whose time is over, and cancels what has lost its sense.

    An agent with something to end is a transaction of its own, so that one that cannot be tidied
    up holds up no other; the rest costs one look at the index of open commands.
    """

    name = "commands"
    period = timedelta(seconds=15)
    singleton = True

    def __init__(self, db: Database, ledger: Ledger) -> None:
        self._db = db
        self._ledger = ledger

    async def run_once(self, now: datetime) -> int:
        """Give leases back, end what is over; answer how many agents had something to tidy up."""
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await expiry.list_due(conn, now)
        done = 0
        for due in found:
            try:
                done += await retry_on_serialization_failure(lambda due=due: self._tidy(due, now))  # type: ignore[misc]
            except PERMANENT_ERRORS:
                log.exception("command_upkeep_defect", agent_id=str(due.agent_id))
        async with self._db.connection(ALL_TENANTS) as conn:
            oldest = await expiry.find_oldest(conn)
        metrics.COMMAND_AGE.set((now - oldest).total_seconds() if oldest else 0)
        return done

    async def _tidy(self, due: Due, now: datetime) -> int:
        async with self._db.transaction(due.tenant_id) as conn:
            await store.lock_any(conn, due.tenant_id, due.agent_id)
            waits = await self._ledger.tidy(conn, due.tenant_id, due.agent_id, now)
            primary = await instances.find_primary(conn, due.tenant_id, due.agent_id)
        if waits and primary is not None:
            self._ledger.wake(due.tenant_id, primary.id)
        return 1


class LeftoversJob:
    """Tells of what deleted agents have left running, a day after their deletion."""

    name = "agent-leftovers"
    period = timedelta(minutes=5)
    singleton = True

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Tell of each instance once; answer how many there were."""
        async with self._db.transaction(ALL_TENANTS) as conn:
            left = await orphans.tell(conn, before=now - access.LEFTOVERS_FOR, now=now)
            for found in left:
                await events.append(conn, orphans.event(found), now)
        return len(left)
