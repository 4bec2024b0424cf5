"""Reading switches; `store` writes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

LIST_SWITCHES: Final = """
    SELECT id, agent_id, command_id, old_instance_id, new_instance_id, old_mode, new_mode,
           old_pool_id, new_pool_id, old_az, new_az, trigger, cause, success, error_message,
           old_price_nanousd, new_price_nanousd, savings_impact_nanousd, downtime_seconds,
           duration_seconds, initiated_at, created_at
      FROM switches
     WHERE tenant_id = $1
       AND ($2::text IS NULL OR new_instance_id = $2 OR old_instance_id = $2)
       AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4))
     ORDER BY created_at DESC, id DESC
     LIMIT $5 OFFSET $6
"""

COUNT_SWITCHES: Final = """
    SELECT count(*)
      FROM switches
     WHERE tenant_id = $1
       AND ($2::text IS NULL OR new_instance_id = $2 OR old_instance_id = $2)
"""


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch; see the table for what the members mean."""

    id: UUID
    agent_id: UUID
    command_id: UUID | None
    old_instance_id: str | None
    new_instance_id: str | None
    old_mode: str | None
    new_mode: str | None
    old_pool_id: str | None
    new_pool_id: str | None
    old_az: str | None
    new_az: str | None
    trigger: str
    cause: str
    success: bool
    error_message: str | None
    old_price_nanousd: int | None
    new_price_nanousd: int | None
    savings_impact_nanousd: int
    downtime_seconds: int
    duration_seconds: int | None
    initiated_at: datetime
    created_at: datetime


async def list_switches(
    conn: Conn, tenant_id: TenantId, *, instance_id: str | None, page: Page
) -> Slice[Switch]:
    """A tenant's switches, or those to and from one instance, newest first."""
    rows = await _fetch(conn, tenant_id, instance_id, page)
    total = await conn.fetchval(COUNT_SWITCHES, tenant_id, instance_id)
    return Slice(rows, total)


async def next_switches(
    conn: Conn, tenant_id: TenantId, after: Switch | None, *, limit: int
) -> list[Switch]:
    """The switches that follow one in the order of lists; the first ones after None."""
    key = [after.created_at.isoformat(), str(after.id)] if after else None
    return await _fetch(conn, tenant_id, None, Page(limit - 1, 0, key, ""))


async def _fetch(
    conn: Conn, tenant_id: TenantId, instance_id: str | None, page: Page
) -> list[Switch]:
    at, last = page.after_instant()
    rows = await conn.fetch(
        LIST_SWITCHES, tenant_id, instance_id, at, last, page.limit + 1, page.offset
    )
    return [Switch(**row) for row in rows]
