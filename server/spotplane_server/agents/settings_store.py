"""The fleet_settings table: what a tenant's new agents start with, and how many there may be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from spotplane_server.agents.rules import Quota
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

GET_QUOTA: Final = """
    SELECT max_agents, max_instances
      FROM fleet_settings
     WHERE tenant_id = $1
"""

COUNT_AGENTS: Final = """
    SELECT count(*)
      FROM agents
     WHERE tenant_id = $1
       AND deleted_at IS NULL
"""

COUNT_INSTANCES: Final = """
    SELECT count(*)
      FROM instances
     WHERE tenant_id = $1
       AND status IN ('launching', 'running_primary', 'running_replica', 'promoting')
"""

GET_SETTINGS: Final = """
    SELECT t.id AS tenant_id, f.max_agents, f.max_instances,
           coalesce(f.auto_switch_enabled, true) AS auto_switch_enabled,
           coalesce(f.auto_terminate_enabled, true) AS auto_terminate_enabled,
           coalesce(f.terminate_wait_seconds, 300) AS terminate_wait_seconds,
           coalesce(f.min_savings_percent, 15) AS min_savings_percent,
           coalesce(f.risk_threshold, 0.3) AS risk_threshold,
           coalesce(f.max_switches_per_week, 10) AS max_switches_per_week,
           coalesce(f.max_switches_per_day, 3) AS max_switches_per_day,
           coalesce(f.min_pool_duration_hours, 2) AS min_pool_duration_hours
      FROM tenants t
      LEFT JOIN fleet_settings f ON f.tenant_id = t.id
     WHERE t.id = $1 AND t.status <> 'deleted'
"""

PUT_SETTINGS: Final = """
    INSERT INTO fleet_settings (tenant_id, max_agents, max_instances, auto_switch_enabled,
                                auto_terminate_enabled, terminate_wait_seconds,
                                min_savings_percent, risk_threshold, max_switches_per_week,
                                max_switches_per_day, min_pool_duration_hours, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT (tenant_id) DO UPDATE
       SET max_agents = $2, max_instances = $3, auto_switch_enabled = $4,
           auto_terminate_enabled = $5, terminate_wait_seconds = $6, min_savings_percent = $7,
           risk_threshold = $8, max_switches_per_week = $9, max_switches_per_day = $10,
           min_pool_duration_hours = $11, updated_at = $12
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """A tenant's settings, the product's where it has none."""

    tenant_id: TenantId
    max_agents: int | None
    max_instances: int | None
    auto_switch_enabled: bool
    auto_terminate_enabled: bool
    terminate_wait_seconds: int
    min_savings_percent: Decimal
    risk_threshold: Decimal
    max_switches_per_week: int
    max_switches_per_day: int
    min_pool_duration_hours: int


async def find_quota(conn: Conn, tenant_id: TenantId) -> Quota:
    """The tenant's limits."""
    row = await conn.fetchrow(GET_QUOTA, tenant_id)
    return Quota(**row) if row else Quota(None, None)


async def count_agents(conn: Conn, tenant_id: TenantId) -> int:
    """How many agents the tenant has."""
    count: int = await conn.fetchval(COUNT_AGENTS, tenant_id)
    return count


async def count_instances(conn: Conn, tenant_id: TenantId) -> int:
    """How many live instances the tenant has."""
    count: int = await conn.fetchval(COUNT_INSTANCES, tenant_id)
    return count


async def find(conn: Conn, tenant_id: TenantId) -> Settings | None:
    """A tenant's settings, None when there is no such tenant."""
    row = await conn.fetchrow(GET_SETTINGS, tenant_id)
    return Settings(**row) if row else None


async def put(conn: Conn, settings: Settings, now: datetime) -> None:
    """Replace a tenant's settings."""
    await conn.execute(
        PUT_SETTINGS,
        settings.tenant_id,
        settings.max_agents,
        settings.max_instances,
        settings.auto_switch_enabled,
        settings.auto_terminate_enabled,
        settings.terminate_wait_seconds,
        settings.min_savings_percent,
        settings.risk_threshold,
        settings.max_switches_per_week,
        settings.max_switches_per_day,
        settings.min_pool_duration_hours,
        now,
    )
