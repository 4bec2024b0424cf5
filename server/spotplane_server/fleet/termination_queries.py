"""Which instances are to end, and with whose consent: reading only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.fleet import rules
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# Of an agent: replicas that were given up and not confirmed gone, and zombies whose time has come.
# What an agent left when it was deleted is not its to end, unless somebody agreed to that.
LIST_DOOMED: Final = """
    SELECT i.id AS instance_id, i.instance_type, i.az,
           CASE WHEN r.id IS NOT NULL THEN 'replica_terminated' ELSE 'zombie_timeout' END AS reason,
           coalesce(r.terminated_at, i.retired_at, i.updated_at) AS since,
           i.terminate_consent AS agreed
      FROM instances i
      JOIN agents a ON a.tenant_id = i.tenant_id AND a.id = i.agent_id
      LEFT JOIN replicas r
        ON r.tenant_id = i.tenant_id AND r.agent_id = i.agent_id AND r.instance_id = i.id
       AND r.bound AND r.status = 'terminated' AND NOT r.termination_confirmed
     WHERE i.tenant_id = $1
       AND i.agent_id = $2
       AND i.status IN ('zombie', 'terminating')
       AND (i.end_asked_at IS NULL OR i.end_asked_at <= $3::timestamptz - $4::interval)
       AND (i.terminate_consent
            OR (r.terminated_at <= $3::timestamptz - $5::interval
                AND (a.auto_terminate_enabled OR a.deleted_at IS NOT NULL))
            OR (r.id IS NULL AND a.auto_terminate_enabled AND NOT i.spared
                AND (a.deleted_at IS NULL OR i.retired_at < a.deleted_at)
                AND i.retired_at <= $3::timestamptz
                                    - make_interval(secs => a.terminate_wait_seconds)))
     ORDER BY since, i.id
"""

# A day's worth of zombies that nobody agreed to end, by tenant, with what each has cost.
LIST_ZOMBIES: Final = """
    SELECT i.tenant_id, i.id AS instance_id, i.agent_id, a.logical_agent_id AS agent_name,
           i.instance_type, i.region, i.az, i.retired_at,
           coalesce(CASE WHEN i.mode = 'spot'
                         THEN (SELECT p.price_nanousd FROM pools p WHERE p.id = i.pool_id) END,
                    (SELECT o.price_nanousd FROM on_demand_prices o
                      WHERE o.region = i.region AND o.instance_type = i.instance_type),
                    i.baseline_price_nanousd) AS price_nanousd
      FROM instances i
      JOIN agents a ON a.tenant_id = i.tenant_id AND a.id = i.agent_id
      JOIN tenants t ON t.id = i.tenant_id AND t.deleted_at IS NULL
     WHERE i.status = 'zombie'
       AND NOT i.terminate_consent
       AND (i.spared OR NOT a.auto_terminate_enabled OR a.deleted_at IS NOT NULL)
     ORDER BY i.tenant_id, i.retired_at, i.id
"""


@dataclass(frozen=True, slots=True)
class Doomed:
    """An instance that is to end; ``agreed`` when somebody said so of it."""

    instance_id: str
    instance_type: str
    az: str
    reason: str
    since: datetime
    agreed: bool


@dataclass(frozen=True, slots=True)
class Zombie:
    """An instance that nobody agreed to end; its price is nano-USD an hour."""

    tenant_id: TenantId
    instance_id: str
    agent_id: UUID
    agent_name: str
    instance_type: str
    region: str
    az: str
    retired_at: datetime | None
    price_nanousd: int | None


async def list_doomed(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime
) -> list[Doomed]:
    """What an agent is to end now, the longest waiting first."""
    rows = await conn.fetch(
        LIST_DOOMED,
        tenant_id,
        agent_id,
        now,
        rules.ASK_AGAIN_AFTER,
        rules.REPLICA_UNCONFIRMED_AFTER,
    )
    return [Doomed(**row) for row in rows]


async def list_zombies(conn: Conn) -> list[Zombie]:
    """Every zombie that nobody agreed to end, by tenant."""
    return [Zombie(**row) for row in await conn.fetch(LIST_ZOMBIES)]


def waited(since: datetime, now: datetime) -> timedelta:
    """How long something waits; never negative, whatever clocks say."""
    return max(timedelta(), now - since)
