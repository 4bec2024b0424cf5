"""Commands for agents that poll: who asks, what waits for it, and the lease."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.agents.commands.store import Command
from spotplane_server.agents.queries import CONNECTED_WITHIN
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# One look for a poll that finds nothing, which most do. `streams`: its primary holds a stream, by
# which it gets its commands. `elsewhere`: the caller's address is that of an instance of the agent
# that does not serve, and not the primary's.
LOAD_POLL: Final = """
    SELECT a.tenant_id, a.id AS agent_id, a.logical_agent_id, a.enabled, a.auto_switch_enabled,
           a.auto_terminate_enabled, a.manual_replica_enabled, a.replicas_polled_at,
           a.registered_at, p.id AS primary_instance_id, p.instance_type, p.az,
           named.status AS named_status,
           coalesce(s.epoch > 0 AND s.disconnected_at IS NULL AND s.streamed_at > $4, false)
               AS streams,
           coalesce(EXISTS (SELECT FROM instances o
                             WHERE o.tenant_id = a.tenant_id AND o.agent_id = a.id
                               AND o.status <> 'running_primary'
                               AND $3 IN (o.private_ip, o.public_ip))
                    AND $3 IS DISTINCT FROM p.private_ip AND $3 IS DISTINCT FROM p.public_ip, false)
               AS elsewhere,
           EXISTS (SELECT FROM instances o
                    WHERE o.tenant_id = a.tenant_id AND o.agent_id = a.id
                      AND o.status = 'launching')
               AS candidates,
           EXISTS (SELECT FROM agent_commands c
                    WHERE c.tenant_id = a.tenant_id AND c.agent_id = a.id AND c.status = 'pending')
               AS waiting
      FROM agents a
      LEFT JOIN instances p
        ON p.tenant_id = a.tenant_id AND p.agent_id = a.id AND p.status = 'running_primary'
      LEFT JOIN agent_sessions s ON s.tenant_id = p.tenant_id AND s.instance_id = p.id
      LEFT JOIN instances named
        ON named.tenant_id = a.tenant_id AND named.agent_id = a.id AND named.id = $2
     WHERE a.id = $1 AND a.deleted_at IS NULL
"""

# One at a time, most urgent first. Without a name of the instance that asks, and while another one
# might be the one that the command was for, it is not sent a second time.
LEASE_ONE: Final = """
    WITH due AS (
        SELECT c.tenant_id, c.id
          FROM agent_commands c
          JOIN agents a ON a.tenant_id = c.tenant_id AND a.id = c.agent_id
          JOIN instances i
            ON i.tenant_id = c.tenant_id AND i.id = c.instance_id AND i.agent_id = c.agent_id
           AND i.status = 'running_primary'
         WHERE c.tenant_id = $1
           AND c.agent_id = $2
           AND c.status = 'pending'
           AND c.expires_at > $3
           AND (c.not_before IS NULL OR c.not_before <= $3)
           AND c.type = ANY($4)
           AND ($5::text IS NULL OR c.instance_id = $5)
           AND (NOT $6 OR c.delivery_count = 0)
           AND (a.enabled OR c.priority = 100)
         ORDER BY c.priority DESC, c.created_at
         LIMIT 1
           FOR UPDATE OF c SKIP LOCKED),
    leased AS (
        UPDATE agent_commands c
           SET status = 'leased', session_id = NULL, leased_at = $3, dialect = $7,
               leased_until = $3 + CASE WHEN c.priority = 100 THEN $9::interval
                                        ELSE $8::interval + CASE
                   WHEN c.type = 'switch'
                        AND jsonb_typeof(c.parameters -> 'terminate_wait_seconds') = 'number'
                   THEN interval '1 second' * least(86400, greatest(0,
                            (c.parameters ->> 'terminate_wait_seconds')::float8))
                   ELSE interval '0' END END,
               delivery_count = c.delivery_count + 1
          FROM due
         WHERE c.tenant_id = due.tenant_id AND c.id = due.id
        RETURNING c.tenant_id, c.id, c.agent_id, c.instance_id, c.request_id, c.type, c.name,
                  c.parameters, c.priority, c.trigger, c.created_by, c.status, c.delivery_count,
                  c.success, c.message, c.result, c.created_at, c.leased_at, c.received_at,
                  c.started_at, c.done_at, c.expires_at, c.dialect),
    told AS (
        INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at, detail)
        SELECT tenant_id, id, 'leased', $3, 'polled, delivery ' || delivery_count FROM leased)
    SELECT tenant_id, id, agent_id, instance_id, request_id, type, name, parameters, priority,
           trigger, created_by, status, delivery_count, success, message, result, created_at,
           leased_at, received_at, started_at, done_at, expires_at, dialect
      FROM leased
"""

# An emergency does not wait for the end of a lease whose holder has started anew.
RETURN_EMERGENCIES: Final = """
    WITH back AS (
        UPDATE agent_commands
           SET status = 'pending', leased_until = NULL
         WHERE tenant_id = $1 AND instance_id = $2 AND status IN ('leased', 'executing')
           AND priority = 100 AND session_id IS NULL AND delivery_count < 3 AND expires_at > $3
        RETURNING tenant_id, id)
    INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at, detail)
    SELECT tenant_id, id, 'returned', $3, 'the instance registered again' FROM back
"""

FIND_PLACEHOLDER: Final = "SELECT instance_id FROM replicas WHERE tenant_id = $1 AND id = $2"


@dataclass(frozen=True, slots=True)
class Poll:
    """Who polls, as far as the agent's row and its instances tell."""

    tenant_id: TenantId
    agent_id: UUID
    logical_agent_id: str
    enabled: bool
    auto_switch_enabled: bool
    auto_terminate_enabled: bool
    manual_replica_enabled: bool
    replicas_polled_at: datetime | None
    registered_at: datetime | None
    primary_instance_id: str | None
    instance_type: str | None
    az: str | None
    named_status: str | None
    streams: bool
    elsewhere: bool
    candidates: bool
    waiting: bool


async def load(
    conn: Conn, agent_id: UUID, *, instance_id: str | None, address: str | None, now: datetime
) -> Poll | None:
    """Look at who polls; None when there is no such agent in the connection's scope."""
    row = await conn.fetchrow(LOAD_POLL, agent_id, instance_id, address, now - CONNECTED_WITHIN)
    return Poll(**row) if row else None


async def lease_one(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    *,
    types: Sequence[str],
    instance_id: str | None,
    first_only: bool,
    dialect: str,
    leases: tuple[timedelta, timedelta],
    now: datetime,
) -> Command | None:
    """Lease the most urgent command that waits, None when none does.

    Args:
        conn: In a transaction that holds the agent's row.
        tenant_id: Whose agent it is.
        agent_id: The agent.
        types: What may be delivered.
        instance_id: Only what is bound to this instance; None for whatever the primary's is.
        first_only: Only what was never delivered before.
        dialect: In which it is delivered.
        leases: How long, besides the wait of a switch: of ordinary commands, and of emergencies.
        now: When.
    """
    row = await conn.fetchrow(
        LEASE_ONE,
        tenant_id,
        agent_id,
        now,
        list(types),
        instance_id,
        first_only,
        dialect,
        *leases,
    )
    return Command(**row) if row else None


async def return_emergencies(
    conn: Conn, tenant_id: TenantId, instance_id: str, now: datetime
) -> None:
    """Have emergencies that an instance had polled before it started anew delivered again."""
    await conn.execute(RETURN_EMERGENCIES, tenant_id, instance_id, now)


async def placeholder(conn: Conn, tenant_id: TenantId, replica_id: UUID) -> str | None:
    """What stands for a replica's instance until there is one."""
    found: str | None = await conn.fetchval(FIND_PLACEHOLDER, tenant_id, replica_id)
    return found
