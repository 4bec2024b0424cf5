"""Finding tenants, instances and agents by a part of their names."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn

FIND_TENANTS: Final = """
    SELECT id, name, email, status, created_at,
           CASE WHEN strpos(lower(name), lower($1)) > 0 THEN 'name'
                WHEN strpos(lower(email), lower($1)) > 0 THEN 'email'
                ELSE 'id' END AS match_field
      FROM tenants
     WHERE deleted_at IS NULL
       AND (strpos(lower(name), lower($1)) > 0 OR strpos(lower(email), lower($1)) > 0
            OR strpos(id::text, lower($1)) > 0)
     ORDER BY created_at DESC, id
     LIMIT $2
"""

FIND_INSTANCES: Final = """
    SELECT i.id, i.instance_type, i.az, i.region,
           CASE WHEN i.status IN ('zombie', 'terminating', 'terminated') THEN i.status
                ELSE 'running' END AS status,
           i.tenant_id, t.name AS tenant_name
      FROM instances i
      JOIN tenants t ON t.id = i.tenant_id AND t.deleted_at IS NULL
      JOIN agents a ON a.tenant_id = i.tenant_id AND a.id = i.agent_id
     WHERE strpos(lower(i.id), lower($1)) > 0 OR strpos(lower(i.instance_type), lower($1)) > 0
        OR strpos(lower(i.az), lower($1)) > 0 OR strpos(lower(a.logical_agent_id), lower($1)) > 0
     ORDER BY i.launched_at DESC, i.id DESC
     LIMIT $2
"""

FIND_AGENTS: Final = """
    SELECT a.id, a.logical_agent_id AS name, a.hostname,
           a.status IN ('online', 'switching') AS active, a.status,
           (SELECT max(s.last_heartbeat_at) FROM agent_sessions s
             WHERE s.tenant_id = a.tenant_id AND s.agent_id = a.id) AS last_heartbeat_at,
           i.id AS instance_id, a.tenant_id, t.name AS tenant_name
      FROM agents a
      JOIN tenants t ON t.id = a.tenant_id AND t.deleted_at IS NULL
      LEFT JOIN instances i ON i.tenant_id = a.tenant_id AND i.agent_id = a.id
                           AND i.status = 'running_primary'
     WHERE a.deleted_at IS NULL
       AND (strpos(lower(a.logical_agent_id), lower($1)) > 0
            OR strpos(lower(a.hostname), lower($1)) > 0 OR strpos(a.id::text, lower($1)) > 0
            OR strpos(lower(i.id), lower($1)) > 0)
     ORDER BY a.created_at DESC, a.id
     LIMIT $2
"""


@dataclass(frozen=True, slots=True)
class FoundTenant:
    """A tenant, and by what it was found."""

    id: UUID
    name: str
    email: str
    status: str
    created_at: datetime
    match_field: str


@dataclass(frozen=True, slots=True)
class FoundInstance:
    """An instance and whose it is."""

    id: str
    instance_type: str
    az: str
    region: str
    status: str
    tenant_id: UUID
    tenant_name: str


@dataclass(frozen=True, slots=True)
class FoundAgent:
    """An agent, its primary, and whose it is."""

    id: UUID
    name: str
    hostname: str | None
    active: bool
    status: str
    last_heartbeat_at: datetime | None
    instance_id: str | None
    tenant_id: UUID
    tenant_name: str


async def find_tenants(conn: Conn, text: str, *, limit: int) -> list[FoundTenant]:
    """Tenants by name, e-mail address or id, newest first."""
    return [FoundTenant(**row) for row in await conn.fetch(FIND_TENANTS, text, limit)]


async def find_instances(conn: Conn, text: str, *, limit: int) -> list[FoundInstance]:
    """Instances by id, type, zone or agent, newest first."""
    return [FoundInstance(**row) for row in await conn.fetch(FIND_INSTANCES, text, limit)]


async def find_agents(conn: Conn, text: str, *, limit: int) -> list[FoundAgent]:
    """Agents by name, host, id or primary, newest first."""
    return [FoundAgent(**row) for row in await conn.fetch(FIND_AGENTS, text, limit)]
