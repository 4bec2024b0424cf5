"""Which instance types are sold in which regions, seen from either side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from spotplane_server.catalog.regions_store import RegionId
from spotplane_server.kernel.db.database import Conn

# By id, so that two callers never wait for each other; a region held so cannot be deleted.
HOLD_REGIONS: Final = """
    SELECT id, code, provider
      FROM regions
     WHERE code = ANY($1::text[]) AND deleted_at IS NULL
     ORDER BY id
       FOR KEY SHARE
"""

LIST_REGION_CODES: Final = """
    SELECT code
      FROM regions
     WHERE provider = $1 AND deleted_at IS NULL
     ORDER BY code
"""

LIST_ASSOCIATED: Final = """
    SELECT region_id, is_available, stock_status
      FROM region_instance_availability
     WHERE instance_type_id = $1
"""

# A row that was only inserted has no xmax; rows go in by id, as every caller's do.
ASSOCIATE: Final = """
    INSERT INTO region_instance_availability AS a
           (region_id, instance_type_id, is_available, stock_status, updated_at)
    SELECT region_id, $2, $3, $4, $5
      FROM unnest($1::uuid[]) AS region_id
     ORDER BY region_id
    ON CONFLICT (region_id, instance_type_id) DO UPDATE
       SET is_available = excluded.is_available,
           stock_status = excluded.stock_status,
           updated_at = excluded.updated_at
    RETURNING (xmax = 0) AS inserted
"""

LIST_OFFERS: Final = """
    SELECT t.id, t.instance_type, t.instance_name, t.gpu_model, t.gpu_count, t.gpu_memory_gb,
           t.vcpu_count, t.memory_gb, t.price_per_hour, t.spot_price_per_hour, t.supports_spot,
           a.is_available, a.stock_status
      FROM region_instance_availability a
      JOIN instance_types t ON t.id = a.instance_type_id
     WHERE a.region_id = $1 AND t.is_available AND t.deleted_at IS NULL
     ORDER BY t.gpu_model, t.gpu_count, t.id
"""

LIST_PLACES: Final = """
    SELECT r.code, r.name, r.country, r.city, r.cost_multiplier, a.is_available, a.stock_status
      FROM region_instance_availability a
      JOIN regions r ON r.id = a.region_id
     WHERE a.instance_type_id = $1 AND r.status = 'active' AND r.deleted_at IS NULL
     ORDER BY r.name, r.code
"""


@dataclass(frozen=True, slots=True)
class HeldRegion:
    """A region that cannot be deleted until the transaction ends."""

    id: RegionId
    code: str
    provider: str


@dataclass(frozen=True, slots=True)
class Tally:
    """How many associations were new, and how many were there before."""

    inserted: int
    updated: int


@dataclass(frozen=True, slots=True)
class Terms:
    """How a type is offered in a region."""

    is_available: bool
    stock_status: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A type as one region offers it; prices are base prices."""

    id: int
    instance_type: str
    instance_name: str
    gpu_model: str
    gpu_count: int
    gpu_memory_gb: Decimal
    vcpu_count: int
    memory_gb: Decimal
    price_per_hour: Decimal | None
    spot_price_per_hour: Decimal | None
    supports_spot: bool
    is_available: bool
    stock_status: str


@dataclass(frozen=True, slots=True)
class Place:
    """A region as one type is offered in it."""

    code: str
    name: str
    country: str | None
    city: str | None
    cost_multiplier: Decimal
    is_available: bool
    stock_status: str


async def hold_regions(conn: Conn, codes: Collection[str]) -> dict[str, HeldRegion]:
    """Read the regions there are among ``codes``, by code, and keep their deletion away."""
    rows = await conn.fetch(HOLD_REGIONS, list(codes))
    return {row["code"]: HeldRegion(**row) for row in rows}


async def list_region_codes(conn: Conn, provider: str) -> list[str]:
    """Codes of a provider's regions."""
    return [row["code"] for row in await conn.fetch(LIST_REGION_CODES, provider)]


async def list_associated(conn: Conn, type_id: int) -> Mapping[RegionId, Terms]:
    """Terms of a type's associations, by region."""
    rows = await conn.fetch(LIST_ASSOCIATED, type_id)
    return {row["region_id"]: Terms(row["is_available"], row["stock_status"]) for row in rows}


async def associate(
    conn: Conn, type_id: int, region_ids: Collection[RegionId], terms: Terms, now: datetime
) -> Tally:
    """Add the associations that are missing and update the others; region ids are distinct."""
    rows = await conn.fetch(
        ASSOCIATE, list(region_ids), type_id, terms.is_available, terms.stock_status, now
    )
    inserted = sum(row["inserted"] for row in rows)
    return Tally(inserted, len(rows) - inserted)


async def list_offers(conn: Conn, region_id: RegionId) -> Sequence[Offer]:
    """Available types associated with a region, by GPU model, GPU count and id."""
    return [Offer(**row) for row in await conn.fetch(LIST_OFFERS, region_id)]


async def list_places(conn: Conn, type_id: int) -> Sequence[Place]:
    """Active regions associated with a type, by name and code."""
    return [Place(**row) for row in await conn.fetch(LIST_PLACES, type_id)]
