"""Replicas as agents, operators and dashboards see them; `store` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.prices.rules import PLANNED_NANOUSD
from spotplane_server.replicas import rules

# What it has cost is summed by a job every few minutes; the time since then at the newest price.
LIST_VIEWS: Final = """
    SELECT r.tenant_id, r.id, r.agent_id, r.instance_id, r.bound, r.type, r.status, r.sync_status,
           r.sync_progress, r.sync_latency_ms, r.pool_id, r.instance_type, r.region, r.az,
           r.created_by, r.hourly_cost_nanousd, r.message, r.tags, r.termination_confirmed,
           r.replaced_instance_id, r.demoted, r.successor_id, r.created_at, r.launched_at,
           r.ready_at, r.promoted_at, r.terminated_at, p.price_nanousd,
           r.cost_nanousd + coalesce(
               greatest(extract(epoch FROM
                   coalesce(r.promoted_at, r.termination_confirmed_at, $9) - r.cost_until), 0)
               * coalesce(p.price_nanousd, r.hourly_cost_nanousd, $10) / 3600, 0)::bigint
               AS cost_nanousd,
           greatest(extract(epoch FROM $9 - r.created_at), 0)::bigint AS age_seconds
      FROM replicas r
      LEFT JOIN pools p ON p.id = r.pool_id
     WHERE r.tenant_id = $1 AND r.agent_id = $2
       AND ($3::uuid IS NULL OR r.id = $3)
       AND r.status = ANY($4)
       AND ($5::boolean IS NULL OR r.bound = $5)
       AND ($6::boolean IS NULL OR r.termination_confirmed = $6)
       AND ($7::timestamptz IS NULL OR (r.created_at, r.id) < ($7, $8))
     ORDER BY r.created_at DESC, r.id DESC
     LIMIT $11 OFFSET $12
"""

COUNT_REPLICAS: Final = """
    SELECT count(*)
      FROM replicas
     WHERE tenant_id = $1 AND agent_id = $2 AND status = ANY($3)
       AND ($4::boolean IS NULL OR bound = $4)
       AND ($5::boolean IS NULL OR termination_confirmed = $5)
"""

# Polled by every open page of a dashboard, so one indexed statement.
LIST_LIVE_OF_TENANT: Final = """
    SELECT r.tenant_id, r.id, r.agent_id, r.instance_id, r.bound, r.type, r.status, r.sync_status,
           r.sync_progress, r.sync_latency_ms, r.pool_id, r.instance_type, r.region, r.az,
           r.created_by, r.hourly_cost_nanousd, r.message, r.tags, r.termination_confirmed,
           r.replaced_instance_id, r.demoted, r.successor_id, r.created_at, r.launched_at,
           r.ready_at, r.promoted_at, r.terminated_at, p.price_nanousd,
           r.cost_nanousd + coalesce(
               greatest(extract(epoch FROM $2 - r.cost_until), 0)
               * coalesce(p.price_nanousd, r.hourly_cost_nanousd, $3) / 3600, 0)::bigint
               AS cost_nanousd,
           greatest(extract(epoch FROM $2 - r.created_at), 0)::bigint AS age_seconds,
           i.id AS primary_id, i.instance_type AS primary_type, i.region AS primary_region,
           i.az AS primary_az, i.mode AS primary_mode
      FROM replicas r
      LEFT JOIN pools p ON p.id = r.pool_id
      LEFT JOIN instances i
        ON i.tenant_id = r.tenant_id AND i.agent_id = r.agent_id AND i.status = 'running_primary'
     WHERE r.tenant_id = $1 AND r.status IN ('launching', 'syncing', 'ready')
     ORDER BY r.created_at DESC, r.id DESC
     LIMIT $4
"""

# Whether the agent learns of replicas by asking for them.
POLLS_REPLICAS: Final = """
    SELECT coalesce(replicas_polled_at > $3, false)
      FROM agents
     WHERE tenant_id = $1 AND id = $2
"""

MOST: Final = 500
# An agent in the field asks every 30 seconds; one that has not for so long has another transport.
POLLED_WITHIN: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class View:
    """A replica with its price and its cost to date, nano-USD."""

    tenant_id: TenantId
    id: UUID
    agent_id: UUID
    instance_id: str
    bound: bool
    type: str
    status: str
    sync_status: str
    sync_progress: float
    sync_latency_ms: int | None
    pool_id: str
    instance_type: str
    region: str
    az: str
    created_by: str
    hourly_cost_nanousd: int | None
    message: str | None
    tags: dict[str, Any]
    termination_confirmed: bool
    replaced_instance_id: str | None
    demoted: bool
    successor_id: UUID | None
    created_at: datetime
    launched_at: datetime | None
    ready_at: datetime | None
    promoted_at: datetime | None
    terminated_at: datetime | None
    price_nanousd: int | None
    cost_nanousd: int
    age_seconds: int


@dataclass(frozen=True, slots=True)
class TenantView(View):
    """A live replica and the instance that it stands by for, if one serves."""

    primary_id: str | None
    primary_type: str | None
    primary_region: str | None
    primary_az: str | None
    primary_mode: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of an agent's replicas: in these states, perhaps bound or confirmed ones only."""

    statuses: Sequence[str]
    bound: bool | None = None
    confirmed: bool | None = None


def polled(status: str | None, *, all_of_them: bool) -> Wanted:
    """What a polling agent means: what to launch, what to end, or those of a kind.

    An agent that once sees a placeholder among those to end never looks at that replica again.
    """
    if status == "launching":
        return Wanted(("launching",), bound=False)
    if status == "terminated":
        return Wanted(("terminated",), bound=True, confirmed=False)
    if status is not None:
        return Wanted((status,))
    return Wanted(rules.STATUSES if all_of_them else rules.LIVE)


async def find(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, replica_id: UUID, now: datetime
) -> View | None:
    """One replica, None when there is none."""
    row = await conn.fetchrow(
        LIST_VIEWS,
        tenant_id,
        agent_id,
        replica_id,
        list(rules.STATUSES),
        None,
        None,
        None,
        None,
        now,
        PLANNED_NANOUSD,
        1,
        0,
    )
    return View(**row) if row else None


async def list_replicas(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, *, wanted: Wanted, page: Page, now: datetime
) -> Slice[View]:
    """An agent's replicas, newest first."""
    at, last = page.after_instant()
    rows = await conn.fetch(
        LIST_VIEWS,
        tenant_id,
        agent_id,
        None,
        list(wanted.statuses),
        wanted.bound,
        wanted.confirmed,
        at,
        last,
        now,
        PLANNED_NANOUSD,
        page.limit + 1,
        page.offset,
    )
    total = await conn.fetchval(
        COUNT_REPLICAS, tenant_id, agent_id, list(wanted.statuses), wanted.bound, wanted.confirmed
    )
    return Slice([View(**row) for row in rows], total)


async def list_newest(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, *, wanted: Wanted, now: datetime
) -> Slice[View]:
    """An agent's newest replicas, at most `MOST`."""
    rows = await conn.fetch(
        LIST_VIEWS,
        tenant_id,
        agent_id,
        None,
        list(wanted.statuses),
        wanted.bound,
        wanted.confirmed,
        None,
        None,
        now,
        PLANNED_NANOUSD,
        MOST,
        0,
    )
    total = len(rows)
    if total == MOST:
        total = await conn.fetchval(
            COUNT_REPLICAS,
            tenant_id,
            agent_id,
            list(wanted.statuses),
            wanted.bound,
            wanted.confirmed,
        )
    return Slice([View(**row) for row in rows], total)


async def list_live_of_tenant(conn: Conn, tenant_id: TenantId, now: datetime) -> list[TenantView]:
    """A tenant's live replicas, newest first."""
    rows = await conn.fetch(LIST_LIVE_OF_TENANT, tenant_id, now, PLANNED_NANOUSD, MOST)
    return [TenantView(**row) for row in rows]


async def polls(conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime) -> bool:
    """Whether an agent learns of its replicas by polling, so that no command may tell it too."""
    found: bool | None = await conn.fetchval(
        POLLS_REPLICAS, tenant_id, agent_id, now - POLLED_WITHIN
    )
    return bool(found)
