"""How nodes leave: they drain, their cloud takes them, they are ended, they are gone.

Every function works on a node that the caller holds, and writes its event, its audit row and its
log in the caller's transaction. One that has no more to do changes nothing and says so.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

from spotplane_server.kernel.db.database import Conn
from spotplane_server.nodes import events, logs_store, operations_store, rules, store
from spotplane_server.nodes.operations_store import Operation
from spotplane_server.nodes.rules import Status
from spotplane_server.nodes.store import Known


async def drain(conn: Conn, node: Known, why: str | None, now: datetime) -> bool:
    """Take a node out of use; False when it is out of use already."""
    if node.status in ("draining", "terminating"):
        return False
    await store.move(conn, node.id, frm=node.status, to="draining", why=why, now=now)
    await events.record(conn, node, "drain", now, **_moved(node, "draining", reason=why))
    await events.tell(conn, node, "draining", now, previous_status=node.status, reason=why)
    await logs_store.write(conn, node.id, f"drains{_because(why)}", now)
    return True


async def warn(conn: Conn, node: Known, at: datetime, why: str | None, now: datetime) -> bool:
    """Keep when its cloud takes a node back; False when that is known or it is being ended."""
    if node.status == "terminating" or (node.status == "draining" and node.termination_at == at):
        return False
    await store.warn(conn, node.id, at, why, now)
    told = {"deadline": at.isoformat(), "reason": why}
    await events.record(conn, node, "termination_warning", now, **_moved(node, "draining", **told))
    await events.tell(conn, node, "termination_warning", now, previous_status=node.status, **told)
    text = f"its cloud takes it back at {at:%H:%M:%S} UTC{_because(why)}"
    await logs_store.write(conn, node.id, text, now, level="warning")
    return True


async def end(conn: Conn, node: Known, why: str, now: datetime, *, gone: bool) -> Status:
    """End a node that is held.

    A machine that the plane may have launched is ended by an operation, and the node is dead when
    that is done. Whatever else there is of it is its operator's: such a node is dead once its agent
    is gone.

    Args:
        conn: A transaction that holds the node.
        node: Not dead.
        why: For people.
        now: The time.
        gone: Whether its agent is known to be gone.

    Returns:
        ``terminating`` or ``dead``.
    """
    launch = await operations_store.lock_launch(conn, node.id)
    if launch is not None and launch.is_open:
        await operations_store.finish(conn, launch, "cancelled", error=why, now=now)
    if launch is not None and launch.attempt > 0:
        await _clean_up(conn, launch, now)
        return await _leave(conn, node, why, now)
    if gone or launch is not None:
        await bury(conn, node, why, now)
        return "dead"
    return await _leave(conn, node, why, now)


async def bury(conn: Conn, node: Known, why: str, now: datetime) -> None:
    """Make a held node dead."""
    await store.move(conn, node.id, frm=node.status, to="dead", why=why, now=now)
    await events.tell(
        conn, node, "terminated", now, previous_status=node.status, status="dead", reason=why
    )
    await logs_store.write(conn, node.id, f"has ended: {why}", now)


async def _leave(conn: Conn, node: Known, why: str, now: datetime) -> Status:
    if node.status == "terminating":
        return node.status
    await store.move(conn, node.id, frm=node.status, to="terminating", why=why, now=now)
    if node.status not in ("draining", "launching"):
        await events.tell(
            conn,
            node,
            "draining",
            now,
            previous_status=node.status,
            status="terminating",
            reason=why,
        )
    await logs_store.write(conn, node.id, f"is being ended: {why}", now)
    return "terminating"


async def _clean_up(conn: Conn, launch: Operation, now: datetime) -> None:
    """Order the end of what a launch that was begun may have made.

    Its holder may still be asking the cloud for a machine that nobody knows yet; so the search for
    it begins after its lease and the longest call, or once the holder has let go.
    """
    available_at = now
    if launch.is_open and launch.machine_id is None and launch.leased_until is not None:
        available_at = launch.leased_until + rules.CALL_WITHIN
    await operations_store.insert(
        conn,
        uuid4(),
        launch.node_id,
        "terminate",
        provider=launch.provider,
        launch_id=launch.id,
        spec=launch.spec,
        machine_id=launch.machine_id,
        available_at=max(now, available_at),
        deadline_at=now + rules.TERMINATE_WITHIN,
        now=now,
    )


def _moved(node: Known, after: Status, **more: Any) -> dict[str, dict[str, Any]]:
    return {"before": {"status": node.status}, "after": {"status": after, **more}}


def _because(why: str | None) -> str:
    return f": {why}" if why else ""
