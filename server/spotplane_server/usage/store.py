"""Writing usage: a constant number of statements a batch, whatever its size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias

import orjson

from spotplane_server.kernel.db.database import Conn
from spotplane_server.usage import columns
from spotplane_server.usage.pricing import ModelPrices
from spotplane_server.usage.rollup_builder import Place, Priced
from spotplane_server.usage.rules import Draft, Scope

FIND_OWNERS: Final = """
    SELECT 'tenant' AS kind, t.id::text AS tenant_id, NULL AS id, NULL AS environment_id
      FROM tenants t
     WHERE t.id = ANY($1::uuid[])
    UNION ALL
    SELECT 'environment', v.tenant_id::text, v.id::text, NULL
      FROM environments v
     WHERE v.tenant_id = ANY($1::uuid[]) AND v.id = ANY($2::uuid[])
    UNION ALL
    SELECT 'api_key', k.tenant_id::text, k.id::text, k.environment_id::text
      FROM api_keys k
     WHERE k.tenant_id = ANY($1::uuid[]) AND k.id = ANY($3::uuid[])
"""

# From the price that held at $3 on; a model without history has its current prices only. A name
# may have been used again: who has it now comes first, then who had it last.
FIND_MODELS: Final = """
    SELECT m.id::text AS id, m.name, coalesce(h.valid_from, m.created_at) AS valid_from,
           coalesce(h.prices,
                    jsonb_build_object('input', m.price_input_per_million::text,
                                       'cached', m.price_cached_input_per_million::text,
                                       'output', m.price_output_per_million::text)) AS prices
      FROM models m
      LEFT JOIN price_history h
        ON h.kind = 'model' AND h.ref_id = m.id
       AND h.valid_from >= coalesce((SELECT max(p.valid_from)
                                       FROM price_history p
                                      WHERE p.kind = 'model' AND p.ref_id = m.id
                                        AND p.valid_from <= $3), '-infinity')
     WHERE m.id = ANY($1::uuid[]) OR m.name = ANY($2::text[])
     ORDER BY m.deleted_at DESC NULLS FIRST, m.id, valid_from
"""

# A code may have been used again: who has it now comes first, then who had it last.
FIND_REGIONS: Final = """
    SELECT r.id::text AS id, r.code, coalesce(h.valid_from, r.created_at) AS valid_from,
           coalesce(h.prices,
                    jsonb_build_object('multiplier', r.cost_multiplier::text)) AS prices
      FROM regions r
      LEFT JOIN price_history h
        ON h.kind = 'region' AND h.ref_id = r.id
       AND h.valid_from >= coalesce((SELECT max(p.valid_from)
                                       FROM price_history p
                                      WHERE p.kind = 'region' AND p.ref_id = r.id
                                        AND p.valid_from <= $3), '-infinity')
     WHERE r.id = ANY($1::uuid[]) OR r.code = ANY($2::text[])
     ORDER BY r.deleted_at DESC NULLS FIRST, r.id, valid_from
"""

# Answers which ids were not free, as positions. Columns have thousands of values: tenants by their
# number among few, times in Unix microseconds, hashes of 16 bytes one behind the other and texts as
# JSON cost the driver a fraction of what arrays of them would.
CLAIM_REQUEST_IDS: Final = """
    WITH sent AS (
        SELECT ($1::uuid[])[r.tenant] AS tenant_id, r.request_id, from_micros(r.at) AS at,
               substring($2::bytea FROM (16 * r.position - 15)::int FOR 16) AS content_hash,
               r.position
          FROM ROWS FROM (unnest($3::int[], $4::bigint[]),
                          json_array_elements_text($5::text::json))
               WITH ORDINALITY AS r(tenant, at, request_id, position)
    ), claimed AS (
        INSERT INTO usage_dedup (tenant_id, request_id, content_hash, "timestamp")
        SELECT tenant_id, request_id, content_hash, at
          FROM sent
         ORDER BY position
        ON CONFLICT ON CONSTRAINT usage_dedup_pkey DO NOTHING
        RETURNING tenant_id, request_id
    )
    SELECT s.position
      FROM sent s
     WHERE (SELECT count(*) FROM claimed) < cardinality($3)
       AND NOT EXISTS (SELECT
                         FROM claimed c
                        WHERE c.tenant_id = s.tenant_id AND c.request_id = s.request_id)
"""

FIND_CONTENT: Final = """
    SELECT d.tenant_id::text AS tenant_id, d.request_id, d.content_hash
      FROM unnest($1::uuid[], $2::text[]) AS r(tenant_id, request_id)
      JOIN usage_dedup d USING (tenant_id, request_id)
"""

# Records share few combinations of dimensions, prices and outcomes, so those travel once, as lines.
INSERT_RECORDS: Final = """
    INSERT INTO usage_records (
           tenant_id, "timestamp", request_id, environment_id, api_key_id, model_id, region_id,
           node_id, prompt_tokens, completion_tokens, cached_tokens, total_tokens, latency_ms,
           status_code, outcome, price_input, price_cached, price_output, region_multiplier,
           cost_nanos, metadata, ingested_at)
    SELECT l.tenant_id, from_micros(r.at), r.request_id, l.environment_id,
           l.api_key_id, l.model_id, l.region_id, r.node_id, r.prompt_tokens, r.completion_tokens,
           r.cached_tokens, r.prompt_tokens + r.completion_tokens, r.latency_ms, l.status_code,
           l.outcome, l.price_input, l.price_cached, l.price_output, l.region_multiplier,
           r.cost_nanos, r.metadata, $1
      FROM ROWS FROM (unnest($2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                             $7::int[], $8::bigint[], $9::jsonb[]),
                      json_array_elements_text($10::text::json),
                      json_array_elements_text($11::text::json))
           AS r(line, at, prompt_tokens, completion_tokens, cached_tokens, latency_ms, cost_nanos,
                metadata, request_id, node_id)
      JOIN unnest($12::uuid[], $13::uuid[], $14::uuid[], $15::uuid[], $16::uuid[],
                  $17::numeric[], $18::numeric[], $19::numeric[], $20::numeric[], $21::int[],
                  $22::text[])
           WITH ORDINALITY
           AS l(tenant_id, environment_id, api_key_id, model_id, region_id, price_input,
                price_cached, price_output, region_multiplier, status_code, outcome, line)
        ON l.line = r.line
"""

RequestKey: TypeAlias = tuple[str, str]
_LineKey: TypeAlias = tuple[int, int, int | None, str]


@dataclass(slots=True)
class Owners:
    """Tenants, environments and keys that exist; ids in canonical text, the tenant's first."""

    tenants: set[str] = field(default_factory=set)
    environments: set[tuple[str, str]] = field(default_factory=set)
    key_environments: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass(slots=True)
class Catalog:
    """Models or regions that exist: histories by id, and ids by name."""

    histories: dict[str, list[tuple[datetime, Any]]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)


async def find_owners(conn: Conn, scopes: Iterable[Scope]) -> Owners:
    """Read which of the tenants, environments and keys named exist."""
    scopes = list(scopes)
    found = Owners()
    rows = await conn.fetch(
        FIND_OWNERS,
        _distinct(s.tenant_id for s in scopes),
        _distinct(s.environment_id for s in scopes),
        _distinct(s.api_key_id for s in scopes),
    )
    for row in rows:
        owned = (row["tenant_id"], row["id"])
        if row["kind"] == "tenant":
            found.tenants.add(row["tenant_id"])
        elif row["kind"] == "environment":
            found.environments.add(owned)
        else:
            found.key_environments[owned] = row["environment_id"]
    return found


async def find_models(conn: Conn, scopes: Iterable[Scope], since: datetime) -> Catalog:
    """Read the models named, with their prices from ``since`` on."""
    scopes = list(scopes)
    rows = await conn.fetch(
        FIND_MODELS,
        _distinct(s.model_id for s in scopes),
        _distinct(s.model for s in scopes),
        since,
    )
    found = Catalog()
    for row in rows:
        found.ids.setdefault(row["name"], row["id"])
        history = found.histories.setdefault(row["id"], [])
        history.append((row["valid_from"], ModelPrices.of(row["prices"])))
    return found


async def find_regions(conn: Conn, scopes: Iterable[Scope], since: datetime) -> Catalog:
    """Read the regions named, with their multipliers from ``since`` on."""
    scopes = list(scopes)
    rows = await conn.fetch(
        FIND_REGIONS,
        _distinct(s.region_id for s in scopes),
        _distinct(s.region_code for s in scopes),
        since,
    )
    found = Catalog()
    for row in rows:
        found.ids.setdefault(row["code"], row["id"])
        history = found.histories.setdefault(row["id"], [])
        history.append((row["valid_from"], Decimal(str(row["prices"]["multiplier"]))))
    return found


async def claim_request_ids(conn: Conn, drafts: Iterable[Draft]) -> set[RequestKey]:
    """Take the request ids that are free; waits for writers that hold some of them.

    Returns:
        Those that were not free.
    """
    # In key order, so that batches with ids in common wait for each other in one direction only.
    ordered = sorted(drafts, key=lambda d: (d.scope.tenant_id, d.request_id))
    tenants = _distinct(d.scope.tenant_id for d in ordered)
    numbers = {tenant_id: number for number, tenant_id in enumerate(tenants, 1)}
    rows = await conn.fetch(
        CLAIM_REQUEST_IDS,
        tenants,
        b"".join([d.content_hash for d in ordered]),
        [numbers[d.scope.tenant_id] for d in ordered],
        columns.micros([d.at for d in ordered]).tolist(),
        _texts([d.request_id for d in ordered]),
    )
    held = [ordered[row["position"] - 1] for row in rows]
    return {(d.scope.tenant_id, d.request_id) for d in held}


async def find_content(conn: Conn, keys: Sequence[RequestKey]) -> dict[RequestKey, bytes]:
    """Read the content hashes under which request ids were taken."""
    rows = await conn.fetch(FIND_CONTENT, [k[0] for k in keys], [k[1] for k in keys])
    return {(row["tenant_id"], row["request_id"]): row["content_hash"] for row in rows}


async def insert_records(conn: Conn, records: Sequence[Priced], now: datetime) -> None:
    """Append raw records."""
    lines: dict[_LineKey, tuple[int, Priced]] = {}
    numbers = [lines.setdefault(_line_key(r), (len(lines) + 1, r))[0] for r in records]
    drafts = [r.draft for r in records]
    await conn.execute(
        INSERT_RECORDS,
        now,
        numbers,
        columns.micros([d.at for d in drafts]).tolist(),
        [d.prompt_tokens for d in drafts],
        [d.completion_tokens for d in drafts],
        [d.cached_tokens for d in drafts],
        [d.latency_ms for d in drafts],
        [r.cost_nanos for r in records],
        [d.metadata for d in drafts],
        _texts([d.request_id for d in drafts]),
        _texts([d.node_id for d in drafts]),
        *_columns([_line(r) for _, r in lines.values()]),
    )


def _line_key(record: Priced) -> _LineKey:
    draft = record.draft
    return id(record.place), id(record.rates), draft.status_code, draft.outcome


def _line(record: Priced) -> tuple[Any, ...]:
    place: Place = record.place
    of, rates = place.dimensions, record.rates
    model = rates.model
    prices = (model.input, model.cached, model.output) if model else (None, None, None)
    return (
        of.tenant_id,
        of.environment_id,
        of.api_key_id,
        of.model_id,
        of.region_id,
        *prices,
        rates.multiplier,
        record.draft.status_code,
        record.draft.outcome,
    )


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _texts(values: Sequence[str | None]) -> str:
    return orjson.dumps(values).decode()


def _distinct(values: Iterable[str | None]) -> list[str]:
    return sorted({value for value in values if value is not None})
