"""The ledger of commands: one row an order, one row a step of its story."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

INSERT_COMMAND: Final = """
    WITH issued AS (
        INSERT INTO agent_commands (tenant_id, id, agent_id, instance_id, request_id, type, name,
                                    parameters, priority, trigger, created_by, created_at,
                                    expires_at, not_before)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
        ON CONFLICT ON CONSTRAINT agent_commands_request_key DO NOTHING
        RETURNING tenant_id, id),
    told AS (
        INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at, detail)
        SELECT tenant_id, id, 'issued', $12, $11 FROM issued)
    SELECT id FROM issued
"""

# Of the primary, most urgent first. Only the newest session may lease, and a newer one waits for
# the lease before it takes over what is leased: hence the lock on the session's row.
CLAIM_COMMANDS: Final = """
    WITH due AS (
        SELECT c.tenant_id, c.id
          FROM agent_commands c
          JOIN agent_sessions s ON s.tenant_id = c.tenant_id AND s.instance_id = c.instance_id
          JOIN agents a ON a.tenant_id = c.tenant_id AND a.id = c.agent_id
          JOIN instances i
            ON i.tenant_id = c.tenant_id AND i.id = c.instance_id AND i.status = 'running_primary'
         WHERE c.tenant_id = $1
           AND c.instance_id = $2
           AND c.status = 'pending'
           AND c.expires_at > $5
           AND (c.not_before IS NULL OR c.not_before <= $5)
           AND s.session_id = $3
           AND (a.enabled OR c.priority = 100)
         ORDER BY c.priority DESC, c.created_at
         LIMIT $4
           FOR SHARE OF s
           FOR UPDATE OF c SKIP LOCKED),
    leased AS (
        UPDATE agent_commands c
           SET status = 'leased', session_id = $3, leased_at = $5, dialect = 'stream',
               leased_until = $5 + CASE WHEN c.priority = 100 THEN $7::interval
                                        ELSE $6::interval + CASE
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
        SELECT tenant_id, id, 'leased', $5, 'session ' || $3 || ', delivery ' || delivery_count
          FROM leased)
    SELECT tenant_id, id, agent_id, instance_id, request_id, type, name, parameters, priority,
           trigger, created_by, status, delivery_count, success, message, result, created_at,
           leased_at, received_at, started_at, done_at, expires_at, dialect
      FROM leased
     ORDER BY priority DESC, created_at
"""

# A new session takes over what its instance still works on, and gives the rest back to be sent
# again.
ADOPT_COMMANDS: Final = """
    UPDATE agent_commands
       SET session_id = $3
     WHERE tenant_id = $1 AND instance_id = $2 AND status IN ('leased', 'executing')
       AND id = ANY($4)
"""

RETURN_COMMANDS: Final = """
    WITH back AS (
        UPDATE agent_commands
           SET status = 'pending', session_id = NULL, leased_until = NULL
         WHERE tenant_id = $1 AND instance_id = $2 AND status IN ('leased', 'executing')
           AND id <> ALL($3)
        RETURNING tenant_id, id)
    INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at, detail)
    SELECT tenant_id, id, 'returned', $4, 'the instance reconnected without it' FROM back
"""

MARK_RECEIVED: Final = """
    WITH moved AS (
        UPDATE agent_commands
           SET received_at = $4
         WHERE tenant_id = $1 AND id = $2 AND agent_id = $3
           AND status = 'leased' AND received_at IS NULL
        RETURNING tenant_id, id, created_at),
    told AS (
        INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at)
        SELECT tenant_id, id, 'received', $4 FROM moved)
    SELECT created_at FROM moved
"""

MARK_STARTED: Final = """
    WITH moved AS (
        UPDATE agent_commands
           SET status = 'executing', started_at = coalesce(started_at, $4),
               received_at = coalesce(received_at, $4)
         WHERE tenant_id = $1 AND id = $2 AND agent_id = $3 AND status = 'leased'
        RETURNING tenant_id, id),
    told AS (
        INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at)
        SELECT tenant_id, id, 'started', $4 FROM moved)
    SELECT id FROM moved
"""

FINISH_COMMAND: Final = """
    WITH moved AS (
        UPDATE agent_commands
           SET status = CASE WHEN $4 THEN 'completed' ELSE 'failed' END, success = $4, message = $5,
               result = $6, done_at = $7, received_at = coalesce(received_at, $7),
               leased_until = NULL
         WHERE tenant_id = $1 AND id = $2 AND agent_id = $3
           AND status IN ('pending', 'leased', 'executing')
        RETURNING tenant_id, id, agent_id, instance_id, request_id, type, name, parameters,
                  priority, trigger, created_by, status, delivery_count, success, message, result,
                  created_at, leased_at, received_at, started_at, done_at, expires_at, dialect),
    told AS (
        INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at, detail)
        SELECT tenant_id, id, status, $7, nullif($5, '') FROM moved)
    SELECT tenant_id, id, agent_id, instance_id, request_id, type, name, parameters, priority,
           trigger, created_by, status, delivery_count, success, message, result, created_at,
           leased_at, received_at, started_at, done_at, expires_at, dialect
      FROM moved
"""

# What came too late is told once, not applied.
TELL_LATE_RESULT: Final = """
    INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at, detail)
    SELECT c.tenant_id, c.id, 'late_result', $4, $5
      FROM agent_commands c
     WHERE c.tenant_id = $1 AND c.id = $2 AND c.agent_id = $3
       AND c.status IN ('cancelled', 'expired')
       AND NOT EXISTS (SELECT FROM agent_command_events e
                        WHERE e.tenant_id = c.tenant_id AND e.command_id = c.id
                          AND e.kind = 'late_result')
"""

CANCEL_COMMANDS: Final = """
    WITH gone AS (
        UPDATE agent_commands
           SET status = 'cancelled', done_at = $5, leased_until = NULL
         WHERE tenant_id = $1 AND agent_id = $2 AND status = ANY($6)
           AND ($3::uuid IS NULL OR id = $3)
           AND ($4::text IS NULL OR instance_id = $4)
        RETURNING tenant_id, id, instance_id),
    told AS (
        INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at, detail)
        SELECT tenant_id, id, 'cancelled', $5, $7 FROM gone)
    SELECT id FROM gone
"""

CANCEL_AUTOMATIC: Final = """
    WITH gone AS (
        UPDATE agent_commands
           SET status = 'cancelled', done_at = $3
         WHERE tenant_id = $1 AND agent_id = $2 AND type = 'switch' AND status = 'pending'
           AND trigger = 'AUTOMATIC'
        RETURNING tenant_id, id)
    INSERT INTO agent_command_events (tenant_id, command_id, kind, occurred_at, detail)
    SELECT tenant_id, id, 'cancelled', $3, 'automatic switching was turned off' FROM gone
"""

OPEN: Final = ("pending", "leased", "executing")
TYPES: Final = (
    "switch",
    "create_replica",
    "terminate_replica",
    "promote_replica",
    "terminate",
    "update_config",
    "custom",
)
STATUSES: Final = (*OPEN, "completed", "failed", "cancelled", "expired")


@dataclass(frozen=True, slots=True)
class Order:
    """A command to be issued."""

    type: str
    name: str
    parameters: dict[str, Any]
    priority: int
    trigger: str
    created_by: str
    request_id: str | None  # None: its id
    expires_in: timedelta
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it stands."""

    tenant_id: TenantId
    id: UUID
    agent_id: UUID
    instance_id: str
    request_id: str
    type: str
    name: str
    parameters: dict[str, Any]
    priority: int
    trigger: str
    created_by: str
    status: str
    delivery_count: int
    success: bool | None
    message: str | None
    result: dict[str, Any] | None
    created_at: datetime
    leased_at: datetime | None
    received_at: datetime | None
    started_at: datetime | None
    done_at: datetime | None
    expires_at: datetime
    dialect: str | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """An instance with commands that nobody has leased."""

    tenant_id: TenantId
    instance_id: str


async def insert(
    conn: Conn,
    tenant_id: TenantId,
    command_id: UUID,
    agent_id: UUID,
    instance_id: str,
    order: Order,
    now: datetime,
) -> bool:
    """Put an order into the ledger; False when its request id is there already."""
    made = await conn.fetchval(
        INSERT_COMMAND,
        tenant_id,
        command_id,
        agent_id,
        instance_id,
        order.request_id or str(command_id),
        order.type,
        order.name,
        order.parameters,
        order.priority,
        order.trigger,
        order.created_by,
        now,
        (order.not_before or now) + order.expires_in,
        order.not_before,
    )
    return made is not None


async def claim(
    conn: Conn,
    tenant_id: TenantId,
    instance_id: str,
    session_id: UUID,
    *,
    limit: int,
    now: datetime,
    lease: timedelta,
    emergency_lease: timedelta,
) -> list[Command]:
    """Lease what waits for an instance to its newest session; empty for any other session."""
    rows = await conn.fetch(
        CLAIM_COMMANDS, tenant_id, instance_id, session_id, limit, now, lease, emergency_lease
    )
    return [Command(**row) for row in rows]


async def hand_over(
    conn: Conn,
    tenant_id: TenantId,
    instance_id: str,
    session_id: UUID,
    open_ids: Sequence[UUID],
    now: datetime,
) -> None:
    """Give a new session what its instance still works on, and the rest back to be sent again."""
    await conn.execute(ADOPT_COMMANDS, tenant_id, instance_id, session_id, list(open_ids))
    await conn.execute(RETURN_COMMANDS, tenant_id, instance_id, list(open_ids), now)


async def mark_received(
    conn: Conn, tenant_id: TenantId, command_id: UUID, agent_id: UUID, now: datetime
) -> datetime | None:
    """Note the agent's receipt; when the command was issued, None when that is known already."""
    issued: datetime | None = await conn.fetchval(
        MARK_RECEIVED, tenant_id, command_id, agent_id, now
    )
    return issued


async def mark_started(
    conn: Conn, tenant_id: TenantId, command_id: UUID, agent_id: UUID, now: datetime
) -> None:
    """Note that the handler runs."""
    await conn.execute(MARK_STARTED, tenant_id, command_id, agent_id, now)


async def finish(
    conn: Conn,
    tenant_id: TenantId,
    command_id: UUID,
    agent_id: UUID,
    *,
    success: bool,
    message: str,
    result: dict[str, Any],
    now: datetime,
) -> Command | None:
    """Make a command final with its first result; None when it was final already."""
    row = await conn.fetchrow(
        FINISH_COMMAND, tenant_id, command_id, agent_id, success, message, result, now
    )
    return Command(**row) if row else None


async def tell_late_result(
    conn: Conn, tenant_id: TenantId, command_id: UUID, agent_id: UUID, detail: str, now: datetime
) -> None:
    """Add the result of a cancelled or expired command to its story, once."""
    await conn.execute(TELL_LATE_RESULT, tenant_id, command_id, agent_id, now, detail)


async def cancel(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    *,
    reason: str,
    now: datetime,
    command_id: UUID | None = None,
    instance_id: str | None = None,
    statuses: Sequence[str] = OPEN,
) -> list[UUID]:
    """Cancel an agent's open commands, or one of them, or those bound to an instance."""
    rows = await conn.fetch(
        CANCEL_COMMANDS, tenant_id, agent_id, command_id, instance_id, now, list(statuses), reason
    )
    return [row["id"] for row in rows]


async def cancel_automatic(conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime) -> None:
    """Cancel an agent's automatic switch that nobody has fetched."""
    await conn.execute(CANCEL_AUTOMATIC, tenant_id, agent_id, now)
