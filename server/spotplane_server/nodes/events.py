"""What is told of nodes: events, and audit rows of what callers did."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from spotplane_server import audit, events
from spotplane_server.kernel import request_context
from spotplane_server.kernel.db.database import Conn
from spotplane_server.nodes import rules
from spotplane_server.nodes.rules import Status
from spotplane_server.nodes.store import Known

Happening = Literal[
    "launched",
    "registered",
    "health_changed",
    "health_degraded",
    "draining",
    "termination_warning",
    "terminated",
]


async def tell(conn: Conn, node: Known, happening: Happening, now: datetime, **data: Any) -> None:
    """Write an event ``node.…`` in the transaction of its cause."""
    body = {"node_id": str(node.id), "cluster_name": node.cluster_name, **data}
    event = events.Event(f"node.{happening}", str(node.id), body, node.tenant_id)
    await events.append(conn, event, now)


async def tell_health(
    conn: Conn, node: Known, after: Status, reason: str, now: datetime, **data: Any
) -> None:
    """Say which way a node's health moved it: one event, by whether it became worse."""
    worse = rules.worse(node.status, after)
    await tell(
        conn,
        node,
        "health_degraded" if worse else "health_changed",
        now,
        previous_status=node.status,
        status=after,
        reason=reason,
        **data,
    )


async def record(
    conn: Conn,
    node: Known,
    verb: str,
    now: datetime,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Write the audit row of what the current call did to a node."""
    change = audit.Change(
        f"node.{verb}", "node", str(node.id), node.tenant_id, before=before, after=after
    )
    await audit.record(conn, request_context.current(), change, now)


async def record_move(conn: Conn, node: Known, verb: str, after: Status, now: datetime) -> None:
    """Write the audit row of a call that moved a node."""
    await record(conn, node, verb, now, before={"status": node.status}, after={"status": after})
