"""Lists of instances: one indexed statement each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from spotplane_server.instances.rules import Status
from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# An instance without a pool has the one of its type and zone for comparison.
LIST_OF_TENANT: Final = """
    SELECT i.id, i.tenant_id, t.name AS tenant_name,
           CASE WHEN a.deleted_at IS NULL THEN a.id END AS agent_id, a.logical_agent_id,
           a.status AS agent_status, i.region, i.az, i.instance_type, i.mode, i.pool_id,
           coalesce(p.price_nanousd, ip.spot_nanousd) AS spot_price_nanousd,
           coalesce(o.price_nanousd, ip.on_demand_nanousd, i.baseline_price_nanousd)
               AS on_demand_price_nanousd,
           i.status, i.active_at AS installed_at, i.launched_at AS created_at,
           greatest((SELECT max(s.created_at) FROM switches s
                      WHERE s.tenant_id = i.tenant_id AND s.new_instance_id = i.id AND s.success),
                    (SELECT max(s.created_at) FROM switches s
                      WHERE s.tenant_id = i.tenant_id AND s.old_instance_id = i.id AND s.success))
               AS last_switch_at,
           (SELECT count(*)
              FROM instances i
              JOIN agents a ON a.tenant_id = i.tenant_id AND a.id = i.agent_id
              JOIN tenants t ON t.id = i.tenant_id
             WHERE i.tenant_id = $1
               AND ($2::text[] IS NULL OR i.status = ANY($2))
               AND ($3::text IS NULL OR i.mode = $3)
               AND ($4::text IS NULL OR i.region = $4)
               AND ($5::text IS NULL
                    OR strpos(lower(concat_ws(' ', i.id, i.instance_type, t.name,
                                              a.logical_agent_id)), lower($5)) > 0)) AS total
      FROM instances i
      JOIN agents a ON a.tenant_id = i.tenant_id AND a.id = i.agent_id
      JOIN tenants t ON t.id = i.tenant_id
      LEFT JOIN pools p ON p.id = coalesce(i.pool_id, i.instance_type || '.' || i.az)
      LEFT JOIN on_demand_prices o ON o.region = i.region AND o.instance_type = i.instance_type
      LEFT JOIN instance_prices ip ON ip.tenant_id = i.tenant_id AND ip.instance_id = i.id
     WHERE i.tenant_id = $1
       AND ($2::text[] IS NULL OR i.status = ANY($2))
       AND ($3::text IS NULL OR i.mode = $3)
       AND ($4::text IS NULL OR i.region = $4)
       AND ($5::text IS NULL
            OR strpos(lower(concat_ws(' ', i.id, i.instance_type, t.name, a.logical_agent_id)),
                      lower($5)) > 0)
       AND ($6::boolean IS NULL
            OR (i.status = 'running_primary', i.launched_at, i.id)
               < ($6, $7::timestamptz, $8::text))
     ORDER BY (i.status = 'running_primary') DESC, i.launched_at DESC, i.id DESC
     LIMIT $9
"""

LIST_OF_ALL: Final = """
    SELECT i.id, i.tenant_id, t.name AS tenant_name,
           CASE WHEN a.deleted_at IS NULL THEN a.id END AS agent_id, a.logical_agent_id,
           a.status AS agent_status, i.region, i.az, i.instance_type, i.mode, i.pool_id,
           coalesce(p.price_nanousd, ip.spot_nanousd) AS spot_price_nanousd,
           coalesce(o.price_nanousd, ip.on_demand_nanousd, i.baseline_price_nanousd)
               AS on_demand_price_nanousd,
           i.status, i.active_at AS installed_at, i.launched_at AS created_at,
           NULL::timestamptz AS last_switch_at,
           (SELECT count(*)
              FROM instances i
              JOIN agents a ON a.tenant_id = i.tenant_id AND a.id = i.agent_id
              JOIN tenants t ON t.id = i.tenant_id
             WHERE t.deleted_at IS NULL
               AND ($1::text[] IS NULL OR i.status = ANY($1))
               AND ($2::text IS NULL OR i.mode = $2)
               AND ($3::text IS NULL OR i.region = $3)
               AND ($4::text IS NULL
                    OR strpos(lower(concat_ws(' ', i.id, i.instance_type, t.name,
                                              a.logical_agent_id)), lower($4)) > 0)) AS total
      FROM instances i
      JOIN agents a ON a.tenant_id = i.tenant_id AND a.id = i.agent_id
      JOIN tenants t ON t.id = i.tenant_id
      LEFT JOIN pools p ON p.id = coalesce(i.pool_id, i.instance_type || '.' || i.az)
      LEFT JOIN on_demand_prices o ON o.region = i.region AND o.instance_type = i.instance_type
      LEFT JOIN instance_prices ip ON ip.tenant_id = i.tenant_id AND ip.instance_id = i.id
     WHERE t.deleted_at IS NULL
       AND ($1::text[] IS NULL OR i.status = ANY($1))
       AND ($2::text IS NULL OR i.mode = $2)
       AND ($3::text IS NULL OR i.region = $3)
       AND ($4::text IS NULL
            OR strpos(lower(concat_ws(' ', i.id, i.instance_type, t.name, a.logical_agent_id)),
                      lower($4)) > 0)
       AND ($5::timestamptz IS NULL
            OR (i.launched_at, i.id, i.tenant_id) < ($5, $6::text, $7::uuid))
     ORDER BY i.launched_at DESC, i.id DESC, i.tenant_id DESC
     LIMIT $8
"""

# Ids are the cloud's, so two tenants may have the same one; the newest is meant then.
FIND_INSTANCE: Final = """
    SELECT i.tenant_id, i.id, i.agent_id, i.status, i.instance_type, i.region, i.az, i.mode,
           i.pool_id
      FROM instances i
      JOIN tenants t ON t.id = i.tenant_id AND t.deleted_at IS NULL
     WHERE i.id = $1
       AND ($2::uuid IS NULL OR i.tenant_id = $2)
     ORDER BY i.launched_at DESC, i.tenant_id
     LIMIT 1
"""

# What the region is known to have, by its pools, its prices or its machines.
LIST_FAMILY: Final = """
    SELECT DISTINCT k.instance_type
      FROM (SELECT instance_type FROM pools WHERE region = $1
            UNION ALL
            SELECT instance_type FROM on_demand_prices WHERE region = $1) k
     WHERE split_part(k.instance_type, '.', 1) = split_part($2, '.', 1)
     ORDER BY k.instance_type
"""

ACTIVE: Final[tuple[Status, ...]] = (
    "launching",
    "running_primary",
    "running_replica",
    "promoting",
)
TERMINATED: Final[tuple[Status, ...]] = ("zombie", "terminating", "terminated")


@dataclass(frozen=True, slots=True)
class Listed:
    """An instance as lists show it; ``total`` is how many match the list's filters."""

    id: str
    tenant_id: TenantId
    tenant_name: str
    agent_id: UUID | None
    logical_agent_id: str
    agent_status: str
    region: str
    az: str
    instance_type: str
    mode: str
    pool_id: str | None
    spot_price_nanousd: int | None
    on_demand_price_nanousd: int | None
    status: Status
    installed_at: datetime | None
    created_at: datetime
    last_switch_at: datetime | None
    total: int


@dataclass(frozen=True, slots=True)
class Filters:
    """What instances are wanted; None does not matter."""

    statuses: Sequence[str] | None
    mode: str | None
    region: str | None
    search: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """An instance and whose it is."""

    tenant_id: TenantId
    id: str
    agent_id: UUID
    status: Status
    instance_type: str
    region: str
    az: str
    mode: str
    pool_id: str | None


async def list_of_tenant(
    conn: Conn, tenant_id: TenantId, filters: Filters, page: Page
) -> Slice[Listed]:
    """A tenant's instances: what serves first, then newest first."""
    primary, at, last = page.after or (None, None, None)
    rows = await conn.fetch(
        LIST_OF_TENANT,
        tenant_id,
        filters.statuses,
        filters.mode,
        filters.region,
        filters.search,
        primary,
        at and datetime.fromisoformat(at),
        last,
        page.limit + 1,
    )
    return _slice([Listed(**row) for row in rows])


async def list_of_all(conn: Conn, filters: Filters, page: Page) -> Slice[Listed]:
    """Instances of all tenants, newest first."""
    at, last, tenant = page.after or (None, None, None)
    rows = await conn.fetch(
        LIST_OF_ALL,
        filters.statuses,
        filters.mode,
        filters.region,
        filters.search,
        at and datetime.fromisoformat(at),
        last,
        tenant and UUID(tenant),
        page.limit + 1,
    )
    return _slice([Listed(**row) for row in rows])


async def find_instance(conn: Conn, instance_id: str, tenant_id: TenantId | None) -> Found | None:
    """An instance within the connection's scope, None when there is none."""
    row = await conn.fetchrow(FIND_INSTANCE, instance_id, tenant_id)
    return Found(**row) if row else None


async def list_family(conn: Conn, region: str, instance_type: str) -> list[str]:
    """Types of the same family (the part before the dot) that a region is known to have."""
    return [row["instance_type"] for row in await conn.fetch(LIST_FAMILY, region, instance_type)]


def _slice(items: list[Listed]) -> Slice[Listed]:
    return Slice(items, items[0].total if items else 0)


def key(*, of_tenant: bool) -> Callable[[Listed], tuple[Any, ...]]:
    """The sort key of a list's items, for going on after one."""
    if of_tenant:
        return lambda row: (row.status == "running_primary", row.created_at, row.id)
    return lambda row: (row.created_at, row.id, row.tenant_id)
