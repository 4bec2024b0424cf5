"""What becomes of an agent's replicas when the agent goes, or another takes its place."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.replicas import store
from spotplane_server.replicas.lifecycle import Replicas

# A live one only while the heir has none: there is one live replica an agent.
INHERIT_REPLICAS: Final = """
    UPDATE replicas r
       SET agent_id = $3, updated_at = $4
     WHERE r.tenant_id = $1 AND r.agent_id = $2
       AND (r.status NOT IN ('launching', 'syncing', 'ready')
            OR NOT EXISTS (SELECT FROM replicas o
                            WHERE o.tenant_id = $1 AND o.agent_id = $3
                              AND o.status IN ('launching', 'syncing', 'ready')))
"""


class Handover:
    """Ends replicas, or hands them on, in the transaction of what happens to their agent.

    Args:
        replicas: What may be done with replicas.
    """

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    async def end_all(self, conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime) -> None:
        """Mark the live replica of an agent that is being deleted for its end."""
        live = await store.find_live(conn, tenant_id, agent_id)
        if live is not None:
            await self._replicas.end(conn, live, now)

    async def inherit(
        self, conn: Conn, tenant_id: TenantId, older: UUID, younger: UUID, now: datetime
    ) -> None:
        """Hand an agent's replicas to the one that takes its place."""
        await conn.execute(INHERIT_REPLICAS, tenant_id, older, younger, now)
