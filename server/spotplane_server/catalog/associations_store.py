"""Store of associations between instance types and regions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from spotplane_server.catalog.regions_store import RegionId
from spotplane_server.kernel.db.database import Conn

# Ordered by id, so that callers cannot deadlock; a locked region cannot be deleted.
LOCK_REGIONS_SHARED: Final = """
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

# An inserted row has xmax 0. Rows are ordered by id, so that callers cannot deadlock.
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

LIST_REGIONAL_OFFERS: Final = """
    SELECT r.code, r.name, r.country, r.city, r.cost_multiplier, a.is_available, a.stock_status
      FROM region_instance_availability a
      JOIN regions r ON r.id = a.region_id
     WHERE a.instance_type_id = $1 AND r.status = 'active' AND r.deleted_at IS NULL
     ORDER BY r.name, r.code
"""


@dataclass(frozen=True, slots=True)
class LockedRegion:
    """A region that cannot be deleted until the transaction ends."""

    id: RegionId
    code: str
    provider: str


@dataclass(frozen=True, slots=True)
class AssociationCounts:
    """Numbers of inserted and updated associations."""

    inserted: int
    updated: int


@dataclass(frozen=True, slots=True)
class OfferTerms:
    """Availability of a type in a region."""

    is_available: bool
    stock_status: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A type offered in a region; prices are base prices."""

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
class RegionalOffer:
    """A region that offers a type."""

    code: str
    name: str
    country: str | None
    city: str | None
    cost_multiplier: Decimal
    is_available: bool
    stock_status: str


async def lock_regions_shared(conn: Conn, codes: Collection[str]) -> dict[str, LockedRegion]:
    """Lock the existing regions among ``codes`` against deletion; return them by code."""
    rows = await conn.fetch(LOCK_REGIONS_SHARED, list(codes))
    return {row["code"]: LockedRegion(**row) for row in rows}


async def list_region_codes(conn: Conn, provider: str) -> list[str]:
    """List the codes of a provider's regions."""
    return [row["code"] for row in await conn.fetch(LIST_REGION_CODES, provider)]


async def list_associated(conn: Conn, type_id: int) -> Mapping[RegionId, OfferTerms]:
    """Return the terms of a type's associations by region."""
    rows = await conn.fetch(LIST_ASSOCIATED, type_id)
    return {row["region_id"]: OfferTerms(row["is_available"], row["stock_status"]) for row in rows}


async def associate(
    conn: Conn, type_id: int, region_ids: Collection[RegionId], terms: OfferTerms, now: datetime
) -> AssociationCounts:
    """Insert missing associations and update the others; region ids are distinct."""
    rows = await conn.fetch(
        ASSOCIATE, list(region_ids), type_id, terms.is_available, terms.stock_status, now
    )
    inserted = sum(row["inserted"] for row in rows)
    return AssociationCounts(inserted, len(rows) - inserted)


async def list_offers(conn: Conn, region_id: RegionId) -> Sequence[Offer]:
    """List available types of a region, by GPU model, GPU count and id."""
    return [Offer(**row) for row in await conn.fetch(LIST_OFFERS, region_id)]


async def list_regional_offers(conn: Conn, type_id: int) -> Sequence[RegionalOffer]:
    """List active regions of a type, by name and code."""
    return [RegionalOffer(**row) for row in await conn.fetch(LIST_REGIONAL_OFFERS, type_id)]
