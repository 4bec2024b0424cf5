"""Standbys of engines that hedge: asked for while they are worth their price, and let go.

An agent gets one only while an engine that hedges decides for it and automatic switching is on.
Replicas that somebody else asked for are left to whom they belong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias
from uuid import UUID

from spotplane_server.agents import primary as primary_module
from spotplane_server.agents import store as agents
from spotplane_server.decisions import candidates
from spotplane_server.decisions.recording import Ruling
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.replicas import store as replicas
from spotplane_server.replicas.lifecycle import Replicas
from spotplane_server.replicas.store import Placement, Replica

CREATED_BY: Final = "engine"
NANO: Final = 1_000_000_000
BATCH: Final = 200

Step: TypeAlias = Literal["request", "end"]

# What an engine asked for, of agents for which none that hedges decides any more.
LIST_LEFT: Final = """
    SELECT r.tenant_id, r.id, r.agent_id
      FROM replicas r
      JOIN agents a ON a.tenant_id = r.tenant_id AND a.id = r.agent_id
     WHERE r.status IN ('launching', 'syncing', 'ready') AND r.created_by = 'engine'
       AND (NOT $1 OR NOT a.auto_switch_enabled)
       AND NOT EXISTS (SELECT FROM failovers f
                        WHERE f.tenant_id = a.tenant_id AND f.agent_id = a.id
                          AND f.status IN ('detected', 'handling'))
     LIMIT $2
"""


@dataclass(frozen=True, slots=True)
class Left:
    """A standby that nobody wants any more."""

    tenant_id: TenantId
    id: UUID
    agent_id: UUID


def plan(ruling: Ruling) -> Step | None:
    """What a ruling of an engine that hedges means for the agent's standby.

    A standby elsewhere is let go first; the next run asks for the new one. On demand nothing can
    stand by: agents launch replicas as spot only.
    """
    subject, wanted = ruling.view.subject, ruling.judged.decision.standby
    if ruling.judged.active_fallback or ruling.outcome == "executed":
        return None
    if subject.standby_pool_id is None:
        return "request" if wanted not in {None, candidates.ON_DEMAND} else None
    if subject.standby_created_by == CREATED_BY and subject.standby_pool_id != wanted:
        return "end"
    return None


async def apply(
    conn: Conn, lifecycle: Replicas, ruling: Ruling, step: Step, now: datetime
) -> Instance | None:
    """Ask for the standby, or let it go; the primary to wake, None when something has changed."""
    subject = ruling.view.subject
    locked = await agents.lock(conn, subject.agent_id)
    primary = await instances.find_primary(conn, subject.tenant_id, subject.agent_id)
    if locked is None or primary is None or primary.id != subject.instance_id:
        return None
    if not (locked.config.enabled and locked.config.auto_switch_enabled):
        return None
    live = await replicas.find_live(conn, subject.tenant_id, subject.agent_id)
    if step == "end":
        if live is None or live.created_by != CREATED_BY:
            return None
        await lifecycle.end(conn, live, now)
    elif live is not None:
        return None
    else:
        await lifecycle.request(conn, primary, _place(ruling), now)
    return primary


async def promote_if_standing(
    conn: Conn, lifecycle: Replicas, ruling: Ruling, *, consent: bool, now: datetime
) -> bool:
    """Let a standby that is ready where the switch leads take over at once; whether one did."""
    subject, decision = ruling.view.subject, ruling.judged.decision
    if decision.target_mode != "spot" or decision.target_pool_id != subject.standby_pool_id:
        return False
    live = await replicas.find_live(conn, subject.tenant_id, subject.agent_id)
    if live is None or not _stands(live, decision.target_pool_id):
        return False
    reason = primary_module.Reason(trigger="AUTOMATIC", consent=consent)
    await lifecycle.promote(conn, live, cause="switch", now=now, reason=reason)
    return True


async def list_left(conn: Conn, *, hedging: bool) -> Sequence[Left]:
    """Standbys that nobody wants any more; all of engines' own when none that hedges decides."""
    return [Left(**row) for row in await conn.fetch(LIST_LEFT, hedging, BATCH)]


async def end_left(conn: Conn, lifecycle: Replicas, left: Left, now: datetime) -> Instance | None:
    """Let one go; the primary to wake."""
    await agents.lock(conn, left.agent_id)
    replica = await replicas.lock(conn, left.tenant_id, left.agent_id, left.id)
    if replica is not None:
        await lifecycle.end(conn, replica, now)
    return await instances.find_primary(conn, left.tenant_id, left.agent_id)


def _stands(replica: Replica, pool_id: str | None) -> bool:
    return replica.created_by == CREATED_BY and (replica.status, replica.pool_id) == (
        "ready",
        pool_id,
    )


def _place(ruling: Ruling) -> Placement:
    snapshot = ruling.view.snapshot
    wanted = ruling.judged.decision.standby
    pool = next(pool for pool in snapshot.pools if pool.id == wanted)
    return Placement(
        type="manual",
        pool_id=pool.id,
        instance_type=snapshot.instance_type,
        region=snapshot.region,
        az=pool.az,
        created_by=CREATED_BY,
        hourly_cost_nanousd=None if pool.price is None else round(pool.price * NANO),
    )
