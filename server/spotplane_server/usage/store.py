"""Writing usage: a constant number of statements a batch, whatever its size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from spotplane_server.kernel.db import Conn
from spotplane_server.usage.pricing import ModelPrices
from spotplane_server.usage.rollup import Place, Priced
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

CLAIM_REQUEST_IDS: Final = """
    INSERT INTO usage_dedup (tenant_id, request_id, content_hash, "timestamp")
    SELECT r.tenant_id, r.request_id, r.content_hash, r.at
      FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::timestamptz[])
           AS r(tenant_id, request_id, content_hash, at)
    ON CONFLICT ON CONSTRAINT usage_dedup_pkey DO NOTHING
    RETURNING tenant_id::text, request_id
"""

FIND_CONTENT: Final = """
    SELECT d.tenant_id::text AS tenant_id, d.request_id, d.content_hash
      FROM unnest($1::uuid[], $2::text[]) AS r(tenant_id, request_id)
      JOIN usage_dedup d USING (tenant_id, request_id)
"""

# Records share few combinations of dimensions and prices, so those travel once, as lines.
INSERT_RECORDS: Final = """
    INSERT INTO usage_records (
           tenant_id, "timestamp", request_id, environment_id, api_key_id, model_id, region_id,
           node_id, prompt_tokens, completion_tokens, cached_tokens, total_tokens, latency_ms,
           status_code, outcome, price_input, price_cached, price_output, region_multiplier,
           cost_nanos, metadata, ingested_at)
    SELECT l.tenant_id, r.at, r.request_id, l.environment_id, l.api_key_id, l.model_id,
           l.region_id, r.node_id, r.prompt_tokens, r.completion_tokens, r.cached_tokens,
           r.prompt_tokens + r.completion_tokens, r.latency_ms, r.status_code, r.outcome,
           l.price_input, l.price_cached, l.price_output, l.region_multiplier, r.cost_nanos,
           r.metadata, $1
      FROM unnest($2::int[], $3::timestamptz[], $4::text[], $5::text[], $6::bigint[],
                  $7::bigint[], $8::bigint[], $9::int[], $10::int[], $11::text[], $12::bigint[],
                  $13::jsonb[])
           AS r(line, at, request_id, node_id, prompt_tokens, completion_tokens, cached_tokens,
                latency_ms, status_code, outcome, cost_nanos, metadata)
      JOIN unnest($14::uuid[], $15::uuid[], $16::uuid[], $17::uuid[], $18::uuid[],
                  $19::numeric[], $20::numeric[], $21::numeric[], $22::numeric[])
           WITH ORDINALITY
           AS l(tenant_id, environment_id, api_key_id, model_id, region_id, price_input,
                price_cached, price_output, region_multiplier, line)
        ON l.line = r.line
"""

RequestKey = tuple[str, str]


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
        Those taken by this call.
    """
    # In key order, so that batches with ids in common wait for each other in one direction only.
    ordered = sorted(drafts, key=lambda d: (d.scope.tenant_id, d.request_id))
    rows = await conn.fetch(
        CLAIM_REQUEST_IDS,
        [d.scope.tenant_id for d in ordered],
        [d.request_id for d in ordered],
        [d.content_hash for d in ordered],
        [d.at for d in ordered],
    )
    return {(row["tenant_id"], row["request_id"]) for row in rows}


async def find_content(conn: Conn, keys: Sequence[RequestKey]) -> dict[RequestKey, bytes]:
    """Read the content hashes under which request ids were taken."""
    rows = await conn.fetch(FIND_CONTENT, [k[0] for k in keys], [k[1] for k in keys])
    return {(row["tenant_id"], row["request_id"]): row["content_hash"] for row in rows}


async def insert_records(conn: Conn, records: Sequence[Priced], now: datetime) -> None:
    """Append raw records."""
    lines: dict[tuple[int, int], tuple[int, Priced]] = {}
    numbers = [
        lines.setdefault((id(r.place), id(r.rates)), (len(lines) + 1, r))[0] for r in records
    ]
    drafts = [r.draft for r in records]
    await conn.execute(
        INSERT_RECORDS,
        now,
        numbers,
        [d.at for d in drafts],
        [d.request_id for d in drafts],
        [d.node_id for d in drafts],
        [d.prompt_tokens for d in drafts],
        [d.completion_tokens for d in drafts],
        [d.cached_tokens for d in drafts],
        [d.latency_ms for d in drafts],
        [d.status_code for d in drafts],
        [d.outcome for d in drafts],
        [r.cost_nanos for r in records],
        [d.metadata for d in drafts],
        *_columns([_line(r) for _, r in lines.values()]),
    )


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
    )


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _distinct(values: Iterable[str | None]) -> list[str]:
    return sorted({value for value in values if value is not None})
