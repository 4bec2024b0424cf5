"""What deleted agents have left running, of which nobody says that it ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.events import Event
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# Once an agent, and only those that others have not taken over meanwhile.
TELL_LEFTOVERS: Final = """
    WITH gone AS (
        UPDATE agents
           SET leftovers_told_at = $2
         WHERE deleted_at <= $1 AND leftovers_told_at IS NULL
        RETURNING tenant_id, id, logical_agent_id)
    SELECT g.tenant_id, g.id AS agent_id, g.logical_agent_id, i.id AS instance_id, i.instance_type,
           i.region, i.az
      FROM gone g
      JOIN instances i ON i.tenant_id = g.tenant_id AND i.agent_id = g.id
     WHERE i.status <> 'terminated'
     ORDER BY g.id, i.id
"""


@dataclass(frozen=True, slots=True)
class Leftover:
    """An instance that probably still runs, and costs."""

    tenant_id: TenantId
    agent_id: UUID
    logical_agent_id: str
    instance_id: str
    instance_type: str
    region: str
    az: str


async def tell(conn: Conn, *, before: datetime, now: datetime) -> list[Leftover]:
    """What agents deleted before an instant left; each agent is answered once."""
    return [Leftover(**row) for row in await conn.fetch(TELL_LEFTOVERS, before, now)]


def event(found: Leftover) -> Event:
    """What is said of it."""
    return Event(
        "instance.termination_failed",
        str(found.agent_id),
        {
            "agent_id": str(found.agent_id),
            "agent_name": found.logical_agent_id,
            "instance_id": found.instance_id,
            "instance_type": found.instance_type,
            "region": found.region,
            "az": found.az,
            "severity": "error",
            "message": "its agent was deleted a day ago, and nobody has confirmed that it ended",
        },
        found.tenant_id,
    )
