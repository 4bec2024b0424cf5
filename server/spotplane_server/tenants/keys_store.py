"""Store of API keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn

# The tenant is locked (shared) before its keys, in the same order as suspension and deletion, so
# that changes of keys and of their tenant cannot deadlock.
LOCK_TENANT_SHARED: Final = "SELECT status FROM tenants WHERE id = $1 FOR SHARE"

LOCK_TENANT_OF_KEY_SHARED: Final = """
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

LOCK_ENVIRONMENT_SHARED: Final = """
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

# Setting a key's status detaches it from a suspension of the tenant.
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

# The count is from the same snapshot as the page, and is returned for an empty page too.
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

# Several servers may have seen the same key; the latest use wins.
UPDATE_LAST_USED: Final = """
    UPDATE api_keys k
       SET last_used_at = u.used_at
      FROM unnest($1::uuid[], $2::timestamptz[]) AS u (id, used_at)
     WHERE k.id = u.id
       AND (k.last_used_at IS NULL OR k.last_used_at < u.used_at)
"""


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its hash."""

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
    """A key to be created."""

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
    """The properties of an environment that a new key needs."""

    id: UUID
    key_label: str
    status: str


async def lock_tenant_shared(conn: Conn, tenant_id: UUID) -> str | None:
    """Lock a tenant (shared) until the transaction ends; return its status, None if absent."""
    status: str | None = await conn.fetchval(LOCK_TENANT_SHARED, tenant_id)
    return status


async def lock_key(conn: Conn, key_id: UUID, owner: UUID | None) -> tuple[Key, str] | None:
    """Lock a key and its tenant until the transaction ends; return the key and the tenant's status.

    Args:
        conn: In a transaction.
        key_id: The key.
        owner: The required tenant; None for any.
    """
    tenant_status = await conn.fetchval(LOCK_TENANT_OF_KEY_SHARED, key_id, owner)
    if tenant_status is None:
        return None
    return _key(await conn.fetchrow(LOCK_KEY, key_id)), tenant_status


async def lock_environment_shared(
    conn: Conn, tenant_id: UUID, environment_id: UUID | None, default: str
) -> Environment | None:
    """Lock an environment (shared) by id, or by name if no id is given."""
    row = await conn.fetchrow(LOCK_ENVIRONMENT_SHARED, tenant_id, environment_id, default)
    return None if row is None else Environment(**row)


async def count_live(conn: Conn, tenant_id: UUID, *, now: datetime) -> int:
    """Count a tenant's keys that are neither revoked nor expired."""
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
    """Update name, description, role, limits and expiry of a key locked by the caller."""
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
    """Set the status of a key locked by the caller."""
    return _key(await conn.fetchrow(SET_KEY_STATUS, key.tenant_id, key.id, status, now))


async def retire_key(
    conn: Conn, key: Key, *, expires_at: datetime, replaced_by: UUID, now: datetime
) -> None:
    """Record the successor and the expiry of a key locked by the caller."""
    await conn.execute(RETIRE_KEY, key.tenant_id, key.id, expires_at, replaced_by, now)


async def suspend_keys(conn: Conn, tenant_id: UUID, suspension_id: UUID, *, now: datetime) -> int:
    """Suspend a tenant's active keys under its suspension; return how many."""
    return _count(await conn.execute(SUSPEND_KEYS, tenant_id, suspension_id, now))


async def restore_keys(conn: Conn, tenant_id: UUID, suspension_id: UUID, *, now: datetime) -> int:
    """Activate the keys that were suspended by this suspension; return how many."""
    return _count(await conn.execute(RESTORE_KEYS, tenant_id, suspension_id, now))


async def revoke_keys(conn: Conn, tenant_id: UUID, *, now: datetime) -> int:
    """Revoke all of a tenant's keys; return how many were not revoked before."""
    return _count(await conn.execute(REVOKE_KEYS, tenant_id, now))


async def list_keys(conn: Conn, page: Page, tenant_id: UUID, *, status: str | None) -> Slice[Key]:
    """List a tenant's keys, newest first."""
    created_at, key_id = page.after_instant()
    rows = await conn.fetch(
        LIST_KEYS, tenant_id, status, created_at, key_id, page.limit + 1, page.offset
    )
    return Slice([_key(row) for row in rows if row["id"] is not None], rows[0]["total"])


async def update_last_used(conn: Conn, used: Mapping[UUID, datetime]) -> int:
    """Update the times of last use, unless later ones are stored; return how many changed."""
    tag = await conn.execute(UPDATE_LAST_USED, list(used), list(used.values()))
    return _count(tag)


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])


def _key(row: asyncpg.Record | None) -> Key:
    assert row is not None, "the caller holds the row's lock, or has just written it"
    return Key(**{name: row[name] for name in Key.__slots__})
