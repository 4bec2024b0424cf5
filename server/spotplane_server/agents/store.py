"""The agents table: identity, configuration, generation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from spotplane_server.agents.queries import NEVER
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

INSERT_AGENT: Final = """
    INSERT INTO agents (tenant_id, id, logical_agent_id, hostname, agent_version, status,
                        created_at, updated_at, auto_switch_enabled, auto_terminate_enabled,
                        terminate_wait_seconds, min_savings_percent, risk_threshold,
                        max_switches_per_week, max_switches_per_day, min_pool_duration_hours)
    SELECT $1, $2, $3, $4, $5, 'online', $6, $6, coalesce(f.auto_switch_enabled, true),
           coalesce(f.auto_terminate_enabled, true), coalesce(f.terminate_wait_seconds, 300),
           coalesce(f.min_savings_percent, 15), coalesce(f.risk_threshold, 0.3),
           coalesce(f.max_switches_per_week, 10), coalesce(f.max_switches_per_day, 3),
           coalesce(f.min_pool_duration_hours, 2)
      FROM (SELECT $1::uuid AS tenant_id) t
      LEFT JOIN fleet_settings f ON f.tenant_id = t.tenant_id
    ON CONFLICT (tenant_id, logical_agent_id) WHERE deleted_at IS NULL DO NOTHING
    RETURNING id
"""

LOCK_BY_LOGICAL_ID: Final = """
    SELECT id
      FROM agents
     WHERE tenant_id = $1 AND logical_agent_id = $2 AND deleted_at IS NULL
       FOR UPDATE
"""

HAS_LOGICAL_ID: Final = """
    SELECT EXISTS (SELECT FROM agents
                    WHERE tenant_id = $1 AND logical_agent_id = $2 AND deleted_at IS NULL)
"""

# Whose an instance is that would register under its own name, and does not under another's.
FIND_OWNER: Final = """
    SELECT a.id
      FROM instances i
      JOIN agents a ON a.tenant_id = i.tenant_id AND a.id = i.agent_id
     WHERE i.tenant_id = $1 AND i.id = $2 AND a.deleted_at IS NULL AND a.logical_agent_id <> $2
       AND NOT EXISTS (SELECT
                         FROM agents o
                        WHERE o.tenant_id = $1 AND o.logical_agent_id = $2
                          AND o.deleted_at IS NULL)
"""

LOCK_AGENT: Final = """
    SELECT tenant_id, id, logical_agent_id, status, enabled, auto_switch_enabled,
           auto_terminate_enabled, terminate_wait_seconds, manual_replica_enabled,
           min_savings_percent, risk_threshold, max_switches_per_week, max_switches_per_day,
           min_pool_duration_hours, replica_enabled, replica_count
      FROM agents a
     WHERE a.id = $1
       AND (a.deleted_at IS NULL
            OR (a.deleted_at > $2
                AND EXISTS (SELECT FROM replicas r
                             WHERE r.tenant_id = a.tenant_id AND r.agent_id = a.id
                               AND r.bound AND NOT r.termination_confirmed
                               AND r.status <> 'promoted')))
       FOR UPDATE
"""

LOCK_ANY: Final = "SELECT id FROM agents WHERE tenant_id = $1 AND id = $2 FOR UPDATE"

# Of administrators' calls there may be one in each tenant.
FIND_NAMED: Final = """
    SELECT id FROM agents WHERE logical_agent_id = $1 AND deleted_at IS NULL LIMIT 2
"""

FIND_TENANT: Final = "SELECT tenant_id FROM agents WHERE id = $1"

TOUCH_AGENT: Final = """
    UPDATE agents
       SET hostname = coalesce($3, hostname),
           agent_version = coalesce($4, agent_version),
           cloud_account = coalesce($6, cloud_account),
           project_id = coalesce($7, project_id),
           registered_at = $5,
           updated_at = $5
     WHERE tenant_id = $1 AND id = $2
"""

SET_TOKEN: Final = """
    WITH old AS (SELECT token_hash FROM agents WHERE tenant_id = $1 AND id = $2)
    UPDATE agents SET token_hash = $3
     WHERE tenant_id = $1 AND id = $2
    RETURNING (SELECT token_hash IS NOT NULL FROM old)
"""

SET_STATUS: Final = """
    UPDATE agents
       SET status = CASE WHEN $3 = 'online' AND NOT enabled THEN 'disabled' ELSE $3 END,
           updated_at = $4
     WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL
       AND status <> CASE WHEN $3 = 'online' AND NOT enabled THEN 'disabled' ELSE $3 END
    RETURNING status
"""

# Its switch is on its way. A disabled agent, which only emergencies reach, stays disabled.
START_SWITCHING: Final = """
    UPDATE agents
       SET status = 'switching', updated_at = $3
     WHERE tenant_id = $1 AND id = $2 AND status = 'online'
"""

END_SWITCHING: Final = """
    UPDATE agents
       SET status = CASE WHEN enabled THEN 'online' ELSE 'disabled' END, updated_at = $3
     WHERE tenant_id = $1 AND id = $2 AND status = 'switching'
       AND NOT EXISTS (SELECT FROM agent_commands
                        WHERE tenant_id = $1 AND agent_id = $2 AND type = 'switch'
                          AND status IN ('leased', 'executing'))
"""

SET_OFFLINE_IF_PRIMARY: Final = """
    UPDATE agents a
       SET status = 'offline', updated_at = $4
     WHERE a.tenant_id = $1 AND a.id = $2 AND a.deleted_at IS NULL AND a.status <> 'offline'
       AND EXISTS (SELECT FROM instances i
                    WHERE i.tenant_id = $1 AND i.agent_id = $2 AND i.id = $3
                      AND i.status = 'running_primary')
"""

RAISE_GENERATION: Final = """
    UPDATE agents
       SET generation = generation + 1, grace_until = coalesce($3, grace_until), updated_at = $4
     WHERE tenant_id = $1 AND id = $2
    RETURNING generation
"""

UPDATE_CONFIG: Final = """
    UPDATE agents
       SET enabled = $3, auto_switch_enabled = $4, auto_terminate_enabled = $5,
           terminate_wait_seconds = $6, manual_replica_enabled = $7, min_savings_percent = $8,
           risk_threshold = $9, max_switches_per_week = $10, max_switches_per_day = $11,
           min_pool_duration_hours = $12, replica_enabled = $14, replica_count = $15,
           status = CASE WHEN status = 'online' AND NOT $3 THEN 'disabled'
                         WHEN status IN ('switching', 'error') AND NOT $3 THEN 'disabled'
                         WHEN status = 'disabled' AND $3 THEN 'online' ELSE status END,
           config_version = config_version + 1, generation = generation + 1, updated_at = $13
     WHERE tenant_id = $1 AND id = $2
"""

DELETE_AGENT: Final = """
    UPDATE agents
       SET status = 'deleted', deleted_at = $3, updated_at = $3, token_hash = NULL, enabled = false,
           auto_switch_enabled = false, manual_replica_enabled = false, replica_enabled = false,
           deleted_reason = $4, superseded_by = $5, generation = generation + 1
     WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL
"""

_IDENTITY: Final = ("tenant_id", "id", "logical_agent_id", "status")


@dataclass(frozen=True, slots=True)
class Named:
    """What an agent tells of itself; None where it told nothing."""

    hostname: str | None = None
    version: str | None = None
    cloud_account: str | None = None
    project_id: str | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """What an operator may change of an agent."""

    enabled: bool
    auto_switch_enabled: bool
    auto_terminate_enabled: bool
    terminate_wait_seconds: int
    manual_replica_enabled: bool
    min_savings_percent: Decimal
    risk_threshold: Decimal
    max_switches_per_week: int
    max_switches_per_day: int
    min_pool_duration_hours: int
    replica_enabled: bool
    replica_count: int


@dataclass(frozen=True, slots=True)
class Locked:
    """An agent whose row this transaction holds."""

    tenant_id: TenantId
    id: UUID
    logical_agent_id: str
    status: str
    config: Config


async def lock_or_insert(
    conn: Conn,
    tenant_id: TenantId,
    new_id: UUID,
    logical_id: str,
    *,
    hostname: str | None,
    version: str | None,
    now: datetime,
) -> tuple[UUID, bool]:
    """Hold the agent of a logical id, creating it when there is none; whether it is new."""
    while True:
        known = await conn.fetchval(LOCK_BY_LOGICAL_ID, tenant_id, logical_id)
        if known is not None:
            return known, False
        made = await conn.fetchval(
            INSERT_AGENT, tenant_id, new_id, logical_id, hostname, version, now
        )
        if made is not None:
            return made, True


async def exists(conn: Conn, tenant_id: TenantId, logical_id: str) -> bool:
    """Whether an agent that is not deleted has this name."""
    found: bool = await conn.fetchval(HAS_LOGICAL_ID, tenant_id, logical_id)
    return found


async def find_owner(conn: Conn, tenant_id: TenantId, instance_id: str) -> UUID | None:
    """The agent of an instance that has no agent of its own name, None when there is none."""
    owner: UUID | None = await conn.fetchval(FIND_OWNER, tenant_id, instance_id)
    return owner


async def lock(conn: Conn, agent_id: UUID, *, deleted_since: datetime = NEVER) -> Locked | None:
    """Hold an agent within the connection's scope.

    One that was deleted only if that is not longer ago than ``deleted_since`` and it has replicas
    whose end nobody has confirmed; by default none that was.
    """
    row = await conn.fetchrow(LOCK_AGENT, agent_id, deleted_since)
    if row is None:
        return None
    columns: dict[str, Any] = dict(row)
    identity = {name: columns.pop(name) for name in _IDENTITY}
    return Locked(**identity, config=Config(**columns))


async def lock_any(conn: Conn, tenant_id: TenantId, agent_id: UUID) -> bool:
    """Hold an agent, even a deleted one; False when there is none."""
    return await conn.fetchval(LOCK_ANY, tenant_id, agent_id) is not None


async def find_named(conn: Conn, logical_id: str) -> list[UUID]:
    """Agents of this name within the connection's scope, at most two."""
    return [row["id"] for row in await conn.fetch(FIND_NAMED, logical_id)]


async def tenant_of(conn: Conn, agent_id: UUID) -> TenantId | None:
    """Whose an agent is, even a deleted one, within the connection's scope."""
    found: TenantId | None = await conn.fetchval(FIND_TENANT, agent_id)
    return found


async def touch(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    *,
    said: Named,
    now: datetime,
) -> None:
    """Overwrite what an agent tells of itself, where it was told, as its primary registers."""
    await conn.execute(
        TOUCH_AGENT,
        tenant_id,
        agent_id,
        said.hostname,
        said.version,
        now,
        said.cloud_account,
        said.project_id,
    )


async def set_token(conn: Conn, tenant_id: TenantId, agent_id: UUID, token_hash: bytes) -> bool:
    """Give an agent a credential; whether one died by it."""
    had: bool = await conn.fetchval(SET_TOKEN, tenant_id, agent_id, token_hash)
    return had


async def set_status(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, status: str, now: datetime
) -> str | None:
    """Move an agent's state; a disabled one becomes `disabled` instead of `online`.

    Returns:
        The new state, None when it was that already.
    """
    moved: str | None = await conn.fetchval(SET_STATUS, tenant_id, agent_id, status, now)
    return moved


async def start_switching(conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime) -> None:
    """Show that an agent carries out a switch."""
    await conn.execute(START_SWITCHING, tenant_id, agent_id, now)


async def end_switching(conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime) -> None:
    """Show that an agent carries out no switch any more, unless it does."""
    await conn.execute(END_SWITCHING, tenant_id, agent_id, now)


async def set_offline_if_primary(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, instance_id: str, now: datetime
) -> bool:
    """Take an agent offline when it is its serving instance that left; whether it was not yet."""
    done = await conn.execute(SET_OFFLINE_IF_PRIMARY, tenant_id, agent_id, instance_id, now)
    return bool(done == "UPDATE 1")


async def raise_generation(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    *,
    now: datetime,
    grace: timedelta | None = None,
) -> int:
    """Say that the desired state of the agent's instances has changed."""
    until = now + grace if grace else None
    generation: int = await conn.fetchval(RAISE_GENERATION, tenant_id, agent_id, until, now)
    return generation


async def update_config(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, config: Config, now: datetime
) -> None:
    """Replace the configuration, raising its version and the generation by one."""
    await conn.execute(
        UPDATE_CONFIG,
        tenant_id,
        agent_id,
        config.enabled,
        config.auto_switch_enabled,
        config.auto_terminate_enabled,
        config.terminate_wait_seconds,
        config.manual_replica_enabled,
        config.min_savings_percent,
        config.risk_threshold,
        config.max_switches_per_week,
        config.max_switches_per_day,
        config.min_pool_duration_hours,
        now,
        config.replica_enabled,
        config.replica_count,
    )


async def delete(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    now: datetime,
    *,
    reason: str = "deleted",
    superseded_by: UUID | None = None,
) -> None:
    """Delete an agent softly; its credential dies with it."""
    await conn.execute(DELETE_AGENT, tenant_id, agent_id, now, reason, superseded_by)
