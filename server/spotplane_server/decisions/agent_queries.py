"""Reading the agents that are to be decided for, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

DAY: Final = timedelta(hours=24)
WEEK: Final = timedelta(days=7)
# How long a signal that an instance is going keeps its agent out of the loop.
EMERGENCY: Final = timedelta(hours=2)

LIST_ELIGIBLE: Final = """
    SELECT a.tenant_id, a.id
      FROM agents a
     WHERE a.status = 'online' AND a.enabled AND a.auto_switch_enabled AND a.deleted_at IS NULL
       AND (a.tenant_id, a.id) > ($1, $2)
       AND EXISTS (SELECT FROM instances i
                    WHERE i.tenant_id = a.tenant_id AND i.agent_id = a.id
                      AND i.status = 'running_primary')
       AND NOT EXISTS (SELECT FROM agent_commands c
                        WHERE c.tenant_id = a.tenant_id AND c.agent_id = a.id
                          AND c.type = 'switch'
                          AND c.status IN ('pending', 'leased', 'executing'))
       AND NOT EXISTS (SELECT FROM failovers f
                        WHERE f.tenant_id = a.tenant_id AND f.agent_id = a.id
                          AND f.status IN ('detected', 'handling') AND f.detected_at > $3)
     ORDER BY a.tenant_id, a.id
     LIMIT $4
"""

# A switch in place begins a new stay on the same instance. Moves by registration are no switches.
LIST_SUBJECTS: Final = """
    SELECT a.tenant_id, a.id AS agent_id, a.logical_agent_id, a.status, a.enabled,
           a.auto_switch_enabled, a.auto_terminate_enabled, a.terminate_wait_seconds,
           a.min_savings_percent, a.risk_threshold, a.max_switches_per_day,
           a.max_switches_per_week, a.min_pool_duration_hours,
           i.id AS instance_id, i.instance_type, i.region, i.az, i.mode, i.pool_id,
           greatest(coalesce(i.active_at, i.launched_at), arrived.created_at) AS serving_since,
           r.pool_id AS standby_pool_id, r.created_by AS standby_created_by,
           coalesce(r.status = 'ready', false) AS standby_ready,
           switched.day AS switches_day, switched.week AS switches_week,
           h.signature, h.stored_at, h.engine AS memory_of, h.memory
      FROM unnest($1::uuid[], $2::uuid[]) AS wanted (tenant_id, id)
      JOIN agents a ON a.tenant_id = wanted.tenant_id AND a.id = wanted.id
      LEFT JOIN instances i
        ON i.tenant_id = a.tenant_id AND i.agent_id = a.id AND i.status = 'running_primary'
      LEFT JOIN replicas r
        ON r.tenant_id = a.tenant_id AND r.agent_id = a.id
       AND r.status IN ('launching', 'syncing', 'ready')
      LEFT JOIN decision_heads h ON h.tenant_id = a.tenant_id AND h.agent_id = a.id
      LEFT JOIN LATERAL
           (SELECT w.created_at
              FROM switches w
             WHERE w.tenant_id = a.tenant_id AND w.agent_id = a.id
               AND w.new_instance_id = i.id AND w.success
             ORDER BY w.created_at DESC
             LIMIT 1) AS arrived ON true
     CROSS JOIN LATERAL
           (SELECT count(*) FILTER (WHERE w.created_at > $3) AS day, count(*) AS week
              FROM switches w
             WHERE w.tenant_id = a.tenant_id AND w.agent_id = a.id AND w.created_at > $4
               AND w.success AND w.trigger <> 'EMERGENCY' AND w.cause <> 'registration')
           AS switched
     WHERE a.deleted_at IS NULL
     ORDER BY a.tenant_id, a.id
"""

IN_EMERGENCY: Final = """
    SELECT EXISTS (SELECT
                     FROM failovers
                    WHERE tenant_id = $1 AND agent_id = $2 AND status IN ('detected', 'handling')
                      AND detected_at > $3)
"""

FIND_TENANT_OF: Final = "SELECT tenant_id FROM agents WHERE id = $1 AND deleted_at IS NULL"


@dataclass(frozen=True, slots=True)
class Subject:
    """An agent, its serving instance, and what its decisions depend on.

    Attributes:
        instance_id: None, as is all of the instance's, while none serves.
        serving_since: Since when it serves there without a switch.
        standby_pool_id: Pool of its live replica.
        switches_day: Switches in 24 hours that were no emergencies.
        switches_week: The same in 7 days.
        signature: Of the decision stored last; None before the first.
        memory_of: Name of the engine whose memory it is.
    """

    tenant_id: TenantId
    agent_id: UUID
    logical_agent_id: str
    status: str
    enabled: bool
    auto_switch_enabled: bool
    auto_terminate_enabled: bool
    terminate_wait_seconds: int
    min_savings_percent: Decimal
    risk_threshold: Decimal
    max_switches_per_day: int
    max_switches_per_week: int
    min_pool_duration_hours: int
    instance_id: str | None
    instance_type: str | None
    region: str | None
    az: str | None
    mode: str | None
    pool_id: str | None
    serving_since: datetime | None
    standby_pool_id: str | None
    standby_created_by: str | None
    standby_ready: bool
    switches_day: int
    switches_week: int
    signature: str | None
    stored_at: datetime | None
    memory_of: str | None
    memory: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Key:
    """Names an agent."""

    tenant_id: TenantId
    id: UUID


FIRST: Final = Key(TenantId(UUID(int=0)), UUID(int=0))


async def list_eligible(conn: Conn, after: Key, *, now: datetime, limit: int) -> list[Key]:
    """Agents of all tenants that the loop decides for, in the order of their keys."""
    rows = await conn.fetch(LIST_ELIGIBLE, after.tenant_id, after.id, now - EMERGENCY, limit)
    return [Key(**row) for row in rows]


async def list_subjects(conn: Conn, keys: Sequence[Key], now: datetime) -> list[Subject]:
    """What is known of agents, in the order of their keys; deleted ones are left out."""
    rows = await conn.fetch(
        LIST_SUBJECTS,
        [key.tenant_id for key in keys],
        [key.id for key in keys],
        now - DAY,
        now - WEEK,
    )
    return [Subject(**row) for row in rows]


async def find_tenant_of(conn: Conn, agent_id: UUID) -> TenantId | None:
    """Whose an agent is, within the connection's scope; None when there is none."""
    found = await conn.fetchval(FIND_TENANT_OF, agent_id)
    return None if found is None else TenantId(found)


async def in_emergency(conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime) -> bool:
    """Whether a signal that the agent's instance is going is open."""
    found: bool = await conn.fetchval(IN_EMERGENCY, tenant_id, agent_id, now - EMERGENCY)
    return found
