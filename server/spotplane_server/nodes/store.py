"""Rows of nodes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.db import Conn
from spotplane_server.nodes.rules import Status

FIND_NODE: Final = """
    SELECT id, cluster_name, tenant_id, status, health_score, termination_at, launched_at
      FROM nodes
     WHERE id = $1
"""

LOCK_NODE: Final = """
    SELECT id, cluster_name, tenant_id, status, health_score, termination_at, launched_at
      FROM nodes
     WHERE id = $1
       FOR UPDATE
"""

LOCK_NODE_BY_NAME: Final = """
    SELECT id, cluster_name, tenant_id, status, health_score, termination_at, launched_at
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
    RETURNING id, cluster_name, tenant_id, status, health_score, termination_at, launched_at
"""

# What it does not say stays. A dead one begins anew.
UPDATE_NODE: Final = """
    UPDATE nodes
       SET tenant_id = coalesce(tenant_id, $2),
           provider = $3,
           region_id = coalesce($4, region_id),
           instance_type_id = coalesce($5, instance_type_id),
           model_id = coalesce($6, model_id),
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
    RETURNING id, cluster_name, tenant_id, status, health_score, termination_at, launched_at
"""

MOVE_NODE: Final = """
    UPDATE nodes
       SET status = $3,
           status_message = $4,
           active_at = CASE WHEN $3 = 'active' THEN coalesce(active_at, $5) ELSE active_at END,
           terminated_at = CASE WHEN $3 = 'dead' THEN $5 ELSE terminated_at END,
           updated_at = $5
     WHERE id = $1 AND status = $2
"""

# A region whose deletion is held off, for a node that is made known; types and models likewise.
HOLD_TYPE: Final = """
    SELECT id
      FROM instance_types
     WHERE provider = $1 AND instance_type = $2 AND deleted_at IS NULL
       FOR KEY SHARE
"""

HOLD_MODEL: Final = """
    SELECT id
      FROM models
     WHERE name = $1 AND deleted_at IS NULL
       FOR KEY SHARE
"""


@dataclass(frozen=True, slots=True)
class Known:
    """What decides about a node."""

    id: UUID
    cluster_name: str
    tenant_id: TenantId | None
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


async def hold_model(conn: Conn, name: str) -> UUID | None:
    """Find a model and keep its deletion away until the transaction ends."""
    found: UUID | None = await conn.fetchval(HOLD_MODEL, name)
    return found


def _found(row: Any) -> Known | None:
    return Known(**row) if row is not None else None
