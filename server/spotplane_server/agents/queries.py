"""Agents as they are seen: with their serving instance, its session, and what it is to be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# `connected`: its stream has not ended, and it was heard of lately (a server that died ends
# nothing).
GET_AGENT: Final = """
    SELECT a.tenant_id, a.id, a.logical_agent_id, a.hostname, a.agent_version, a.status, a.enabled,
           a.auto_switch_enabled, a.auto_terminate_enabled, a.terminate_wait_seconds,
           a.replica_enabled, a.replica_count, a.manual_replica_enabled, a.min_savings_percent,
           a.risk_threshold, a.max_switches_per_week, a.max_switches_per_day,
           a.min_pool_duration_hours, a.config_version, a.generation, a.created_at, a.updated_at,
           i.id AS instance_id, i.instance_type, i.region, i.az, i.mode, i.pool_id,
           s.last_heartbeat_at,
           coalesce(s.epoch > 0 AND s.disconnected_at IS NULL AND s.streamed_at > $2, false)
               AS connected
      FROM agents a
      LEFT JOIN instances i
        ON i.tenant_id = a.tenant_id AND i.agent_id = a.id AND i.status = 'running_primary'
      LEFT JOIN agent_sessions s ON s.tenant_id = i.tenant_id AND s.instance_id = i.id
     WHERE a.id = $1
       AND (a.deleted_at IS NULL
            OR (a.deleted_at > $3
                AND EXISTS (SELECT FROM replicas r
                             WHERE r.tenant_id = a.tenant_id AND r.agent_id = a.id
                               AND r.bound AND NOT r.termination_confirmed
                               AND r.status <> 'promoted')))
"""

LIST_AGENTS: Final = """
    SELECT a.tenant_id, a.id, a.logical_agent_id, a.hostname, a.agent_version, a.status, a.enabled,
           a.auto_switch_enabled, a.auto_terminate_enabled, a.terminate_wait_seconds,
           a.replica_enabled, a.replica_count, a.manual_replica_enabled, a.min_savings_percent,
           a.risk_threshold, a.max_switches_per_week, a.max_switches_per_day,
           a.min_pool_duration_hours, a.config_version, a.generation, a.created_at, a.updated_at,
           i.id AS instance_id, i.instance_type, i.region, i.az, i.mode, i.pool_id,
           s.last_heartbeat_at,
           coalesce(s.epoch > 0 AND s.disconnected_at IS NULL AND s.streamed_at > $8, false)
               AS connected
      FROM agents a
      LEFT JOIN instances i
        ON i.tenant_id = a.tenant_id AND i.agent_id = a.id AND i.status = 'running_primary'
      LEFT JOIN agent_sessions s ON s.tenant_id = i.tenant_id AND s.instance_id = i.id
     WHERE ($1::uuid IS NULL OR a.tenant_id = $1)
       AND a.status = ANY($2)
       AND ($3::text IS NULL OR strpos(lower(a.logical_agent_id), lower($3)) > 0
                             OR strpos(lower(a.hostname), lower($3)) > 0)
       AND ($4::timestamptz IS NULL OR (a.created_at, a.id) < ($4, $5))
     ORDER BY a.created_at DESC, a.id DESC
     LIMIT $6 OFFSET $7
"""

COUNT_AGENTS: Final = """
    SELECT count(*)
      FROM agents a
     WHERE ($1::uuid IS NULL OR a.tenant_id = $1)
       AND a.status = ANY($2)
       AND ($3::text IS NULL OR strpos(lower(a.logical_agent_id), lower($3)) > 0
                             OR strpos(lower(a.hostname), lower($3)) > 0)
"""

LOAD_DESIRED: Final = """
    SELECT a.generation, a.enabled, a.auto_switch_enabled, a.auto_terminate_enabled,
           a.terminate_wait_seconds, a.replica_enabled, a.replica_count, a.manual_replica_enabled,
           a.min_savings_percent, a.risk_threshold, a.max_switches_per_week,
           a.max_switches_per_day, a.min_pool_duration_hours, a.config_version, a.id AS agent_id,
           i.status AS instance_status, p.id AS primary_instance_id, r.id AS replica_id
      FROM agents a
      JOIN instances i ON i.tenant_id = a.tenant_id AND i.agent_id = a.id AND i.id = $3
      LEFT JOIN instances p
        ON p.tenant_id = a.tenant_id AND p.agent_id = a.id AND p.status = 'running_primary'
      LEFT JOIN replicas r
        ON r.tenant_id = a.tenant_id AND r.instance_id = i.id
       AND r.status IN ('launching', 'syncing', 'ready')
     WHERE a.tenant_id = $1 AND a.id = $2 AND a.deleted_at IS NULL
"""

CONNECTED_WITHIN: Final = timedelta(seconds=30)
# Nothing is deleted as late as this.
NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)
LIVE_STATUSES: Final = ("online", "offline", "disabled", "switching", "error")
STATUSES: Final = (*LIVE_STATUSES, "deleted")


@dataclass(frozen=True, slots=True)
class Desired:
    """What one instance is to be: the agent's configuration and the instance's place in it."""

    generation: int
    enabled: bool
    auto_switch_enabled: bool
    auto_terminate_enabled: bool
    terminate_wait_seconds: int
    replica_enabled: bool
    replica_count: int
    manual_replica_enabled: bool
    min_savings_percent: Decimal
    risk_threshold: Decimal
    max_switches_per_week: int
    max_switches_per_day: int
    min_pool_duration_hours: int
    config_version: int
    agent_id: UUID
    instance_status: str
    primary_instance_id: str | None
    replica_id: UUID | None


@dataclass(frozen=True, slots=True)
class AgentView:
    """An agent with its serving instance and that instance's session."""

    tenant_id: TenantId
    id: UUID
    logical_agent_id: str
    hostname: str | None
    agent_version: str | None
    status: str
    enabled: bool
    auto_switch_enabled: bool
    auto_terminate_enabled: bool
    terminate_wait_seconds: int
    replica_enabled: bool
    replica_count: int
    manual_replica_enabled: bool
    min_savings_percent: Decimal
    risk_threshold: Decimal
    max_switches_per_week: int
    max_switches_per_day: int
    min_pool_duration_hours: int
    config_version: int
    generation: int
    created_at: datetime
    updated_at: datetime
    instance_id: str | None
    instance_type: str | None
    region: str | None
    az: str | None
    mode: str | None
    pool_id: str | None
    last_heartbeat_at: datetime | None
    connected: bool


async def get(
    conn: Conn, agent_id: UUID, now: datetime, *, deleted_since: datetime = NEVER
) -> AgentView | None:
    """One agent within the connection's scope, None when there is none; deleted ones as `lock`."""
    row = await conn.fetchrow(GET_AGENT, agent_id, now - CONNECTED_WITHIN, deleted_since)
    return AgentView(**row) if row else None


async def list_agents(
    conn: Conn,
    tenant_id: TenantId | None,
    *,
    statuses: tuple[str, ...],
    search: str | None,
    page: Page,
    now: datetime,
) -> Slice[AgentView]:
    """Agents, newest first."""
    at, last = page.after_instant()
    rows = await conn.fetch(
        LIST_AGENTS,
        tenant_id,
        list(statuses),
        search,
        at,
        last,
        page.limit + 1,
        page.offset,
        now - CONNECTED_WITHIN,
    )
    total = await conn.fetchval(COUNT_AGENTS, tenant_id, list(statuses), search)
    return Slice([AgentView(**row) for row in rows], total)


async def load_desired(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, instance_id: str
) -> Desired | None:
    """What an instance is to be; None when the agent is deleted or the instance not its own."""
    row = await conn.fetchrow(LOAD_DESIRED, tenant_id, agent_id, instance_id)
    return Desired(**row) if row else None
