"""API keys in the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn

# A share lock on the tenant comes before any lock on its keys, as suspension and deletion do it:
# whoever changes a key and whoever changes its tenant wait for each other and cannot deadlock.
SHARE_TENANT: Final = "SELECT status FROM tenants WHERE id = $1 FOR SHARE"

SHARE_TENANT_OF_KEY: Final = """
    SELECT t.status
      FROM tenants t
     WHERE t.id = (SELECT tenant_id
                     FROM api_keys
                    WHERE id = $1
                      AND ($2::uuid IS NULL OR tenant_id = $2))
       FOR SHARE
"""

LOCK_KEY: Final = """
    SELECT tenant_id, id, environment_id, key_prefix, name, description, role, rate_limit_rpm,
           rate_limit_tpm, concurrency_limit, status, suspension_id, rotated_from, replaced_by,
           last_used_at, expires_at, created_at, updated_at
      FROM api_keys
     WHERE id = $1
       FOR NO KEY UPDATE
"""

SHARE_ENVIRONMENT: Final = """
    SELECT id, key_label, status
      FROM environments
     WHERE tenant_id = $1
       AND (id = $2 OR ($2::uuid IS NULL AND name = $3))
       FOR SHARE
"""

COUNT_LIVE_KEYS: Final = """
    SELECT count(*)
      FROM api_keys
     WHERE tenant_id = $1
       AND status <> 'revoked'
       AND (expires_at IS NULL OR expires_at > $2)
"""

INSERT_KEY: Final = """
    INSERT INTO api_keys (tenant_id, id, environment_id, key_hash, key_prefix, name, description,
                          role, rate_limit_rpm, rate_limit_tpm, concurrency_limit, rotated_from,
                          expires_at, created_at, updated_at, key_suffix, is_client_token)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14, $15, $16)
    RETURNING tenant_id, id, environment_id, key_prefix, name, description, role, rate_limit_rpm,
              rate_limit_tpm, concurrency_limit, status, suspension_id, rotated_from, replaced_by,
              last_used_at, expires_at, created_at, updated_at
"""

UPDATE_KEY: Final = """
    UPDATE api_keys
       SET name = $3, description = $4, role = $5, rate_limit_rpm = $6, rate_limit_tpm = $7,
           concurrency_limit = $8, expires_at = $9, updated_at = $10
     WHERE tenant_id = $1
       AND id = $2
    RETURNING tenant_id, id, environment_id, key_prefix, name, description, role, rate_limit_rpm,
              rate_limit_tpm, concurrency_limit, status, suspension_id, rotated_from, replaced_by,
              last_used_at, expires_at, created_at, updated_at
"""

# Whoever sets one key's status makes it the key's own: no suspension of the tenant holds it then.
SET_KEY_STATUS: Final = """
    UPDATE api_keys
       SET status = $3, suspension_id = NULL, updated_at = $4,
           revoked_at = CASE WHEN $3 = 'revoked' THEN $4::timestamptz END
     WHERE tenant_id = $1
       AND id = $2
    RETURNING tenant_id, id, environment_id, key_prefix, name, description, role, rate_limit_rpm,
              rate_limit_tpm, concurrency_limit, status, suspension_id, rotated_from, replaced_by,
              last_used_at, expires_at, created_at, updated_at
"""

RETIRE_KEY: Final = """
    UPDATE api_keys
       SET expires_at = $3, replaced_by = $4, updated_at = $5
     WHERE tenant_id = $1
       AND id = $2
"""

SUSPEND_KEYS: Final = """
    UPDATE api_keys
       SET status = 'suspended', suspension_id = $2, updated_at = $3
     WHERE tenant_id = $1
       AND status = 'active'
"""

RESTORE_KEYS: Final = """
    UPDATE api_keys
       SET status = 'active', suspension_id = NULL, updated_at = $3
     WHERE tenant_id = $1
       AND suspension_id = $2
       AND status = 'suspended'
"""

REVOKE_KEYS: Final = """
    UPDATE api_keys
       SET status = 'revoked', suspension_id = NULL, revoked_at = $2, updated_at = $2
     WHERE tenant_id = $1
       AND status <> 'revoked'
"""

# The count is of the same snapshot as the page, and is there for an empty page too.
LIST_KEYS: Final = """
    SELECT c.total, k.tenant_id, k.id, k.environment_id, k.key_prefix, k.name, k.description,
           k.role, k.rate_limit_rpm, k.rate_limit_tpm, k.concurrency_limit, k.status,
           k.suspension_id, k.rotated_from, k.replaced_by, k.last_used_at, k.expires_at,
           k.created_at, k.updated_at
      FROM (SELECT count(*) AS total
              FROM api_keys
             WHERE tenant_id = $1
               AND ($2::text IS NULL OR status = $2)) c
      LEFT JOIN LATERAL (
            SELECT tenant_id, id, environment_id, key_prefix, name, description, role,
                   rate_limit_rpm, rate_limit_tpm, concurrency_limit, status, suspension_id,
                   rotated_from, replaced_by, last_used_at, expires_at, created_at, updated_at
              FROM api_keys
             WHERE tenant_id = $1
               AND ($2::text IS NULL OR status = $2)
               AND ($3::timestamptz IS NULL OR created_at < $3 OR (created_at = $3 AND id > $4))
             ORDER BY created_at DESC, id
             LIMIT $5 OFFSET $6) k ON true
     ORDER BY k.created_at DESC, k.id
"""

# Two servers may have seen the same key; the later use stands.
TOUCH_KEYS: Final = """
    UPDATE api_keys k
       SET last_used_at = u.used_at
      FROM unnest($1::uuid[], $2::timestamptz[]) AS u (id, used_at)
     WHERE k.id = u.id
       AND (k.last_used_at IS NULL OR k.last_used_at < u.used_at)
"""


@dataclass(frozen=True, slots=True)
class Key:
    """A key's row, without its hash."""

    tenant_id: UUID
    id: UUID
    environment_id: UUID
    key_prefix: str
    name: str
    description: str | None
    role: str
    rate_limit_rpm: int
    rate_limit_tpm: int | None
    concurrency_limit: int
    status: str
    suspension_id: UUID | None
    rotated_from: UUID | None
    replaced_by: UUID | None
    last_used_at: datetime | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Draft:
    """A key to be."""

    name: str
    description: str | None
    role: str
    rate_limit_rpm: int
    rate_limit_tpm: int | None
    concurrency_limit: int
    expires_at: datetime | None
    rotated_from: UUID | None = None
    is_client_token: bool = False


@dataclass(frozen=True, slots=True)
class Environment:
    """What a key needs to know of its environment."""

    id: UUID
    key_label: str
    status: str


async def share_tenant(conn: Conn, tenant_id: UUID) -> str | None:
    """A tenant's status, which stays until the transaction ends; None for no such tenant."""
    status: str | None = await conn.fetchval(SHARE_TENANT, tenant_id)
    return status


async def lock_key(conn: Conn, key_id: UUID, owner: UUID | None) -> tuple[Key, str] | None:
    """A key and its tenant's status, both of which stay until the transaction ends.

    Args:
        conn: In a transaction.
        key_id: Of the key.
        owner: Whose key it must be; None for anybody's.
    """
    tenant_status = await conn.fetchval(SHARE_TENANT_OF_KEY, key_id, owner)
    if tenant_status is None:
        return None
    return _key(await conn.fetchrow(LOCK_KEY, key_id)), tenant_status


async def share_environment(
    conn: Conn, tenant_id: UUID, environment_id: UUID | None, default: str
) -> Environment | None:
    """An environment of a tenant by id, or by name when no id is given."""
    row = await conn.fetchrow(SHARE_ENVIRONMENT, tenant_id, environment_id, default)
    return None if row is None else Environment(**row)


async def count_live(conn: Conn, tenant_id: UUID, *, now: datetime) -> int:
    """How many of a tenant's keys are neither revoked nor expired."""
    count: int = await conn.fetchval(COUNT_LIVE_KEYS, tenant_id, now)
    return count


async def insert_key(
    conn: Conn,
    draft: Draft,
    *,
    tenant_id: UUID,
    key_id: UUID,
    environment_id: UUID,
    key_hash: bytes,
    key_prefix: str,
    key_suffix: str,
    now: datetime,
) -> Key:
    """Create an active key."""
    row = await conn.fetchrow(
        INSERT_KEY,
        tenant_id,
        key_id,
        environment_id,
        key_hash,
        key_prefix,
        draft.name,
        draft.description,
        draft.role,
        draft.rate_limit_rpm,
        draft.rate_limit_tpm,
        draft.concurrency_limit,
        draft.rotated_from,
        draft.expires_at,
        now,
        key_suffix,
        draft.is_client_token,
    )
    return _key(row)


async def update_key(conn: Conn, key: Key, *, now: datetime) -> Key:
    """Write name, description, role, limits and expiry of a key that the caller has locked."""
    row = await conn.fetchrow(
        UPDATE_KEY,
        key.tenant_id,
        key.id,
        key.name,
        key.description,
        key.role,
        key.rate_limit_rpm,
        key.rate_limit_tpm,
        key.concurrency_limit,
        key.expires_at,
        now,
    )
    return _key(row)


async def set_key_status(conn: Conn, key: Key, status: str, *, now: datetime) -> Key:
    """Set the status of a key that the caller has locked."""
    return _key(await conn.fetchrow(SET_KEY_STATUS, key.tenant_id, key.id, status, now))


async def retire_key(
    conn: Conn, key: Key, *, expires_at: datetime, replaced_by: UUID, now: datetime
) -> None:
    """Let a key that the caller has locked die in favour of its successor."""
    await conn.execute(RETIRE_KEY, key.tenant_id, key.id, expires_at, replaced_by, now)


async def suspend_keys(conn: Conn, tenant_id: UUID, suspension_id: UUID, *, now: datetime) -> int:
    """Suspend a tenant's active keys under its suspension; answer how many."""
    return _count(await conn.execute(SUSPEND_KEYS, tenant_id, suspension_id, now))


async def restore_keys(conn: Conn, tenant_id: UUID, suspension_id: UUID, *, now: datetime) -> int:
    """Activate exactly the keys that this suspension holds; answer how many."""
    return _count(await conn.execute(RESTORE_KEYS, tenant_id, suspension_id, now))


async def revoke_keys(conn: Conn, tenant_id: UUID, *, now: datetime) -> int:
    """Revoke all of a tenant's keys; answer how many were not revoked yet."""
    return _count(await conn.execute(REVOKE_KEYS, tenant_id, now))


async def list_keys(conn: Conn, page: Page, tenant_id: UUID, *, status: str | None) -> Slice[Key]:
    """A tenant's keys of a page, newest first."""
    created_at, key_id = page.after_instant()
    rows = await conn.fetch(
        LIST_KEYS, tenant_id, status, created_at, key_id, page.limit + 1, page.offset
    )
    return Slice([_key(row) for row in rows if row["id"] is not None], rows[0]["total"])


async def touch_keys(conn: Conn, used: Mapping[UUID, datetime]) -> int:
    """Write last uses, unless later ones are known; answer how many were written."""
    tag = await conn.execute(TOUCH_KEYS, list(used), list(used.values()))
    return _count(tag)


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])


def _key(row: asyncpg.Record | None) -> Key:
    assert row is not None, "the caller holds the row's lock, or has just written it"
    return Key(**{name: row[name] for name in Key.__slots__})
