"""Notifications and announcements, and who has read them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.notifications.templates import Draft, Severity

# Equal messages for one agent within this are one.
QUIET: Final = timedelta(minutes=5)

LOCK_CURSOR: Final = """
    SELECT txid, seq FROM event_cursors WHERE consumer = $1 FOR UPDATE
"""

MOVE_CURSOR: Final = """
    UPDATE event_cursors SET txid = $2, seq = $3 WHERE consumer = $1
"""

LIST_AGENT_NAMES: Final = """
    SELECT id, logical_agent_id FROM agents WHERE id = ANY($1)
"""

# The share lock orders it before or after the deletion of the tenant, which deletes them all.
INSERT_NOTIFICATION: Final = """
    INSERT INTO notifications (tenant_id, id, agent_id, severity, message, created_at)
    SELECT t.id, $2, $3, $4, $5, $6
      FROM tenants t
     WHERE t.id = $1
       AND t.deleted_at IS NULL
       AND NOT EXISTS (SELECT
                         FROM notifications n
                        WHERE n.tenant_id = $1
                          AND n.agent_id IS NOT DISTINCT FROM $3
                          AND n.created_at > $7
                          AND n.message = $5)
       FOR SHARE OF t
    RETURNING id
"""

INSERT_ANNOUNCEMENT: Final = """
    INSERT INTO announcements (id, severity, message, created_at)
    SELECT $1, $2, $3, $4
     WHERE NOT EXISTS (SELECT FROM announcements a WHERE a.created_at > $5 AND a.message = $3)
    RETURNING id
"""

# $1 is whose eyes: a tenant's, or null for an administrator's; $2 narrows an administrator's list.
LIST_NOTIFICATIONS: Final = """
    WITH seen AS (
        (SELECT n.tenant_id, n.id, n.severity, n.message, n.created_at,
                n.read_at IS NOT NULL AS is_read
           FROM notifications n
          WHERE ($2::uuid IS NULL OR n.tenant_id = $2)
            AND ($3::timestamptz IS NULL OR (n.created_at, n.id) < ($3, $4::uuid))
          ORDER BY n.created_at DESC, n.id DESC
          LIMIT $5)
        UNION ALL
        (SELECT NULL, a.id, a.severity, a.message, a.created_at,
                CASE WHEN $1::uuid IS NULL THEN a.read_at IS NOT NULL
                     ELSE EXISTS (SELECT
                                    FROM announcement_reads r
                                   WHERE r.tenant_id = $1 AND r.announcement_id = a.id) END
           FROM announcements a
          WHERE ($3::timestamptz IS NULL OR (a.created_at, a.id) < ($3, $4::uuid))
          ORDER BY a.created_at DESC, a.id DESC
          LIMIT $5))
    SELECT tenant_id, id, severity, message, created_at, is_read
      FROM seen
     ORDER BY created_at DESC, id DESC
     LIMIT $5
"""

COUNT_NOTIFICATIONS: Final = """
    SELECT (SELECT count(*) FROM notifications WHERE $1::uuid IS NULL OR tenant_id = $1)
         + (SELECT count(*) FROM announcements)
"""

MARK_READ: Final = """
    UPDATE notifications SET read_at = coalesce(read_at, $2) WHERE id = $1
"""

FIND_OWNER: Final = "SELECT tenant_id FROM notifications WHERE id = $1"

MARK_ANNOUNCEMENT_READ: Final = """
    UPDATE announcements SET read_at = coalesce(read_at, $2) WHERE id = $1
"""

READ_ANNOUNCEMENT: Final = """
    INSERT INTO announcement_reads (tenant_id, announcement_id, read_at)
    SELECT $1, a.id, $3
      FROM announcements a
     WHERE a.id = $2
    ON CONFLICT (tenant_id, announcement_id) DO UPDATE SET read_at = announcement_reads.read_at
"""

MARK_ALL_READ: Final = """
    UPDATE notifications
       SET read_at = $2
     WHERE read_at IS NULL AND ($1::uuid IS NULL OR tenant_id = $1)
"""

MARK_ANNOUNCEMENTS_READ: Final = """
    UPDATE announcements SET read_at = $1 WHERE read_at IS NULL
"""

READ_ANNOUNCEMENTS: Final = """
    INSERT INTO announcement_reads (tenant_id, announcement_id, read_at)
    SELECT $1, a.id, $2
      FROM announcements a
    ON CONFLICT (tenant_id, announcement_id) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification as one reader sees it; without a tenant it is for all."""

    tenant_id: UUID | None
    id: UUID
    severity: Severity
    message: str
    created_at: datetime
    is_read: bool


async def lock_cursor(conn: Conn, consumer: str) -> tuple[int, int]:
    """A reader's place in the outbox, held until the transaction ends."""
    row = await conn.fetchrow(LOCK_CURSOR, consumer)
    if row is None:
        raise LookupError(f"no cursor {consumer}: a migration makes it")
    return row["txid"], row["seq"]


async def move_cursor(conn: Conn, consumer: str, cursor: tuple[int, int]) -> None:
    """Put a reader's place further on."""
    await conn.execute(MOVE_CURSOR, consumer, *cursor)


async def agent_names(conn: Conn, agent_ids: Iterable[UUID]) -> dict[UUID, str]:
    """Names of agents, deleted ones included."""
    rows = await conn.fetch(LIST_AGENT_NAMES, list(agent_ids))
    return {row["id"]: row["logical_agent_id"] for row in rows}


async def record(
    conn: Conn, tenant_id: UUID | None, agent_id: UUID | None, told: Draft, at: datetime
) -> UUID | None:
    """Store a notification.

    Returns:
        Its id; None when the same was said within five minutes, or the tenant is deleted.
    """
    new, since = uuid4(), at - QUIET
    said = (told.severity, told.message, at, since)
    stored: UUID | None
    if tenant_id is None:
        stored = await conn.fetchval(INSERT_ANNOUNCEMENT, new, *said)
    else:
        stored = await conn.fetchval(INSERT_NOTIFICATION, tenant_id, new, agent_id, *said)
    return stored


async def list_page(
    conn: Conn, reader: TenantId | None, tenant_id: TenantId | None, page: Page
) -> Slice[Notification]:
    """Notifications of a tenant, or of all, with the global ones; newest first."""
    rows = await conn.fetch(
        LIST_NOTIFICATIONS, reader, tenant_id, *page.after_instant(), page.limit + 1
    )
    total = await conn.fetchval(COUNT_NOTIFICATIONS, tenant_id)
    return Slice([Notification(**row) for row in rows], total)


async def mark_read(conn: Conn, reader: TenantId | None, found: UUID, now: datetime) -> bool:
    """Mark one as read by a tenant, or by an administrator; False when there is none in scope."""
    if await conn.execute(MARK_READ, found, now) != "UPDATE 0":
        return True
    if reader is None:
        return bool(await conn.execute(MARK_ANNOUNCEMENT_READ, found, now) != "UPDATE 0")
    return bool(await conn.execute(READ_ANNOUNCEMENT, reader, found, now) != "INSERT 0 0")


async def find_owner(conn: Conn, found: UUID) -> TenantId | None:
    """Whose a notification is; None for everybody's."""
    owner: TenantId | None = await conn.fetchval(FIND_OWNER, found)
    return owner


async def mark_all_read(
    conn: Conn, reader: TenantId | None, tenant_id: TenantId | None, now: datetime
) -> int:
    """Mark a tenant's, or all, and the global ones as read; answer how many were unread."""
    own = await conn.execute(MARK_ALL_READ, tenant_id, now)
    if reader is not None:
        shared = await conn.execute(READ_ANNOUNCEMENTS, reader, now)
    elif tenant_id is None:
        shared = await conn.execute(MARK_ANNOUNCEMENTS_READ, now)
    else:
        shared = "UPDATE 0"
    return int(own.split()[-1]) + int(shared.split()[-1])
