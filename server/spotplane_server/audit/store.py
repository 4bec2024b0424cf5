"""Audit log rows: insert and list."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid4

import asyncpg

from spotplane_server.kernel import metrics
from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import Call

INSERT_AUDIT: Final = """
    INSERT INTO audit_logs (occurred_at, id, actor_type, actor_id, actor_name, action,
                            resource_type, resource_id, tenant_id, before, after, correlation_id,
                            ip, user_agent, result)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
"""

# The count is of the same snapshot as the page, and is there for an empty page too.
LIST_EVENTS: Final = """
    SELECT c.total, a.occurred_at, a.id, a.actor_type, a.actor_id, a.actor_name, a.action,
           a.resource_type, a.resource_id, a.tenant_id, a.before, a.after, a.correlation_id, a.ip,
           a.user_agent, a.result
      FROM (SELECT count(*) AS total
              FROM audit_logs
             WHERE occurred_at >= $1 AND occurred_at < $2
               AND ($3::uuid IS NULL OR tenant_id = $3)
               AND ($4::text IS NULL OR actor_name = $4 OR actor_id = $4)
               AND ($5::text IS NULL OR action = $5)
               AND ($6::text IS NULL OR resource_type = $6)
               AND ($7::text IS NULL OR resource_id = $7)
               AND ($8::text IS NULL OR correlation_id = $8)) c
      LEFT JOIN LATERAL (
            SELECT occurred_at, id, actor_type, actor_id, actor_name, action, resource_type,
                   resource_id, tenant_id, before, after, correlation_id, ip, user_agent, result
              FROM audit_logs
             WHERE occurred_at >= $1 AND occurred_at < $2
               AND ($3::uuid IS NULL OR tenant_id = $3)
               AND ($4::text IS NULL OR actor_name = $4 OR actor_id = $4)
               AND ($5::text IS NULL OR action = $5)
               AND ($6::text IS NULL OR resource_type = $6)
               AND ($7::text IS NULL OR resource_id = $7)
               AND ($8::text IS NULL OR correlation_id = $8)
               AND ($9::timestamptz IS NULL OR occurred_at < $9
                                            OR (occurred_at = $9 AND id > $10))
             ORDER BY occurred_at DESC, id
             LIMIT $11 OFFSET $12) a ON true
     ORDER BY a.occurred_at DESC, a.id
"""

FIND_EVENT: Final = """
    SELECT occurred_at, id, actor_type, actor_id, actor_name, action, resource_type, resource_id,
           tenant_id, before, after, correlation_id, ip, user_agent, result
      FROM audit_logs
     WHERE id = $1
"""

# Who could not prove itself is some user.
_ACTOR_TYPES: Final = {
    "admin": "admin",
    "tenant": "api_key",
    "agent": "agent",
    "system": "system",
    "anonymous": "user",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was changed.

    Attributes:
        action: E.g. ``tenant.suspend``.
        resource_type: E.g. ``tenant``.
        resource_id: Its id as text.
        tenant_id: Whose it is; None for the catalogue.
        before: Changed members as they were; no secrets, no hashes.
        after: Changed members as they are.
        result: ``failure`` for what was refused.
    """

    action: str
    resource_type: str
    resource_id: str
    tenant_id: UUID | None = None
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    result: Literal["success", "failure"] = "success"


@dataclass(frozen=True, slots=True)
class Event:
    """A row as it was written."""

    occurred_at: datetime
    id: UUID
    actor_type: str
    actor_id: str
    actor_name: str
    action: str
    resource_type: str
    resource_id: str
    tenant_id: UUID | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    correlation_id: str
    ip: str | None
    user_agent: str | None
    result: str


@dataclass(frozen=True, slots=True)
class Filters:
    """Which events are asked for; None lets all through.

    Attributes:
        actor: Name or id.
    """

    tenant_id: UUID | None
    actor: str | None
    action: str | None
    resource_type: str | None
    resource_id: str | None
    correlation_id: str | None


async def list_events(
    conn: Conn, page: Page, filters: Filters, *, start: datetime, end: datetime
) -> Slice[Event]:
    """Events of ``[start, end)``, newest first; at most one more than the page's limit."""
    rows = await conn.fetch(
        LIST_EVENTS,
        start,
        end,
        filters.tenant_id,
        filters.actor,
        filters.action,
        filters.resource_type,
        filters.resource_id,
        filters.correlation_id,
        *page.after_instant(),
        page.limit + 1,
        page.offset,
    )
    return Slice([_event(row) for row in rows if row["id"] is not None], rows[0]["total"])


async def find_event(conn: Conn, event_id: UUID) -> Event | None:
    """One event; None when there is none, or none any more."""
    row = await conn.fetchrow(FIND_EVENT, event_id)
    return Event(**row) if row else None


async def record(conn: Conn, call: Call, change: Change, now: datetime) -> None:
    """Append a row; if that fails, so does the change."""
    metrics.AUDIT_ROWS.labels(change.resource_type).inc()
    await conn.execute(
        INSERT_AUDIT,
        now,
        uuid4(),
        _ACTOR_TYPES[call.caller.kind],
        call.caller.id,
        call.caller.name,
        change.action,
        change.resource_type,
        change.resource_id,
        change.tenant_id,
        change.before,
        change.after,
        call.correlation_id,
        call.client_ip,
        call.user_agent,
        change.result,
    )


def _event(row: asyncpg.Record) -> Event:
    return Event(**{name: value for name, value in row.items() if name != "total"})
