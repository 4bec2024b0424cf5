"""Outbox rows: insert, and read in commit order without gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from spotplane_server.kernel import request_context
from spotplane_server.kernel.db.database import Conn

INSERT_EVENT: Final = """
    INSERT INTO outbox_events (occurred_at, id, event_type, tenant_id, aggregate_id, data)
    VALUES ($1, $2, $3, $4, $5, $6)
"""

# Rows of transactions older than every one still running: whatever comes later sorts behind them.
LIST_EVENTS: Final = """
    SELECT txid::text::bigint AS txid, seq, occurred_at, id, event_type, tenant_id, aggregate_id,
           data
      FROM outbox_events
     WHERE (txid, seq) > ($1::text::xid8, $2)
       AND txid < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY txid, seq
     LIMIT $3
"""

# A cursor at "now": all that is committed and all that runs is behind it or will be found after it.
READ_HEAD: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


READ_NEWEST: Final = """
    SELECT txid::text::bigint AS txid, seq
      FROM outbox_events
     WHERE txid < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY txid DESC, seq DESC
     LIMIT 1
"""


# Behind the oldest transaction that still writes, in whatever program; none when nothing waits.
OLDEST_HELD: Final = """
    SELECT now() - min(occurred_at)
      FROM outbox_events
     WHERE txid >= pg_snapshot_xmin(pg_current_snapshot())
"""


RESUMABLE: Final = """
    SELECT $1::text::xid8 <= pg_snapshot_xmax(pg_current_snapshot())
       AND coalesce((SELECT occurred_at
                       FROM outbox_events
                      WHERE (txid, seq) > ($1::text::xid8, $2)
                      ORDER BY txid, seq
                      LIMIT 1) >= $3, true)
"""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        type: E.g. ``tenant.created``.
        aggregate_id: What it is about.
        data: Members as the type says.
        tenant_id: Whose it is; None for the catalogue.
    """

    type: str
    aggregate_id: str
    data: dict[str, Any]
    tenant_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """An event as read; ``(txid, seq)`` is its place in the order."""

    txid: int
    seq: int
    occurred_at: datetime
    id: UUID
    event_type: str
    tenant_id: UUID | None
    aggregate_id: str
    data: dict[str, Any]


async def append(conn: Conn, event: Event, now: datetime) -> None:
    """Write an event in the transaction of its cause."""
    data = {**event.data, "correlation_id": request_context.correlation_id()}
    await conn.execute(
        INSERT_EVENT, now, uuid4(), event.type, event.tenant_id, event.aggregate_id, data
    )


async def append_many(conn: Conn, happened: Sequence[Event], now: datetime) -> None:
    """Write events in the transaction of their cause, in their order and in one round trip."""
    correlation_id = request_context.correlation_id()
    await conn.executemany(
        INSERT_EVENT,
        [
            (
                now,
                uuid4(),
                event.type,
                event.tenant_id,
                event.aggregate_id,
                {**event.data, "correlation_id": correlation_id},
            )
            for event in happened
        ],
    )


async def list_after(conn: Conn, cursor: tuple[int, int], *, limit: int) -> Sequence[Row]:
    """Events after a cursor in commit order; empty when there is none that may be shown yet."""
    rows = await conn.fetch(LIST_EVENTS, str(cursor[0]), cursor[1], limit)
    return [Row(**row) for row in rows]


async def head(conn: Conn) -> tuple[int, int]:
    """The cursor of now."""
    # Every later event has a txid of at least this, and seq is at least 1.
    return await conn.fetchval(READ_HEAD), 0


async def newest(conn: Conn) -> tuple[int, int]:
    """The cursor of the newest event that may be shown; of nothing when there is none."""
    row = await conn.fetchrow(READ_NEWEST)
    return (row["txid"], row["seq"]) if row else (0, 0)


async def held_for(conn: Conn) -> timedelta:
    """How long the oldest event has waited that may not be shown yet."""
    held: timedelta | None = await conn.fetchval(OLDEST_HELD)
    return max(held, timedelta()) if held is not None else timedelta()


async def resumable(conn: Conn, cursor: tuple[int, int], *, since: datetime) -> bool:
    """Whether a cursor is of the past and all that followed it younger than an instant."""
    return bool(await conn.fetchval(RESUMABLE, str(cursor[0]), cursor[1], since))
