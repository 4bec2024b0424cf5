"""Store of client tokens and their encrypted copies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn

# Held until the transaction ends, so that concurrent creations with one name are serialized.
CLAIM_NAME: Final = "SELECT pg_advisory_xact_lock(hashtextextended('client name ' || lower($1), 0))"

IS_NAME_TAKEN: Final = """
    SELECT EXISTS (SELECT
                     FROM tenants
                    WHERE lower(name) = lower($1)
                      AND status <> 'deleted')
"""

FIND_CLIENT_KEY: Final = """
    SELECT id, key_prefix, key_suffix
      FROM api_keys
     WHERE tenant_id = $1
       AND is_client_token
       AND status <> 'revoked'
       AND replaced_by IS NULL
       AND (expires_at IS NULL OR expires_at > $2)
     ORDER BY created_at DESC, id
     LIMIT 1
"""

# Tenants created by other methods have no client token, but keys with the same permissions.
FIND_SIMILAR_KEY: Final = """
    SELECT id, key_prefix, key_suffix
      FROM api_keys
     WHERE tenant_id = $1
       AND role IN ('admin', 'agent')
       AND status <> 'revoked'
       AND replaced_by IS NULL
       AND (expires_at IS NULL OR expires_at > $2)
     ORDER BY created_at DESC, id
     LIMIT 1
"""

INSERT_COPY: Final = """
    INSERT INTO token_escrow (tenant_id, key_id, sealed, created_at) VALUES ($1, $2, $3, $4)
"""

FIND_COPY: Final = "SELECT sealed FROM token_escrow WHERE tenant_id = $1 AND key_id = $2"

DELETE_EXPIRED_COPIES: Final = """
    DELETE FROM token_escrow e
     USING api_keys k
     WHERE k.tenant_id = e.tenant_id
       AND k.id = e.key_id
       AND (k.status = 'revoked' OR k.expires_at <= $1)
"""

DELETE_COPIES: Final = "DELETE FROM token_escrow"


@dataclass(frozen=True, slots=True)
class ClientKey:
    """Identity and visible parts of a client token."""

    id: UUID
    key_prefix: str
    key_suffix: str | None


async def is_name_free(conn: Conn, name: str) -> bool:
    """Return whether the name is unused, and reserve it until the transaction ends."""
    await conn.execute(CLAIM_NAME, name)
    return not await conn.fetchval(IS_NAME_TAKEN, name)


async def find_client_key(conn: Conn, tenant_id: UUID, *, now: datetime) -> ClientKey | None:
    """Find the newest valid client token of a tenant."""
    row = await conn.fetchrow(FIND_CLIENT_KEY, tenant_id, now)
    return None if row is None else ClientKey(**row)


async def find_similar_key(conn: Conn, tenant_id: UUID, *, now: datetime) -> ClientKey | None:
    """Find the newest valid key of a tenant that agents could use."""
    row = await conn.fetchrow(FIND_SIMILAR_KEY, tenant_id, now)
    return None if row is None else ClientKey(**row)


async def insert_copy(
    conn: Conn, tenant_id: UUID, key_id: UUID, sealed: bytes, *, now: datetime
) -> None:
    """Store an encrypted copy of a token."""
    await conn.execute(INSERT_COPY, tenant_id, key_id, sealed, now)


async def find_copy(conn: Conn, tenant_id: UUID, key_id: UUID) -> bytes | None:
    """Find the encrypted copy of a token."""
    sealed: bytes | None = await conn.fetchval(FIND_COPY, tenant_id, key_id)
    return sealed


async def delete_expired_copies(conn: Conn, *, now: datetime) -> int:
    """Delete copies of revoked and expired tokens; return how many."""
    return _count(await conn.execute(DELETE_EXPIRED_COPIES, now))


async def delete_copies(conn: Conn) -> int:
    """Delete all copies; return how many."""
    return _count(await conn.execute(DELETE_COPIES))


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
