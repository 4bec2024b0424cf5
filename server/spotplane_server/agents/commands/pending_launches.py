"""Launches under way: who an instance that appears meanwhile may be."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.agents.sessions import store
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# A command that somebody carries out, or a replica that somebody is to launch.
HAS_LAUNCHES: Final = """
    SELECT EXISTS (SELECT FROM agent_commands
                    WHERE tenant_id = $1 AND agent_id = $2 AND type IN ('switch', 'create_replica')
                      AND status IN ('leased', 'executing'))
        OR EXISTS (SELECT FROM replicas
                    WHERE tenant_id = $1 AND agent_id = $2 AND status = 'launching')
"""


async def launches(conn: Conn, tenant_id: TenantId, agent_id: UUID) -> bool:
    """Whether an unknown instance is likely the outcome of a launch, and no move."""
    found: bool = await conn.fetchval(HAS_LAUNCHES, tenant_id, agent_id)
    return found


async def may_serve(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, *, silent_since: datetime
) -> bool:
    """Whether a candidate may take over: nothing is launched any more, and the primary silent."""
    if await launches(conn, tenant_id, agent_id):
        return False
    return await store.primary_silent(conn, tenant_id, agent_id, since=silent_since)
