"""Usage records that could not be stored, kept for an operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID, uuid4

import asyncpg
from spotplane.v1 import usage_pb2 as pb

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.jobs.retention import Rule
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.usage.rules import content_hash

# A sender that is wrong about everything must not fill the disk.
MAX_KEPT: Final = 10_000
RETENTION: Final = (Rule("usage_dead_letters", "received_at", timedelta(days=40)),)

# Of tenants that exist, as many as there is room for. $1 who sent them, $2 its id, $3 now, $4 the
# room, $5 its environment.
KEEP: Final = """
    INSERT INTO usage_dead_letters (
           tenant_id, id, record_hash, record, environment_id, sender_kind, sender_id, code, field,
           description, received_at)
    SELECT r.tenant_id, r.id, r.record_hash, r.record, $5, $1, $2, r.code, r.field, r.description,
           $3
      FROM (SELECT u.tenant_id, u.id, u.record_hash, u.record, u.code, u.field, u.description,
                   row_number() OVER (PARTITION BY u.tenant_id ORDER BY u.record_hash) AS place
              FROM unnest($6::uuid[], $7::uuid[], $8::bytea[], $9::bytea[], $10::text[],
                          $11::text[], $12::text[])
                   AS u(tenant_id, id, record_hash, record, code, field, description)) AS r
      JOIN (SELECT t.id, count(k.id) AS kept
              FROM tenants t
              LEFT JOIN usage_dead_letters k ON k.tenant_id = t.id
             WHERE t.id = ANY($6::uuid[])
             GROUP BY t.id) AS room
        ON room.id = r.tenant_id AND room.kept + r.place <= $4
    ON CONFLICT ON CONSTRAINT usage_dead_letters_once DO NOTHING
    RETURNING id
"""

LIST: Final = """
    SELECT t.total, p.id, p.record, p.sender_kind, p.sender_id, p.code, p.field, p.description,
           p.received_at
      FROM (SELECT count(*) AS total
              FROM usage_dead_letters
             WHERE tenant_id = $1 AND ($2::text IS NULL OR code = $2)) AS t
      LEFT JOIN (SELECT id, record, sender_kind, sender_id, code, field, description, received_at
                   FROM usage_dead_letters
                  WHERE tenant_id = $1 AND ($2::text IS NULL OR code = $2)
                    AND ($5::timestamptz IS NULL OR (received_at, id) < ($5, $6::uuid))
                  ORDER BY received_at DESC, id DESC
                  LIMIT $3 OFFSET $4) AS p ON true
     ORDER BY p.received_at DESC, p.id DESC
"""

# $2 which ones, all when it is empty.
CLAIM: Final = """
    SELECT id, record, environment_id, received_at
      FROM usage_dead_letters
     WHERE tenant_id = $1 AND (cardinality($2::uuid[]) = 0 OR id = ANY($2))
     ORDER BY received_at, id
     LIMIT $3
       FOR UPDATE SKIP LOCKED
"""

DISCARD: Final = """
    DELETE FROM usage_dead_letters
     WHERE tenant_id = $1 AND id = ANY($2::uuid[])
    RETURNING id
"""

EXPLAIN_AGAIN: Final = """
    UPDATE usage_dead_letters d
       SET code = r.code, field = r.field, description = r.description
      FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[])
           AS r(id, code, field, description)
     WHERE d.tenant_id = $1 AND d.id = r.id
"""

COUNT: Final = "SELECT count(*) FROM usage_dead_letters WHERE tenant_id = $1"


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent records: an agent, or the key or credential of a call."""

    kind: Literal["agent", "tenant", "admin"]
    id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A record and why it was refused; ``tenant_id`` None when it cannot be told whose it is."""

    tenant_id: UUID | None
    record: pb.UsageRecord
    code: str
    field: str
    description: str


async def keep(
    conn: Conn,
    sender: Sender,
    environment_id: UUID | None,
    refused: Sequence[Refused],
    now: datetime,
) -> int:
    """Keep records of tenants that exist, those that are kept already once.

    Returns:
        How many were kept by this call.
    """
    known = [r for r in refused if r.tenant_id is not None]
    if not known:
        return 0
    rows = await conn.fetch(
        KEEP,
        sender.kind,
        sender.id,
        now,
        MAX_KEPT,
        environment_id,
        [r.tenant_id for r in known],
        [uuid4() for _ in known],
        [content_hash(r.record) for r in known],
        [r.record.SerializeToString() for r in known],
        [r.code for r in known],
        [r.field for r in known],
        [r.description for r in known],
    )
    return len(rows)


async def list_page(
    conn: Conn, tenant_id: TenantId, code: str | None, page: Page
) -> Slice[asyncpg.Record]:
    """Read a page, newest first."""
    rows = await conn.fetch(
        LIST, tenant_id, code, page.limit + 1, page.offset, *page.after_instant()
    )
    return Slice([row for row in rows if row["id"] is not None], rows[0]["total"])


async def claim(
    conn: Conn, tenant_id: TenantId, ids: Sequence[UUID], limit: int
) -> list[asyncpg.Record]:
    """Lock some until the transaction ends, oldest first; what another holds is passed over."""
    return await conn.fetch(CLAIM, tenant_id, ids, limit)


async def discard(conn: Conn, tenant_id: TenantId, ids: Sequence[UUID]) -> int:
    """Delete some; answer how many were there."""
    return len(await conn.fetch(DISCARD, tenant_id, ids))


async def explain_again(
    conn: Conn, tenant_id: TenantId, ids: Sequence[UUID], refused: Sequence[Refused]
) -> None:
    """Write why they were refused the last time; ids and reasons in the same order."""
    await conn.execute(
        EXPLAIN_AGAIN,
        tenant_id,
        ids,
        [r.code for r in refused],
        [r.field for r in refused],
        [r.description for r in refused],
    )


async def count(conn: Conn, tenant_id: TenantId) -> int:
    """How many a tenant has."""
    total: int = await conn.fetchval(COUNT, tenant_id)
    return total
