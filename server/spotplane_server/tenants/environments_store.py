"""Store of environments and their rate limits and quotas."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn

# The count is from the same snapshot as the page, and is returned for an empty page too.
LIST_ENVIRONMENTS: Final = """
    SELECT c.total, v.tenant_id, v.id, v.name, v.region_code, v.key_label, v.status,
           v.requests_per_minute, v.quota_tokens_per_minute, v.quota_tokens_per_day,
           v.concurrency_limit, v.created_at
      FROM (SELECT count(*) AS total FROM environments WHERE tenant_id = $1) c
      LEFT JOIN LATERAL (
            SELECT tenant_id, id, name, region_code, key_label, status, requests_per_minute,
                   quota_tokens_per_minute, quota_tokens_per_day, concurrency_limit, created_at
              FROM environments
             WHERE tenant_id = $1
               AND ($2::timestamptz IS NULL OR created_at < $2 OR (created_at = $2 AND id > $3))
             ORDER BY created_at DESC, id
             LIMIT $4 OFFSET $5) v ON true
     ORDER BY v.created_at DESC, v.id
"""

FIND_ENVIRONMENT: Final = """
    SELECT tenant_id, id, name, region_code, key_label, status, requests_per_minute,
           quota_tokens_per_minute, quota_tokens_per_day, concurrency_limit, created_at
      FROM environments
     WHERE tenant_id = $1
       AND id = $2
"""

LOCK_ENVIRONMENT: Final = """
    SELECT tenant_id, id, name, region_code, key_label, status, requests_per_minute,
           quota_tokens_per_minute, quota_tokens_per_day, concurrency_limit, created_at
      FROM environments
     WHERE tenant_id = $1
       AND id = $2
       FOR NO KEY UPDATE
"""

UPDATE_LIMITS: Final = """
    UPDATE environments
       SET requests_per_minute = $3, quota_tokens_per_minute = $4, quota_tokens_per_day = $5,
           concurrency_limit = $6
     WHERE tenant_id = $1
       AND id = $2
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment; a limit of None does not apply."""

    tenant_id: UUID
    id: UUID
    name: str
    region_code: str
    key_label: str
    status: str
    requests_per_minute: int
    quota_tokens_per_minute: int | None
    quota_tokens_per_day: int | None
    concurrency_limit: int | None
    created_at: datetime


async def list_environments(conn: Conn, page: Page, tenant_id: UUID) -> Slice[Environment]:
    """List environments, newest first."""
    created_at, environment_id = page.after_instant()
    rows = await conn.fetch(
        LIST_ENVIRONMENTS, tenant_id, created_at, environment_id, page.limit + 1, page.offset
    )
    return Slice([_environment(row) for row in rows if row["id"] is not None], rows[0]["total"])


async def find_environment(conn: Conn, tenant_id: UUID, environment_id: UUID) -> Environment | None:
    """Read an environment of the tenant."""
    row = await conn.fetchrow(FIND_ENVIRONMENT, tenant_id, environment_id)
    return None if row is None else _environment(row)


async def lock_environment(conn: Conn, tenant_id: UUID, environment_id: UUID) -> Environment | None:
    """Lock an environment until the transaction ends."""
    row = await conn.fetchrow(LOCK_ENVIRONMENT, tenant_id, environment_id)
    return None if row is None else _environment(row)


async def update_limits(conn: Conn, environment: Environment) -> None:
    """Update the limits of an environment locked by the caller."""
    await conn.execute(
        UPDATE_LIMITS,
        environment.tenant_id,
        environment.id,
        environment.requests_per_minute,
        environment.quota_tokens_per_minute,
        environment.quota_tokens_per_day,
        environment.concurrency_limit,
    )


def _environment(row: asyncpg.Record) -> Environment:
    return Environment(**{name: row[name] for name in Environment.__slots__})
