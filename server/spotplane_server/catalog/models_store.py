"""Store of models."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NewType
from uuid import UUID

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn

ModelId = NewType("ModelId", UUID)

INSERT_MODEL: Final = """
    INSERT INTO models (id, name, family, size, type, context_length, vram_required_gb,
                        price_input_per_million, price_cached_input_per_million,
                        price_output_per_million, tokens_per_second_capacity, status, metadata,
                        created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)
    RETURNING id, name, family, size, type, context_length, vram_required_gb,
              price_input_per_million, price_cached_input_per_million, price_output_per_million,
              tokens_per_second_capacity, status, metadata, created_at, updated_at
"""

FIND_MODEL: Final = """
    SELECT id, name, family, size, type, context_length, vram_required_gb, price_input_per_million,
           price_cached_input_per_million, price_output_per_million, tokens_per_second_capacity,
           status, metadata, created_at, updated_at
      FROM models
     WHERE id = $1 AND deleted_at IS NULL
"""

# Not FOR UPDATE: launches hold the row FOR KEY SHARE, and a price change must not wait for them.
LOCK_MODEL: Final = """
    SELECT id, name, family, size, type, context_length, vram_required_gb, price_input_per_million,
           price_cached_input_per_million, price_output_per_million, tokens_per_second_capacity,
           status, metadata, created_at, updated_at
      FROM models
     WHERE id = $1 AND deleted_at IS NULL
       FOR NO KEY UPDATE
"""

LOCK_MODEL_BY_NAME: Final = """
    SELECT id, name, family, size, type, context_length, vram_required_gb, price_input_per_million,
           price_cached_input_per_million, price_output_per_million, tokens_per_second_capacity,
           status, metadata, created_at, updated_at
      FROM models
     WHERE name = $1 AND deleted_at IS NULL
       FOR NO KEY UPDATE
"""

# FOR UPDATE waits for launches that hold the row and blocks later ones, which then find it deleted.
LOCK_MODEL_TO_DELETE: Final = """
    SELECT id, name, family, size, type, context_length, vram_required_gb, price_input_per_million,
           price_cached_input_per_million, price_output_per_million, tokens_per_second_capacity,
           status, metadata, created_at, updated_at
      FROM models
     WHERE id = $1 AND deleted_at IS NULL
       FOR UPDATE
"""

UPDATE_MODEL: Final = """
    UPDATE models
       SET name = $2, family = $3, size = $4, type = $5, context_length = $6,
           vram_required_gb = $7, price_input_per_million = $8,
           price_cached_input_per_million = $9, price_output_per_million = $10,
           tokens_per_second_capacity = $11, status = $12, metadata = $13, updated_at = $14
     WHERE id = $1 AND deleted_at IS NULL
    RETURNING id, name, family, size, type, context_length, vram_required_gb,
              price_input_per_million, price_cached_input_per_million, price_output_per_million,
              tokens_per_second_capacity, status, metadata, created_at, updated_at
"""

DELETE_MODEL: Final = """
    UPDATE models
       SET deleted_at = $2, updated_at = $2
     WHERE id = $1
"""

COUNT_LIVE_OF_MODEL: Final = """
    SELECT count(*)
      FROM nodes
     WHERE model_id = $1 AND status NOT IN ('terminating', 'dead')
"""

# One text key for every order: times and numbers are padded so that they sort as text.
LIST_MODELS: Final = """
    SELECT id, name, family, size, type, context_length, vram_required_gb, price_input_per_million,
           price_cached_input_per_million, price_output_per_million, tokens_per_second_capacity,
           status, metadata, created_at, updated_at, sort_key
      FROM models,
           LATERAL (SELECT CASE $7::text
                           WHEN 'family' THEN family
                           WHEN 'created_at' THEN to_char(created_at AT TIME ZONE 'UTC',
                           'YYYYMMDDHH24MISSUS')
                           WHEN 'updated_at' THEN to_char(updated_at AT TIME ZONE 'UTC',
                           'YYYYMMDDHH24MISSUS')
                           WHEN 'vram_required_gb' THEN lpad(vram_required_gb::text, 10, '0')
                           ELSE name
                           END AS sort_key) AS k
     WHERE deleted_at IS NULL
       AND ($1::text IS NULL OR family = $1)
       AND ($2::text IS NULL OR type = $2)
       AND ($3::text IS NULL OR status = $3)
       AND ($4::int IS NULL OR vram_required_gb >= $4)
       AND ($5::int IS NULL OR vram_required_gb <= $5)
       AND ($6::text IS NULL OR strpos(lower(name), lower($6)) > 0 OR strpos(lower(family),
       lower($6)) > 0)
       AND ($9::text IS NULL
            OR CASE WHEN $8::boolean THEN sort_key < $9 ELSE sort_key > $9 END
            OR (sort_key = $9 AND id > $10::uuid))
     ORDER BY CASE WHEN NOT $8 THEN sort_key END, CASE WHEN $8 THEN sort_key END DESC, id
     LIMIT $11 OFFSET $12
"""

COUNT_MODELS: Final = """
    SELECT count(*)
      FROM models
     WHERE deleted_at IS NULL
       AND ($1::text IS NULL OR family = $1)
       AND ($2::text IS NULL OR type = $2)
       AND ($3::text IS NULL OR status = $3)
       AND ($4::int IS NULL OR vram_required_gb >= $4)
       AND ($5::int IS NULL OR vram_required_gb <= $5)
       AND ($6::text IS NULL OR strpos(lower(name), lower($6)) > 0 OR strpos(lower(family),
       lower($6)) > 0)
"""


@dataclass(frozen=True, slots=True)
class Model:
    """A model; prices are USD per million tokens."""

    id: ModelId
    name: str
    family: str
    size: str | None
    type: str
    context_length: int
    vram_required_gb: int
    price_input_per_million: Decimal
    price_cached_input_per_million: Decimal | None
    price_output_per_million: Decimal
    tokens_per_second_capacity: int | None
    status: str
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Listed:
    """A model in a list, with its sort key."""

    model: Model
    sort_key: str


@dataclass(frozen=True, slots=True)
class Filters:
    """Filters of a model list; None for all."""

    family: str | None
    type: str | None
    status: str | None
    min_vram: int | None
    max_vram: int | None
    search: str | None


async def insert_model(conn: Conn, model: Model) -> Model:
    """Insert a model.

    Raises:
        asyncpg.UniqueViolationError: ``models_name_key``: the name is taken.
    """
    row = await conn.fetchrow(
        INSERT_MODEL,
        model.id,
        model.name,
        model.family,
        model.size,
        model.type,
        model.context_length,
        model.vram_required_gb,
        model.price_input_per_million,
        model.price_cached_input_per_million,
        model.price_output_per_million,
        model.tokens_per_second_capacity,
        model.status,
        model.metadata,
        model.created_at,
    )
    return _stored(row)


async def find_model(conn: Conn, model_id: ModelId) -> Model | None:
    """Find a model that is not deleted."""
    return _found(await conn.fetchrow(FIND_MODEL, model_id))


async def lock_model(conn: Conn, model_id: ModelId) -> Model | None:
    """Lock a model against other updates until the transaction ends."""
    return _found(await conn.fetchrow(LOCK_MODEL, model_id))


async def lock_model_by_name(conn: Conn, name: str) -> Model | None:
    """Lock a model by name against other updates until the transaction ends."""
    return _found(await conn.fetchrow(LOCK_MODEL_BY_NAME, name))


async def lock_model_to_delete(conn: Conn, model_id: ModelId) -> Model | None:
    """Lock a model against updates and launches."""
    return _found(await conn.fetchrow(LOCK_MODEL_TO_DELETE, model_id))


async def update_model(conn: Conn, model: Model, now: datetime) -> Model:
    """Update a locked model.

    Raises:
        asyncpg.UniqueViolationError: ``models_name_key``: the name is taken.
    """
    row = await conn.fetchrow(
        UPDATE_MODEL,
        model.id,
        model.name,
        model.family,
        model.size,
        model.type,
        model.context_length,
        model.vram_required_gb,
        model.price_input_per_million,
        model.price_cached_input_per_million,
        model.price_output_per_million,
        model.tokens_per_second_capacity,
        model.status,
        model.metadata,
        now,
    )
    return _stored(row)


async def delete_model(conn: Conn, model_id: ModelId, now: datetime) -> None:
    """Mark a locked model deleted."""
    await conn.execute(DELETE_MODEL, model_id, now)


async def count_live(conn: Conn, model_id: ModelId) -> int:
    """Count the live nodes that prevent a deletion."""
    count: int = await conn.fetchval(COUNT_LIVE_OF_MODEL, model_id)
    return count


async def list_models(
    conn: Conn, page: Page, filters: Filters, *, sort_by: str, descending: bool
) -> Slice[Listed]:
    """List models in the requested order, then by id; one more than the limit if more follow."""
    wanted = (
        filters.family,
        filters.type,
        filters.status,
        filters.min_vram,
        filters.max_vram,
        filters.search,
    )
    after = page.after or (None, None)
    rows = await conn.fetch(
        LIST_MODELS, *wanted, sort_by, descending, *after, page.limit + 1, page.offset
    )
    total = await conn.fetchval(COUNT_MODELS, *wanted)
    return Slice([_listed(row) for row in rows], total)


def _listed(row: Any) -> Listed:
    values = dict(row)
    sort_key = values.pop("sort_key")
    return Listed(Model(**values), sort_key)


def _found(row: Any) -> Model | None:
    return Model(**row) if row is not None else None


def _stored(row: Any) -> Model:
    return Model(**row)
