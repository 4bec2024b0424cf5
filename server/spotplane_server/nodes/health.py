"""How a node's health moves it: heartbeats, and their absence."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from spotplane_server.kernel.db.database import ALL_TENANTS, Database, Scope
from spotplane_server.nodes import events, launching, rules, store
from spotplane_server.nodes.errors import NodeNotFound
from spotplane_server.nodes.requests import Beat


async def hear(db: Database, scope: Scope, node_id: UUID, beat: Beat, now: datetime) -> bool:
    """Take a heartbeat down, and move the node if its score asks for it.

    Most heartbeats are one narrow UPDATE. Only one that moves its node needs a transaction, and the
    state decided upon is checked there: whoever was faster has decided already. What was proven to
    be in the scope is written in the scope of all, because the launch is the operator's.

    Returns:
        Whether the node or its launch moved.

    Raises:
        NodeNotFound: There is no such node in the scope, or it is dead.
    """
    async with db.write(scope) as conn:
        node = await store.hear(conn, node_id, beat.score, sent_at=beat.sent_at, now=now)
        if node is None:
            node = await store.find(conn, node_id)
            if node is None:
                raise NodeNotFound
            if node.status == "dead":
                raise NodeNotFound("the node is dead", suggestion="register it again")
            return False  # overtaken by a later one
    score = float(beat.score)
    after = rules.after_heartbeat(node.status, score)
    if after == node.status and not (after == "initializing" and node.launched_at is not None):
        return False
    async with db.transaction(ALL_TENANTS) as conn:
        if after != node.status:
            if not await store.move(conn, node_id, frm=node.status, to=after, why=None, now=now):
                return False
            await events.tell_health(conn, node, after, "heartbeat", now, health_score=score)
        stage = "health_check" if after == "initializing" else rules.launch_stage(after)
        await launching.advance(conn, node, stage, now)
    return True
