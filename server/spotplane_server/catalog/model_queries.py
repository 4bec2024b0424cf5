"""Queries of models: search, launch form, public list and endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from spotplane_server.catalog.models_store import Model, ModelId
from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# The text matches keys and values of metadata at any depth.
SEARCH_MODELS: Final = """
    SELECT id, name, family, size, type, context_length, vram_required_gb, price_input_per_million,
           price_cached_input_per_million, price_output_per_million, tokens_per_second_capacity,
           status, metadata, created_at, updated_at
      FROM models
     WHERE deleted_at IS NULL
       AND ($1::text IS NULL
            OR strpos(lower(name), lower($1)) > 0
            OR strpos(lower(family), lower($1)) > 0
            OR EXISTS (SELECT FROM jsonb_path_query(metadata,
                                   'strict $.**?(@.type() == "object").keyvalue().key') AS k
                        WHERE strpos(lower(k #>> '{}'), lower($1)) > 0)
            OR EXISTS (SELECT FROM jsonb_path_query(metadata,
                                   'strict $.**?(@.type() != "object" && @.type() != "array")') AS v
                        WHERE strpos(lower(v #>> '{}'), lower($1)) > 0))
       AND ($2::text[] IS NULL OR family = ANY($2))
       AND ($3::text[] IS NULL OR type = ANY($3))
       AND ($4::int IS NULL OR context_length >= $4)
       AND ($5::numeric IS NULL OR price_input_per_million <= $5)
       AND ($6::text IS NULL OR (name, id) > ($6, $7::uuid))
     ORDER BY name, id
     LIMIT $8 OFFSET $9
"""

COUNT_FOUND_MODELS: Final = """
    SELECT count(*)
      FROM models
     WHERE deleted_at IS NULL
       AND ($1::text IS NULL
            OR strpos(lower(name), lower($1)) > 0
            OR strpos(lower(family), lower($1)) > 0
            OR EXISTS (SELECT FROM jsonb_path_query(metadata,
                                   'strict $.**?(@.type() == "object").keyvalue().key') AS k
                        WHERE strpos(lower(k #>> '{}'), lower($1)) > 0)
            OR EXISTS (SELECT FROM jsonb_path_query(metadata,
                                   'strict $.**?(@.type() != "object" && @.type() != "array")') AS v
                        WHERE strpos(lower(v #>> '{}'), lower($1)) > 0))
       AND ($2::text[] IS NULL OR family = ANY($2))
       AND ($3::text[] IS NULL OR type = ANY($3))
       AND ($4::int IS NULL OR context_length >= $4)
       AND ($5::numeric IS NULL OR price_input_per_million <= $5)
"""

LIST_LAUNCHABLE_MODELS: Final = """
    SELECT id, name, family, size, type, context_length, vram_required_gb, status
      FROM models
     WHERE deleted_at IS NULL AND status <> 'deprecated'
     ORDER BY name
"""

LIST_PUBLIC_MODELS: Final = """
    SELECT name, created_at
      FROM models
     WHERE deleted_at IS NULL
     ORDER BY name
"""

FIND_PUBLIC_MODEL: Final = """
    SELECT name, created_at
      FROM models
     WHERE deleted_at IS NULL AND name = $1
"""

# The operator's nodes serve every tenant, a tenant's nodes only that tenant. The capacity is capped
# at the maximum of its field.
LIST_ENDPOINTS: Final = """
    SELECT m.id, m.name, m.family, m.size, m.type, m.context_length, m.price_input_per_million,
           m.price_output_per_million, m.metadata, n.healthy_nodes, n.total_nodes,
           least(n.healthy_nodes::bigint * coalesce(m.tokens_per_second_capacity, 0),
                 2147483647)::int AS capacity_tps
      FROM models m
      LEFT JOIN LATERAL (
            SELECT (count(*) FILTER (WHERE status = 'active' AND health_score >= 50))::int
                       AS healthy_nodes,
                   count(*)::int AS total_nodes
              FROM nodes
             WHERE model_id = m.id AND status NOT IN ('terminating', 'dead')
               AND (tenant_id IS NULL OR tenant_id = $1)) AS n ON true
     WHERE m.deleted_at IS NULL
       AND ($2::text IS NULL OR m.type = $2)
       AND ($3::text IS NULL OR m.name = $3)
     ORDER BY m.name
"""


@dataclass(frozen=True, slots=True)
class ModelSearch:
    """Criteria of a model search; None for any."""

    text: str | None
    families: list[str] | None
    types: list[str] | None
    min_context_length: int | None
    max_price_input: Decimal | None


@dataclass(frozen=True, slots=True)
class LaunchableModel:
    """A model in the launch form."""

    id: ModelId
    name: str
    family: str
    size: str | None
    type: str
    context_length: int
    vram_required_gb: int
    status: str


@dataclass(frozen=True, slots=True)
class PublicModel:
    """A model in the public list."""

    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model and its nodes for one tenant; prices are USD per million tokens."""

    id: ModelId
    name: str
    family: str
    size: str | None
    type: str
    context_length: int
    price_input_per_million: Decimal
    price_output_per_million: Decimal
    metadata: dict[str, Any]
    healthy_nodes: int
    total_nodes: int
    capacity_tps: int


async def search_models(conn: Conn, page: Page, search: ModelSearch) -> Slice[Model]:
    """Search models, ordered by name and id; one item more than the limit if more follow."""
    wanted = (
        search.text,
        search.families,
        search.types,
        search.min_context_length,
        search.max_price_input,
    )
    after = page.after or (None, None)
    rows = await conn.fetch(SEARCH_MODELS, *wanted, *after, page.limit + 1, page.offset)
    total = await conn.fetchval(COUNT_FOUND_MODELS, *wanted)
    return Slice([Model(**row) for row in rows], total)


async def list_launchable_models(conn: Conn) -> Sequence[LaunchableModel]:
    """List models that can be launched, by name."""
    return [LaunchableModel(**row) for row in await conn.fetch(LIST_LAUNCHABLE_MODELS)]


async def list_public_models(conn: Conn) -> Sequence[PublicModel]:
    """List all models by name."""
    return [PublicModel(**row) for row in await conn.fetch(LIST_PUBLIC_MODELS)]


async def find_public_model(conn: Conn, name: str) -> PublicModel | None:
    """Find a model by its name."""
    row: Any = await conn.fetchrow(FIND_PUBLIC_MODEL, name)
    return PublicModel(**row) if row is not None else None


async def list_endpoints(
    conn: Conn, tenant_id: TenantId | None, *, kind: str | None = None, name: str | None = None
) -> Sequence[ServedModel]:
    """List models by name with their nodes for a tenant, optionally of one type or name.

    The connection must see all tenants.
    """
    rows = await conn.fetch(LIST_ENDPOINTS, tenant_id, kind, name)
    return [ServedModel(**row) for row in rows]
