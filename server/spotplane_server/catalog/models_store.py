"""Rows of models."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NewType
from uuid import UUID

from spotplane_server.kernel.db import Conn
from spotplane_server.kernel.paging import Page, Slice

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
     WHERE id = $1
"""

LOCK_MODEL_BY_NAME: Final = """
    SELECT id, name, family, size, type, context_length, vram_required_gb, price_input_per_million,
           price_cached_input_per_million, price_output_per_million, tokens_per_second_capacity,
           status, metadata, created_at, updated_at
      FROM models
     WHERE name = $1
       FOR NO KEY UPDATE
"""

UPDATE_MODEL: Final = """
    UPDATE models
       SET family = $2, size = $3, type = $4, context_length = $5, vram_required_gb = $6,
           price_input_per_million = $7, price_cached_input_per_million = $8,
           price_output_per_million = $9, tokens_per_second_capacity = $10, status = $11,
           metadata = $12, updated_at = $13
     WHERE id = $1
    RETURNING id, name, family, size, type, context_length, vram_required_gb,
              price_input_per_million, price_cached_input_per_million, price_output_per_million,
              tokens_per_second_capacity, status, metadata, created_at, updated_at
"""

# One text key serves every order: instants and numbers are padded so that text sorts as they do.
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
     WHERE ($1::text IS NULL OR family = $1)
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
     WHERE ($1::text IS NULL OR family = $1)
       AND ($2::text IS NULL OR type = $2)
       AND ($3::text IS NULL OR status = $3)
       AND ($4::int IS NULL OR vram_required_gb >= $4)
       AND ($5::int IS NULL OR vram_required_gb <= $5)
       AND ($6::text IS NULL OR strpos(lower(name), lower($6)) > 0 OR strpos(lower(family),
       lower($6)) > 0)
"""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as stored; prices are USD per million tokens."""

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
    """A model in a list, with the text it is sorted by."""

    model: Model
    sort_key: str


@dataclass(frozen=True, slots=True)
class Filters:
    """Which models are wanted; None for all."""

    family: str | None
    type: str | None
    status: str | None
    min_vram: int | None
    max_vram: int | None
    search: str | None


async def insert_model(conn: Conn, model: Model) -> Model:
    """Store a new model.

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
    """Read a model."""
    return _found(await conn.fetchrow(FIND_MODEL, model_id))


async def lock_model_by_name(conn: Conn, name: str) -> Model | None:
    """Read a model by its name and keep other changes of it away until the transaction ends."""
    return _found(await conn.fetchrow(LOCK_MODEL_BY_NAME, name))


async def update_model(conn: Conn, model: Model, now: datetime) -> Model:
    """Store all but the name of a model that is locked."""
    row = await conn.fetchrow(
        UPDATE_MODEL,
        model.id,
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


async def list_models(
    conn: Conn, page: Page, filters: Filters, *, sort_by: str, descending: bool
) -> Slice[Listed]:
    """A page of models in the order asked for, then by id; one item too many when more follow."""
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
