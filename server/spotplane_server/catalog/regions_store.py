"""Store of regions, with counts and launch times of their instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NewType
from uuid import UUID

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn

RegionId = NewType("RegionId", UUID)

INSERT_REGION: Final = """
    INSERT INTO regions (id, code, name, provider, country, city, status, cost_multiplier,
                         max_nodes, metadata, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)
    RETURNING id, code, name, provider, country, city, status, cost_multiplier, max_nodes, metadata,
              created_at, updated_at
"""

FIND_REGION: Final = """
    SELECT id, code, name, provider, country, city, status, cost_multiplier, max_nodes, metadata,
           created_at, updated_at
      FROM regions
     WHERE id = $1 AND deleted_at IS NULL
"""

# Not FOR UPDATE: launches hold the row FOR KEY SHARE, and a price change must not wait for them.
LOCK_REGION: Final = """
    SELECT id, code, name, provider, country, city, status, cost_multiplier, max_nodes, metadata,
           created_at, updated_at
      FROM regions
     WHERE id = $1 AND deleted_at IS NULL
       FOR NO KEY UPDATE
"""

LOCK_REGION_BY_CODE: Final = """
    SELECT id, code, name, provider, country, city, status, cost_multiplier, max_nodes, metadata,
           created_at, updated_at
      FROM regions
     WHERE code = $1 AND deleted_at IS NULL
       FOR NO KEY UPDATE
"""

# FOR UPDATE waits for launches that hold the row and blocks later ones, which then find it deleted.
LOCK_REGION_TO_DELETE: Final = """
    SELECT id, code, name, provider, country, city, status, cost_multiplier, max_nodes, metadata,
           created_at, updated_at
      FROM regions
     WHERE id = $1 AND deleted_at IS NULL
       FOR UPDATE
"""

UPDATE_REGION: Final = """
    UPDATE regions
       SET name = $2, status = $3, cost_multiplier = $4, max_nodes = $5, metadata = $6,
           updated_at = $7
     WHERE id = $1 AND deleted_at IS NULL
    RETURNING id, code, name, provider, country, city, status, cost_multiplier, max_nodes, metadata,
              created_at, updated_at
"""

DELETE_REGION: Final = """
    UPDATE regions
       SET status = 'offline', deleted_at = $2, updated_at = $2
     WHERE id = $1
"""

LIST_REGIONS: Final = """
    SELECT id, code, name, provider, country, city, status, cost_multiplier, max_nodes, metadata,
           created_at, updated_at
      FROM regions
     WHERE deleted_at IS NULL
       AND ($1::text IS NULL OR provider = $1)
       AND ($2::text IS NULL OR status = $2)
       AND ($3::text IS NULL OR (provider, name, id) > ($3, $4::text, $5::uuid))
     ORDER BY provider, name, id
     LIMIT $6
"""

COUNT_REGIONS: Final = """
    SELECT count(*)
      FROM regions
     WHERE deleted_at IS NULL
       AND ($1::text IS NULL OR provider = $1)
       AND ($2::text IS NULL OR status = $2)
"""

# Nodes are instances that serve models, and count equally.
COUNT_LIVE_IN_REGION: Final = """
    SELECT (SELECT count(*)
              FROM instances
             WHERE region_id = $1 AND status NOT IN ('terminating', 'terminated'))
         + (SELECT count(*)
              FROM nodes
             WHERE region_id = $1 AND status NOT IN ('terminating', 'dead'))
"""

# A zombie is replaced and waits for its termination; it does not count against the quota.
COUNT_CURRENT_IN_REGION: Final = """
    SELECT (SELECT count(*)
              FROM instances
             WHERE region_id = $1
               AND status IN ('launching', 'running_primary', 'running_replica', 'promoting'))
         + (SELECT count(*)
              FROM nodes
             WHERE region_id = $1 AND status IN ('active', 'initializing'))
"""

ESTIMATE_LAUNCH: Final = """
    SELECT count(*)::int AS samples,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM active_at - launched_at))
               AS median_seconds
      FROM (SELECT launched_at, active_at
              FROM instances
             WHERE region_id = $1 AND launched_at >= $2
             UNION ALL
            SELECT launched_at, active_at
              FROM nodes
             WHERE region_id = $1 AND launched_at >= $2) AS launches
     WHERE active_at >= launched_at
"""


@dataclass(frozen=True, slots=True)
class Region:
    """A region; ``cost_multiplier`` is the factor on base prices."""

    id: RegionId
    code: str
    name: str
    provider: str
    country: str | None
    city: str | None
    status: str
    cost_multiplier: Decimal
    max_nodes: int | None
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class LaunchEstimate:
    """Duration of launches; ``median_seconds`` is None without samples."""

    samples: int
    median_seconds: float | None


async def insert_region(conn: Conn, region: Region) -> Region:
    """Insert a region.

    Raises:
        asyncpg.UniqueViolationError: ``regions_code_key``: the code is taken.
    """
    row = await conn.fetchrow(
        INSERT_REGION,
        region.id,
        region.code,
        region.name,
        region.provider,
        region.country,
        region.city,
        region.status,
        region.cost_multiplier,
        region.max_nodes,
        region.metadata,
        region.created_at,
    )
    return _stored(row)


async def find_region(conn: Conn, region_id: RegionId) -> Region | None:
    """Find a region that is not deleted."""
    return _found(await conn.fetchrow(FIND_REGION, region_id))


async def lock_region(conn: Conn, region_id: RegionId) -> Region | None:
    """Lock a region against other updates until the transaction ends."""
    return _found(await conn.fetchrow(LOCK_REGION, region_id))


async def lock_region_by_code(conn: Conn, code: str) -> Region | None:
    """Lock a region by code against other updates."""
    return _found(await conn.fetchrow(LOCK_REGION_BY_CODE, code))


async def lock_region_to_delete(conn: Conn, region_id: RegionId) -> Region | None:
    """Lock a region against updates and launches."""
    return _found(await conn.fetchrow(LOCK_REGION_TO_DELETE, region_id))


async def update_region(conn: Conn, region: Region, now: datetime) -> Region:
    """Update the mutable fields of a locked region."""
    row = await conn.fetchrow(
        UPDATE_REGION,
        region.id,
        region.name,
        region.status,
        region.cost_multiplier,
        region.max_nodes,
        region.metadata,
        now,
    )
    return _stored(row)


async def delete_region(conn: Conn, region_id: RegionId, now: datetime) -> None:
    """Mark a locked region deleted."""
    await conn.execute(DELETE_REGION, region_id, now)


async def list_regions(
    conn: Conn, page: Page, *, provider: str | None, status: str | None
) -> Slice[Region]:
    """List regions by provider, name and id; one item more than the limit if more follow."""
    after = page.after or (None, None, None)
    rows = await conn.fetch(LIST_REGIONS, provider, status, *after, page.limit + 1)
    total = await conn.fetchval(COUNT_REGIONS, provider, status)
    return Slice([Region(**row) for row in rows], total)


async def count_live(conn: Conn, region_id: RegionId) -> int:
    """Count the live instances and nodes that prevent a deletion."""
    count: int = await conn.fetchval(COUNT_LIVE_IN_REGION, region_id)
    return count


async def count_current(conn: Conn, region_id: RegionId) -> int:
    """Count running and starting instances and nodes."""
    count: int = await conn.fetchval(COUNT_CURRENT_IN_REGION, region_id)
    return count


async def estimate_launch(conn: Conn, region_id: RegionId, since: datetime) -> LaunchEstimate:
    """Return the median time from launch to readiness of launches since an instant."""
    row: Any = await conn.fetchrow(ESTIMATE_LAUNCH, region_id, since)
    return LaunchEstimate(**row)


def region_key(region: Region) -> Sequence[Any]:
    """Return the sort key of a region in its list."""
    return (region.provider, region.name, region.id)


def _found(row: Any) -> Region | None:
    return Region(**row) if row is not None else None


def _stored(row: Any) -> Region:
    return Region(**row)
