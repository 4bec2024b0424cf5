"""What a bulk operation has to know of an item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# Ids are the cloud's; the instance that can be ended is meant where two tenants have the same one.
LOCK_DOOMED: Final = """
    SELECT i.tenant_id, i.id, i.agent_id, i.status, i.terminate_consent,
           ((i.status = 'zombie' AND a.deleted_at IS NULL)
            OR EXISTS (SELECT FROM replicas r
                        WHERE r.tenant_id = i.tenant_id AND r.instance_id = i.id
                          AND r.bound AND r.status = 'terminated' AND NOT r.termination_confirmed)
           ) AS endable,
           a.deleted_at IS NOT NULL AS orphaned
      FROM instances i
      JOIN agents a ON a.tenant_id = i.tenant_id AND a.id = i.agent_id
     WHERE i.id = $1
     ORDER BY i.status IN ('zombie', 'terminating') DESC, i.launched_at DESC
     LIMIT 1
       FOR UPDATE OF i
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance that somebody wants ended; ``orphaned`` when its agent was deleted."""

    tenant_id: TenantId
    id: str
    agent_id: UUID
    status: str
    terminate_consent: bool
    endable: bool
    orphaned: bool


async def lock_doomed(conn: Conn, instance_id: str) -> Candidate | None:
    """Hold an instance, None when there is none."""
    row = await conn.fetchrow(LOCK_DOOMED, instance_id)
    return Candidate(**row) if row else None
