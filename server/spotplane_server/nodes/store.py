"""Rows of nodes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.nodes import rules
from spotplane_server.nodes.rules import Status

FIND_NODE: Final = """
    SELECT id, cluster_name, tenant_id, provider, status, health_score, termination_at, launched_at
      FROM nodes
     WHERE id = $1
"""

LOCK_NODE: Final = """
    SELECT id, cluster_name, tenant_id, provider, status, health_score, termination_at, launched_at
      FROM nodes
     WHERE id = $1
       FOR UPDATE
"""

LOCK_NODE_BY_NAME: Final = """
    SELECT id, cluster_name, tenant_id, provider, status, health_score, termination_at, launched_at
      FROM nodes
     WHERE cluster_name = $1
       FOR UPDATE
"""

INSERT_NODE: Final = """
    INSERT INTO nodes (id, cluster_name, tenant_id, provider, region_id, instance_type_id, model_id,
                       endpoint_url, internal_ip, gpu_type, vram_total_gb, spot_instance,
                       spot_price, status, health_score, last_heartbeat_at, active_at, created_at,
                       updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, coalesce($12, false), $13, $14, $15, $16,
            CASE WHEN $14 = 'active' THEN $16::timestamptz END, $16, $16)
    ON CONFLICT (cluster_name) DO NOTHING
    RETURNING id, cluster_name, tenant_id, provider, status, health_score, termination_at,
              launched_at
"""

# What it does not say stays. A dead one begins anew: what it kept of the catalogue may be deleted.
UPDATE_NODE: Final = """
    UPDATE nodes
       SET tenant_id = coalesce(tenant_id, $2),
           provider = $3,
           region_id = coalesce($4, CASE WHEN status <> 'dead' THEN region_id END),
           instance_type_id = coalesce($5, CASE WHEN status <> 'dead' THEN instance_type_id END),
           model_id = coalesce($6, CASE WHEN status <> 'dead' THEN model_id END),
           endpoint_url = $7,
           internal_ip = coalesce($8, internal_ip),
           gpu_type = coalesce($9, gpu_type),
           vram_total_gb = coalesce($10, vram_total_gb),
           spot_instance = coalesce($11, spot_instance),
           spot_price = coalesce($12, spot_price),
           status = $13,
           health_score = $14,
           last_heartbeat_at = $15,
           heartbeat_sent_at = NULL,
           termination_at = CASE WHEN $13 IN ('draining', 'terminating') THEN termination_at END,
           active_at = CASE WHEN $13 = 'active' THEN coalesce(active_at, $15) ELSE active_at END,
           terminated_at = NULL,
           status_message = CASE WHEN $13 = 'terminating' THEN status_message END,
           updated_at = $15
     WHERE id = $1
"""

# The one statement of most heartbeats: it touches no index and goes by the key. A heartbeat that
# another has overtaken changes nothing.
HEAR_NODE: Final = """
    UPDATE nodes
       SET health_score = $2,
           last_heartbeat_at = $3,
           heartbeat_sent_at = coalesce($4, heartbeat_sent_at)
     WHERE id = $1
       AND status <> 'dead'
       AND ($4::timestamptz IS NULL OR heartbeat_sent_at IS NULL OR heartbeat_sent_at <= $4)
    RETURNING id, cluster_name, tenant_id, provider, status, health_score, termination_at,
              launched_at
"""

MOVE_NODE: Final = """
    UPDATE nodes
       SET status = $3,
           status_message = coalesce(
               $4, CASE WHEN $3 IN ('terminating', 'dead') THEN status_message END),
           active_at = CASE WHEN $3 = 'active' THEN coalesce(active_at, $5) ELSE active_at END,
           terminated_at = CASE WHEN $3 = 'dead' THEN $5 ELSE terminated_at END,
           updated_at = $5
     WHERE id = $1 AND status = $2
"""

INSERT_LAUNCH: Final = """
    INSERT INTO nodes (id, cluster_name, tenant_id, provider, region_id, instance_type_id, model_id,
                       gpu_type, vram_total_gb, spot_instance, status, launched_at, created_at,
                       updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'launching', $11, $11, $11)
    RETURNING id, cluster_name, tenant_id, provider, status, health_score, termination_at,
              launched_at
"""

WARN_NODE: Final = """
    UPDATE nodes
       SET status = 'draining', termination_at = $2, status_message = $3, updated_at = $4
     WHERE id = $1
"""

# What was silent when it was looked at may have spoken since.
MOVE_SILENT: Final = """
    UPDATE nodes
       SET status = $3, status_message = $4, updated_at = $5
     WHERE id = $1 AND status = $2 AND last_heartbeat_at IS NOT DISTINCT FROM $6
"""

# While no server took heartbeats down, silence means nothing; and while none does, neither.
LIST_SILENT: Final = """
    SELECT n.id, n.status, n.last_heartbeat_at,
           greatest(n.last_heartbeat_at, h.since) AS heard_at
      FROM nodes n
     CROSS JOIN heartbeat_collection h
     WHERE n.status = ANY($1::text[])
       AND greatest(n.last_heartbeat_at, h.since) < $2
       AND h.seen_at > now() - interval '10 seconds'
     ORDER BY n.last_heartbeat_at
     LIMIT 500
"""

# Ordered to end, without a machine of ours, and silent: nobody will say more of them.
LIST_ABANDONED: Final = """
    SELECT n.id
      FROM nodes n
     CROSS JOIN heartbeat_collection h
     WHERE n.status = 'terminating'
       AND greatest(n.last_heartbeat_at, h.since) < $1
       AND h.seen_at > now() - interval '10 seconds'
       AND NOT EXISTS (SELECT FROM node_operations o
                        WHERE o.node_id = n.id AND o.kind = 'terminate')
     LIMIT 500
"""

COUNT_BY_STATUS: Final = "SELECT provider, status, count(*) FROM nodes GROUP BY 1, 2"

# A region whose deletion is held off, for a node that is made known; types and models likewise.
HOLD_TYPE: Final = """
    SELECT id
      FROM instance_types
     WHERE provider = $1 AND instance_type = $2 AND deleted_at IS NULL
       FOR KEY SHARE
"""

HOLD_MODEL: Final = """
    SELECT id, name, vram_required_gb
      FROM models
     WHERE (name = $1 OR id = $2) AND deleted_at IS NULL
       FOR KEY SHARE
"""


@dataclass(frozen=True, slots=True)
class Known:
    """What decides about a node."""

    id: UUID
    cluster_name: str
    tenant_id: TenantId | None
    provider: str
    status: Status
    health_score: Decimal
    termination_at: datetime | None
    launched_at: datetime | None


@dataclass(frozen=True, slots=True)
class Told:
    """What a node says of itself; None where it says nothing."""

    provider: str
    region_id: UUID | None
    instance_type_id: int | None
    model_id: UUID | None
    endpoint_url: str
    internal_ip: str | None
    gpu_type: str | None
    vram_total_gb: Decimal | None
    spot_instance: bool | None
    spot_price: Decimal | None


@dataclass(frozen=True, slots=True)
class HeldModel:
    """A model that is not deleted until the transaction ends."""

    id: UUID
    name: str
    vram_required_gb: int


@dataclass(frozen=True, slots=True)
class Silent:
    """A node that has not been heard for some time; ``heard_at`` is from when it counts."""

    id: UUID
    status: Status
    last_heartbeat_at: datetime | None
    heard_at: datetime


async def find(conn: Conn, node_id: UUID) -> Known | None:
    """Read a node of the connection's scope."""
    return _found(await conn.fetchrow(FIND_NODE, node_id))


async def lock(conn: Conn, node_id: UUID) -> Known | None:
    """Hold a node of the connection's scope."""
    return _found(await conn.fetchrow(LOCK_NODE, node_id))


async def lock_by_name(conn: Conn, cluster_name: str) -> Known | None:
    """Hold a node of the connection's scope by its name."""
    return _found(await conn.fetchrow(LOCK_NODE_BY_NAME, cluster_name))


async def insert(
    conn: Conn,
    node_id: UUID,
    cluster_name: str,
    tenant_id: TenantId | None,
    told: Told,
    *,
    status: Status,
    score: int,
    now: datetime,
) -> Known | None:
    """Store a new node that has just been heard; None when the name is taken."""
    row = await conn.fetchrow(
        INSERT_NODE,
        node_id,
        cluster_name,
        tenant_id,
        told.provider,
        told.region_id,
        told.instance_type_id,
        told.model_id,
        told.endpoint_url,
        told.internal_ip,
        told.gpu_type,
        told.vram_total_gb,
        told.spot_instance,
        told.spot_price,
        status,
        score,
        now,
    )
    return _found(row)


async def update(
    conn: Conn,
    node_id: UUID,
    tenant_id: TenantId | None,
    told: Told,
    *,
    status: Status,
    score: int,
    now: datetime,
) -> None:
    """Store what a held node says of itself anew; it has just been heard."""
    await conn.execute(
        UPDATE_NODE,
        node_id,
        tenant_id,
        told.provider,
        told.region_id,
        told.instance_type_id,
        told.model_id,
        told.endpoint_url,
        told.internal_ip,
        told.gpu_type,
        told.vram_total_gb,
        told.spot_instance,
        told.spot_price,
        status,
        score,
        now,
    )


async def hear(
    conn: Conn, node_id: UUID, score: Decimal, *, sent_at: datetime | None, now: datetime
) -> Known | None:
    """Take a heartbeat down; None when there is no live node or another has overtaken it."""
    return _found(await conn.fetchrow(HEAR_NODE, node_id, score, now, sent_at))


async def move(
    conn: Conn, node_id: UUID, *, frm: Status, to: Status, why: str | None, now: datetime
) -> bool:
    """Move a node from one state to another; False when it was not in it."""
    done = await conn.execute(MOVE_NODE, node_id, frm, to, why, now)
    return bool(done == "UPDATE 1")


async def hold_type(conn: Conn, provider: str, name: str) -> int | None:
    """Find an instance type and keep its deletion away until the transaction ends."""
    found: int | None = await conn.fetchval(HOLD_TYPE, provider, name)
    return found


async def hold_model(conn: Conn, name: str, model_id: UUID | None = None) -> HeldModel | None:
    """Find a model by name or id and keep its deletion away until the transaction ends."""
    row = await conn.fetchrow(HOLD_MODEL, name, model_id)
    return HeldModel(**row) if row is not None else None


async def insert_launch(
    conn: Conn,
    node_id: UUID,
    cluster_name: str,
    tenant_id: TenantId | None,
    *,
    provider: str,
    region_id: UUID,
    instance_type_id: int,
    model_id: UUID,
    gpu_type: str,
    vram_total_gb: Decimal,
    spot: bool,
    now: datetime,
) -> Known:
    """Store a node that is to be launched; its name is new."""
    row: Any = await conn.fetchrow(
        INSERT_LAUNCH,
        node_id,
        cluster_name,
        tenant_id,
        provider,
        region_id,
        instance_type_id,
        model_id,
        gpu_type,
        vram_total_gb,
        spot,
        now,
    )
    return Known(**row)


async def warn(conn: Conn, node_id: UUID, at: datetime, why: str | None, now: datetime) -> None:
    """Let a held node drain until its cloud takes it back."""
    await conn.execute(WARN_NODE, node_id, at, why, now)


async def move_silent(conn: Conn, silent: Silent, *, to: Status, why: str, now: datetime) -> bool:
    """Move a node for its silence; False when it has spoken or was moved."""
    done = await conn.execute(
        MOVE_SILENT, silent.id, silent.status, to, why, now, silent.last_heartbeat_at
    )
    return bool(done == "UPDATE 1")


async def list_silent(conn: Conn, *, before: datetime) -> list[Silent]:
    """Nodes that should speak and were last heard before an instant, at most 500."""
    rows = await conn.fetch(LIST_SILENT, list(rules.HEARD), before)
    return [Silent(**row) for row in rows]


async def list_abandoned(conn: Conn, *, before: datetime) -> list[UUID]:
    """Nodes to be ended that came by themselves and were last heard before an instant."""
    return [row["id"] for row in await conn.fetch(LIST_ABANDONED, before)]


async def count_by_status(conn: Conn) -> list[tuple[str, str, int]]:
    """How many nodes there are by provider and state."""
    rows = await conn.fetch(COUNT_BY_STATUS)
    return [(row["provider"], row["status"], row["count"]) for row in rows]


def _found(row: Any) -> Known | None:
    return Known(**row) if row is not None else None
