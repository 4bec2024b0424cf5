"""Storing dead letters after all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
from spotplane.v1 import usage_pb2 as pb

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.usage import dead_letters
from spotplane_server.usage.ingest import Batch, Result, store_drafts
from spotplane_server.usage.rules import MAX_BATCH, AcceptedWindow, Draft, Fault, Reader

LIMIT: Final = MAX_BATCH


async def retry(
    conn: Conn, tenant_id: TenantId, ids: Sequence[UUID], window: AcceptedWindow, now: datetime
) -> Result:
    """Store a tenant's dead letters within the caller's transaction.

    Args:
        conn: In a transaction.
        tenant_id: Whose.
        ids: Which ones; all, up to `LIMIT` and the oldest first, when there are none.
        window: How far from now a record's time may lie.
        now: The time.
    """
    # Those of one environment are one batch, since records may leave it to their sender.
    groups: dict[UUID | None, list[asyncpg.Record]] = defaultdict(list)
    for row in await dead_letters.claim(conn, tenant_id, ids, LIMIT):
        groups[row["environment_id"]].append(row)
    total = Result()
    for environment_id, rows in groups.items():
        batch = Batch([pb.UsageRecord.FromString(row["record"]) for row in rows], Result())
        drafts = _read(batch, rows, Reader(str(tenant_id), now, window))
        if drafts:
            default = str(environment_id) if environment_id else None
            await store_drafts(conn, batch, drafts, default, now)
        await _settle(conn, tenant_id, rows, batch)
        total.accepted += batch.result.accepted
        total.duplicates += batch.result.duplicates
        total.errors += batch.result.errors
    return total


def _read(batch: Batch, rows: Sequence[asyncpg.Record], reader: Reader) -> list[Draft]:
    """Check all; a record without a time is of when it came."""
    drafts = []
    for draft in batch.read(reader):
        if not batch.records[draft.index].HasField("timestamp"):
            try:
                draft.at = reader.accepted(rows[draft.index]["received_at"])
            except Fault as fault:
                batch.refuse(draft.index, fault)
                continue
        drafts.append(draft)
    return drafts


async def _settle(
    conn: Conn, tenant_id: TenantId, rows: Sequence[asyncpg.Record], batch: Batch
) -> None:
    again = {error.index for error in batch.result.errors}
    done = [row["id"] for index, row in enumerate(rows) if index not in again]
    await dead_letters.discard(conn, tenant_id, done)
    await dead_letters.explain_again(
        conn,
        tenant_id,
        [rows[error.index]["id"] for error in batch.result.errors],
        batch.refused(tenant_id),
    )
