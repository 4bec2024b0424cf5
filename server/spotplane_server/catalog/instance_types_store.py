"""Store of instance types, with counts of their live instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn

INSERT_TYPE: Final = """
    INSERT INTO instance_types (provider, instance_type, instance_name, vcpu_count, memory_gb,
                                gpu_count, gpu_memory_gb, gpu_model, gpu_compute_capability,
                                price_per_hour, spot_price_per_hour, spot_price_defaulted,
                                is_available, supports_spot, metadata, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16)
    RETURNING id, provider, instance_type, instance_name, vcpu_count, memory_gb, gpu_count,
              gpu_memory_gb, gpu_model, gpu_compute_capability, price_per_hour,
              spot_price_per_hour, spot_price_defaulted, is_available, supports_spot, metadata,
              created_at, updated_at
"""

FIND_TYPE: Final = """
    SELECT id, provider, instance_type, instance_name, vcpu_count, memory_gb, gpu_count,
           gpu_memory_gb, gpu_model, gpu_compute_capability, price_per_hour, spot_price_per_hour,
           spot_price_defaulted, is_available, supports_spot, metadata, created_at, updated_at
      FROM instance_types
     WHERE id = $1 AND deleted_at IS NULL
"""

# Not FOR UPDATE: launches hold the row FOR KEY SHARE, and a price change must not wait for them.
LOCK_TYPE: Final = """
    SELECT id, provider, instance_type, instance_name, vcpu_count, memory_gb, gpu_count,
           gpu_memory_gb, gpu_model, gpu_compute_capability, price_per_hour, spot_price_per_hour,
           spot_price_defaulted, is_available, supports_spot, metadata, created_at, updated_at
      FROM instance_types
     WHERE id = $1 AND deleted_at IS NULL
       FOR NO KEY UPDATE
"""

LOCK_TYPE_BY_NAME: Final = """
    SELECT id, provider, instance_type, instance_name, vcpu_count, memory_gb, gpu_count,
           gpu_memory_gb, gpu_model, gpu_compute_capability, price_per_hour, spot_price_per_hour,
           spot_price_defaulted, is_available, supports_spot, metadata, created_at, updated_at
      FROM instance_types
     WHERE provider = $1 AND instance_type = $2 AND deleted_at IS NULL
       FOR NO KEY UPDATE
"""

# FOR UPDATE waits for launches that hold the row and blocks later ones, which then find it deleted.
LOCK_TYPE_TO_DELETE: Final = """
    SELECT id, provider, instance_type, instance_name, vcpu_count, memory_gb, gpu_count,
           gpu_memory_gb, gpu_model, gpu_compute_capability, price_per_hour, spot_price_per_hour,
           spot_price_defaulted, is_available, supports_spot, metadata, created_at, updated_at
      FROM instance_types
     WHERE id = $1 AND deleted_at IS NULL
       FOR UPDATE
"""

# The same lock as a launch: the type can be updated meanwhile, but not deleted.
LOCK_TYPE_SHARED: Final = """
    SELECT id, provider, instance_type, instance_name, vcpu_count, memory_gb, gpu_count,
           gpu_memory_gb, gpu_model, gpu_compute_capability, price_per_hour, spot_price_per_hour,
           spot_price_defaulted, is_available, supports_spot, metadata, created_at, updated_at
      FROM instance_types
     WHERE id = $1 AND deleted_at IS NULL
       FOR KEY SHARE
"""

UPDATE_TYPE: Final = """
    UPDATE instance_types
       SET instance_name = $2, price_per_hour = $3, spot_price_per_hour = $4,
           spot_price_defaulted = $5, is_available = $6, supports_spot = $7, metadata = $8,
           updated_at = $9
     WHERE id = $1 AND deleted_at IS NULL
    RETURNING id, provider, instance_type, instance_name, vcpu_count, memory_gb, gpu_count,
              gpu_memory_gb, gpu_model, gpu_compute_capability, price_per_hour,
              spot_price_per_hour, spot_price_defaulted, is_available, supports_spot, metadata,
              created_at, updated_at
"""

DELETE_TYPE: Final = """
    UPDATE instance_types
       SET is_available = false, deleted_at = $2, updated_at = $2
     WHERE id = $1
"""

LIST_TYPES: Final = """
    SELECT t.id, t.provider, t.instance_type, t.instance_name, t.vcpu_count, t.memory_gb,
           t.gpu_count, t.gpu_memory_gb, t.gpu_model, t.gpu_compute_capability, t.price_per_hour,
           t.spot_price_per_hour, t.spot_price_defaulted, t.is_available, t.supports_spot,
           t.metadata, t.created_at, t.updated_at,
           t.is_available AND coalesce(a.is_available, true) AS offered
      FROM instance_types t
      LEFT JOIN (region_instance_availability a
                 JOIN regions r
                   ON r.id = a.region_id AND r.code = $2::text AND r.deleted_at IS NULL)
        ON a.instance_type_id = t.id
     WHERE t.deleted_at IS NULL
       AND ($1::text IS NULL OR t.provider = $1)
       AND ($2::text IS NULL OR a.region_id IS NOT NULL)
       AND ($3::boolean IS NULL OR (t.is_available AND coalesce(a.is_available, true)) = $3)
       AND ($4::text IS NULL OR (t.provider, t.instance_name, t.id) > ($4, $5::text, $6::int))
     ORDER BY t.provider, t.instance_name, t.id
     LIMIT $7
"""

COUNT_TYPES: Final = """
    SELECT count(*)
      FROM instance_types t
      LEFT JOIN (region_instance_availability a
                 JOIN regions r
                   ON r.id = a.region_id AND r.code = $2::text AND r.deleted_at IS NULL)
        ON a.instance_type_id = t.id
     WHERE t.deleted_at IS NULL
       AND ($1::text IS NULL OR t.provider = $1)
       AND ($2::text IS NULL OR a.region_id IS NOT NULL)
       AND ($3::boolean IS NULL OR (t.is_available AND coalesce(a.is_available, true)) = $3)
"""

COUNT_LIVE_OF_TYPE: Final = """
    SELECT (SELECT count(*)
              FROM instances
             WHERE instance_type_id = $1 AND status NOT IN ('terminating', 'terminated'))
         + (SELECT count(*)
              FROM nodes
             WHERE instance_type_id = $1 AND status NOT IN ('terminating', 'dead'))
"""


@dataclass(frozen=True, slots=True)
class InstanceType:
    """An instance type; its id is 0 before it is stored."""

    id: int
    provider: str
    instance_type: str
    instance_name: str
    vcpu_count: int
    memory_gb: Decimal
    gpu_count: int
    gpu_memory_gb: Decimal
    gpu_model: str
    gpu_compute_capability: str | None
    price_per_hour: Decimal | None
    spot_price_per_hour: Decimal | None
    spot_price_defaulted: bool
    is_available: bool
    supports_spot: bool
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Listed:
    """A type in a list; ``offered`` is whether the region of the list offers it."""

    type: InstanceType
    offered: bool


async def insert_type(conn: Conn, new: InstanceType) -> InstanceType:
    """Insert a type; the database assigns the id.

    Raises:
        asyncpg.UniqueViolationError: ``instance_types_name_key``: the provider has it already.
    """
    row = await conn.fetchrow(
        INSERT_TYPE,
        new.provider,
        new.instance_type,
        new.instance_name,
        new.vcpu_count,
        new.memory_gb,
        new.gpu_count,
        new.gpu_memory_gb,
        new.gpu_model,
        new.gpu_compute_capability,
        new.price_per_hour,
        new.spot_price_per_hour,
        new.spot_price_defaulted,
        new.is_available,
        new.supports_spot,
        new.metadata,
        new.created_at,
    )
    return _stored(row)


async def find_type(conn: Conn, type_id: int) -> InstanceType | None:
    """Find a type that is not deleted."""
    return _found(await conn.fetchrow(FIND_TYPE, type_id))


async def lock_type(conn: Conn, type_id: int) -> InstanceType | None:
    """Lock a type against other updates until the transaction ends."""
    return _found(await conn.fetchrow(LOCK_TYPE, type_id))


async def lock_type_by_name(conn: Conn, provider: str, name: str) -> InstanceType | None:
    """Lock a type by provider and name against other updates."""
    return _found(await conn.fetchrow(LOCK_TYPE_BY_NAME, provider, name))


async def lock_type_to_delete(conn: Conn, type_id: int) -> InstanceType | None:
    """Lock a type against updates and launches."""
    return _found(await conn.fetchrow(LOCK_TYPE_TO_DELETE, type_id))


async def lock_type_shared(conn: Conn, type_id: int) -> InstanceType | None:
    """Lock a type against deletion until the transaction ends."""
    return _found(await conn.fetchrow(LOCK_TYPE_SHARED, type_id))


async def update_type(conn: Conn, changed: InstanceType, now: datetime) -> InstanceType:
    """Update the mutable fields of a locked type."""
    row = await conn.fetchrow(
        UPDATE_TYPE,
        changed.id,
        changed.instance_name,
        changed.price_per_hour,
        changed.spot_price_per_hour,
        changed.spot_price_defaulted,
        changed.is_available,
        changed.supports_spot,
        changed.metadata,
        now,
    )
    return _stored(row)


async def delete_type(conn: Conn, type_id: int, now: datetime) -> None:
    """Mark a locked type deleted."""
    await conn.execute(DELETE_TYPE, type_id, now)


async def list_types(
    conn: Conn, page: Page, *, provider: str | None, region: str | None, available: bool | None
) -> Slice[Listed]:
    """List types by provider, name and id; one item more than the limit if more follow."""
    after = page.after or (None, None, None)
    rows = await conn.fetch(LIST_TYPES, provider, region, available, *after, page.limit + 1)
    total = await conn.fetchval(COUNT_TYPES, provider, region, available)
    return Slice([_listed(row) for row in rows], total)


async def count_live(conn: Conn, type_id: int) -> int:
    """Count the live instances and nodes that prevent a deletion."""
    count: int = await conn.fetchval(COUNT_LIVE_OF_TYPE, type_id)
    return count


def type_key(listed: Listed) -> Sequence[Any]:
    """Return the sort key of a type in its list."""
    return (listed.type.provider, listed.type.instance_name, listed.type.id)


def _listed(row: Any) -> Listed:
    values = dict(row)
    offered = values.pop("offered")
    return Listed(InstanceType(**values), offered)


def _found(row: Any) -> InstanceType | None:
    return InstanceType(**row) if row is not None else None


def _stored(row: Any) -> InstanceType:
    return InstanceType(**row)
