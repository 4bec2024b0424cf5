"""Nodes as people read them: registered and launched ones, and the instances of the fleet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn

# Both halves show the same columns. An instance has no id of its own that is unique over tenants,
# so one is made of what is; where the catalogue lacks its region, its cloud is the one that agents
# launch in.
LIST_NODES: Final = """
    SELECT id, cluster_name, tenant_id, kind, provider, region, instance_type, model, endpoint_url,
           internal_ip, gpu_type, vram_total_gb, spot_instance, spot_price, status, health_score,
           last_heartbeat_at, termination_at, launched_at, active_at, terminated_at,
           status_message, created_at
      FROM nodes_and_instances
     WHERE status = ANY($1::text[])
       AND ($2::text IS NULL OR provider = $2)
       AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4::uuid))
     ORDER BY created_at DESC, id DESC
     LIMIT $5
"""

COUNT_NODES: Final = """
    SELECT count(*)
      FROM nodes_and_instances
     WHERE status = ANY($1::text[]) AND ($2::text IS NULL OR provider = $2)
"""

# Two tenants may have an instance of one id; the newest is shown.
FIND_BY_NAME: Final = """
    SELECT id, cluster_name, tenant_id, kind, provider, region, instance_type, model, endpoint_url,
           internal_ip, gpu_type, vram_total_gb, spot_instance, spot_price, status, health_score,
           last_heartbeat_at, termination_at, launched_at, active_at, terminated_at,
           status_message, created_at
      FROM nodes_and_instances
     WHERE cluster_name = $1
     ORDER BY kind DESC, created_at DESC, id
     LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Listed:
    """A node as it is shown; ``kind`` is ``node`` or ``instance``."""

    id: UUID
    cluster_name: str
    tenant_id: UUID | None
    kind: str
    provider: str
    region: str | None
    instance_type: str | None
    model: str | None
    endpoint_url: str
    internal_ip: str | None
    gpu_type: str | None
    vram_total_gb: Decimal | None
    spot_instance: bool
    spot_price: Decimal | None
    status: str
    health_score: Decimal
    last_heartbeat_at: datetime | None
    termination_at: datetime | None
    launched_at: datetime | None
    active_at: datetime | None
    terminated_at: datetime | None
    status_message: str | None
    created_at: datetime


async def list_nodes(
    conn: Conn, page: Page, *, statuses: Sequence[str], provider: str | None
) -> Slice[Listed]:
    """A page of nodes, newest first, one too many when more follow."""
    rows = await conn.fetch(LIST_NODES, statuses, provider, *page.after_instant(), page.limit + 1)
    total = await conn.fetchval(COUNT_NODES, statuses, provider)
    return Slice([Listed(**row) for row in rows], total)


async def find_by_name(conn: Conn, cluster_name: str) -> Listed | None:
    """Read a node by its name."""
    row: Any = await conn.fetchrow(FIND_BY_NAME, cluster_name)
    return Listed(**row) if row is not None else None


def key(node: Listed) -> Sequence[Any]:
    """Where a node stands in its list."""
    return (node.created_at, node.id)
