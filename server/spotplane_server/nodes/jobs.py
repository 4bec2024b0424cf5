"""Background work on nodes: silence, operations that nobody finishes, and figures."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

import structlog

from spotplane_server.kernel import metrics
from spotplane_server.kernel.db.database import (
    ALL_TENANTS,
    PERMANENT_ERRORS,
    Database,
    retry_on_serialization_failure,
)
from spotplane_server.nodes import events, lifecycle, operations, operations_store, rules, store
from spotplane_server.nodes.bells import Bells
from spotplane_server.nodes.operations_store import Operation
from spotplane_server.nodes.store import Silent

log = structlog.get_logger(__name__)


class SilenceJob:
    """Moves nodes that are silent, each in a transaction of its own."""

    name = "node-silence"
    period = timedelta(seconds=10)
    singleton = True

    def __init__(self, db: Database, work: Bells) -> None:
        self._db = db
        self._work = work

    async def run_once(self, now: datetime) -> int:
        """Move whom silence moves; answer how many nodes moved."""
        before = now - rules.SUSPECT_AFTER
        async with self._db.connection(ALL_TENANTS) as conn:
            silent = await store.list_silent(conn, before=before)
            abandoned = await store.list_abandoned(conn, before=before)
        moved = 0
        for found in silent:
            moved += await self._move(found, now)
        for node_id in abandoned:
            async with self._db.transaction(ALL_TENANTS) as conn:
                node = await store.lock(conn, node_id)
                if node is not None and node.status == "terminating":
                    await lifecycle.bury(conn, node, "its agent is silent", now)
                    moved += 1
        return moved

    async def _move(self, silent: Silent, now: datetime) -> bool:
        silence = now - silent.heard_at
        after = rules.after_silence(silent.status, silence)
        if after == silent.status:
            return False
        why = f"silent for {int(silence.total_seconds())} s"
        async with self._db.transaction(ALL_TENANTS) as conn:
            node = await store.lock(conn, silent.id)
            if node is None or node.status != silent.status:
                return False
            if after == "dead":
                await lifecycle.end(conn, node, why, now, gone=True)
            elif await store.move_silent(conn, silent, to=after, why=why, now=now):
                await events.tell_health(conn, node, after, why, now)
            else:
                return False
        self._work.ring(node.provider)
        return True


class OverdueJob:
    """Ends operations whose deadline has passed."""

    name = "node-operations"
    period = timedelta(seconds=15)
    singleton = True

    def __init__(self, db: Database, work: Bells) -> None:
        self._db = db
        self._work = work

    async def run_once(self, now: datetime) -> int:
        """Give up what is overdue; answer how many operations that were."""
        async with self._db.connection(ALL_TENANTS) as conn:
            overdue = await operations_store.list_overdue(conn, now)
        done = 0
        for found in overdue:
            try:
                done += await retry_on_serialization_failure(partial(self._give_up, found, now))
            except PERMANENT_ERRORS:
                log.exception("node_operation_defect", operation_id=str(found.id))
        return done

    async def _give_up(self, overdue: Operation, now: datetime) -> bool:
        async with self._db.transaction(ALL_TENANTS) as conn:
            done = await operations.give_up(conn, overdue, now)
        self._work.ring(overdue.provider)
        return done


class FiguresJob:
    """Counts nodes for the metrics of this process."""

    name = "node-figures"
    period = timedelta(seconds=15)
    singleton = False

    def __init__(self, db: Database) -> None:
        self._db = db

    async def run_once(self, now: datetime) -> int:
        """Count; nothing is done that would be worth a line in the log."""
        async with self._db.connection(ALL_TENANTS) as conn:
            counts = await store.count_by_status(conn)
        metrics.NODES.clear()
        for provider, status, count in counts:
            metrics.NODES.labels(provider, status).set(count)
        return 0
