"""Agents whose replicas may be named: those that live, and deleted ones that leave some running."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.agents import errors as agent_errors
from spotplane_server.agents import store as agents
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

FIND_REACHABLE: Final = """
    SELECT a.tenant_id
      FROM agents a
     WHERE a.id = $1
       AND (a.deleted_at IS NULL
            OR (a.deleted_at > $2
                AND EXISTS (SELECT
                              FROM replicas r
                             WHERE r.tenant_id = a.tenant_id AND r.agent_id = a.id
                               AND r.status <> 'promoted'
                               AND NOT r.termination_confirmed)))
"""

# So long after its deletion an agent may still see to what it launched.
LINGERS: Final = timedelta(hours=24)


async def find(conn: Conn, agent_id: UUID, now: datetime) -> TenantId:
    """Whose agent it is, within the connection's scope.

    Raises:
        AgentNotFound: There is none, or nothing of it is left to see to.
    """
    tenant_id: TenantId | None = await conn.fetchval(FIND_REACHABLE, agent_id, now - LINGERS)
    if tenant_id is None:
        raise agent_errors.AgentNotFound
    return tenant_id


async def lock(conn: Conn, agent_id: UUID, now: datetime) -> TenantId:
    """As `find`, holding the agent's row.

    Raises:
        AgentNotFound: As `find`.
    """
    tenant_id = await find(conn, agent_id, now)
    if not await agents.lock_any(conn, tenant_id, agent_id):
        raise agent_errors.AgentNotFound
    return tenant_id
