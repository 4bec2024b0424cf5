"""Ends of commands that nobody reports: leases, expiry, and orders that lost their sense."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.agents.commands.store import Command, Waiting
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# Agents with anything to tidy up, found by the index of open commands; the rest costs nothing.
LIST_DUE: Final = """
    SELECT DISTINCT c.tenant_id, c.agent_id
      FROM agent_commands c
      JOIN agents a ON a.tenant_id = c.tenant_id AND a.id = c.agent_id
      JOIN instances i ON i.tenant_id = c.tenant_id AND i.id = c.instance_id
     WHERE c.status IN ('pending', 'leased', 'executing')
       AND ((c.status = 'pending'
             AND (c.expires_at <= $1 OR a.deleted_at IS NOT NULL
                  OR (NOT a.enabled AND c.priority < 100) OR i.status <> 'running_primary'))
            OR (c.status <> 'pending' AND c.leased_until <= $1))
     LIMIT 10000
"""

FIND_OLDEST: Final = """
    SELECT min(created_at)
      FROM agent_commands
     WHERE status IN ('pending', 'leased', 'executing')
"""

# Leases that ran out go back to be sent again, a bounded number of times; the rest expires.
RETURN_LEASES: Final = """
    WITH back AS (
        UPDATE agent_commands
           SET status = 'pending', session_id = NULL, leased_until = NULL
         WHERE tenant_id = $1 AND agent_id = $2
           AND status IN ('leased', 'executing') AND leased_until <= $3 AND expires_at > $3
           AND delivery_count < CASE WHEN priority = 100 THEN 3 ELSE 2 END
        RETURNING tenant_id, id, instance_id),
    told AS (
        INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at, detail)
        SELECT tenant_id, id, 'returned', $3, 'the lease ended without a result' FROM back)
    SELECT DISTINCT tenant_id, instance_id FROM back
"""

EXPIRE_COMMANDS: Final = """
    WITH gone AS (
        UPDATE agent_commands
           SET status = 'expired', done_at = $3, leased_until = NULL
         WHERE tenant_id = $1 AND agent_id = $2
           AND ((status = 'pending' AND expires_at <= $3)
                OR (status IN ('leased', 'executing') AND leased_until <= $3))
        RETURNING tenant_id, id, agent_id, instance_id, request_id, type, name, parameters,
                  priority, trigger, created_by, status, delivery_count, success, message, result,
                  created_at, leased_at, received_at, started_at, done_at, expires_at, dialect),
    told AS (
        INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at)
        SELECT tenant_id, id, 'expired', $3 FROM gone)
    SELECT tenant_id, id, agent_id, instance_id, request_id, type, name, parameters, priority,
           trigger, created_by, status, delivery_count, success, message, result, created_at,
           leased_at, received_at, started_at, done_at, expires_at, dialect
      FROM gone
"""

# What waits for an agent that is gone or disabled, for an instance that serves no more, or leads
# to a pool that is not there any more. A disabled agent still gets emergencies.
CANCEL_SENSELESS: Final = """
    WITH gone AS (
        UPDATE agent_commands c
           SET status = 'cancelled', done_at = $3, leased_until = NULL
          FROM agents a, instances i
         WHERE c.tenant_id = $1 AND c.agent_id = $2 AND c.status = 'pending'
           AND a.tenant_id = c.tenant_id AND a.id = c.agent_id
           AND i.tenant_id = c.tenant_id AND i.id = c.instance_id
           AND (a.deleted_at IS NOT NULL
                OR (NOT a.enabled AND c.priority < 100)
                OR i.status <> 'running_primary'
                OR (c.type = 'switch' AND c.parameters ->> 'target_pool_id' IS NOT NULL
                    AND NOT EXISTS (SELECT FROM pools p
                                     WHERE p.id = c.parameters ->> 'target_pool_id'
                                       AND p.region = i.region AND p.price_nanousd IS NOT NULL)))
        RETURNING c.tenant_id, c.id, c.agent_id, c.instance_id, c.request_id, c.type, c.name,
                  c.parameters, c.priority, c.trigger, c.created_by, c.status, c.delivery_count,
                  c.success, c.message, c.result, c.created_at, c.leased_at, c.received_at,
                  c.started_at, c.done_at, c.expires_at, c.dialect),
    told AS (
        INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at, detail)
        SELECT tenant_id, id, 'cancelled', $3, 'it has lost its sense' FROM gone)
    SELECT tenant_id, id, agent_id, instance_id, request_id, type, name, parameters, priority,
           trigger, created_by, status, delivery_count, success, message, result, created_at,
           leased_at, received_at, started_at, done_at, expires_at, dialect
      FROM gone
"""


@dataclass(frozen=True, slots=True)
class Due:
    """An agent with commands to tidy up."""

    tenant_id: TenantId
    agent_id: UUID


async def list_due(conn: Conn, now: datetime) -> list[Due]:
    """Agents of which some command's time is over or sense is lost."""
    return [Due(**row) for row in await conn.fetch(LIST_DUE, now)]


async def find_oldest(conn: Conn) -> datetime | None:
    """When the oldest command that is not done was issued; None when all are."""
    found: datetime | None = await conn.fetchval(FIND_OLDEST)
    return found


async def return_leases(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime
) -> list[Waiting]:
    """Give back leases that ran out; the instances that have something to fetch again."""
    rows = await conn.fetch(RETURN_LEASES, tenant_id, agent_id, now)
    return [Waiting(**row) for row in rows]


async def expire(conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime) -> list[Command]:
    """End what is beyond its time."""
    rows = await conn.fetch(EXPIRE_COMMANDS, tenant_id, agent_id, now)
    return [Command(**row) for row in rows]


async def cancel_senseless(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime
) -> list[Command]:
    """Cancel what waits and could not be carried out as it was meant any more."""
    rows = await conn.fetch(CANCEL_SENSELESS, tenant_id, agent_id, now)
    return [Command(**row) for row in rows]
