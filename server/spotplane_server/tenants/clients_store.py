"""Client tokens in the database: which of a tenant's keys they are, and the copies kept of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn

# Held until the transaction ends, so that of two who take one name the second sees the first.
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

# Tenants made in other ways have keys that do what a client token does.
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

KEEP_COPY: Final = """
    INSERT INTO token_escrow (tenant_id, key_id, sealed, created_at) VALUES ($1, $2, $3, $4)
"""

FIND_COPY: Final = "SELECT sealed FROM token_escrow WHERE tenant_id = $1 AND key_id = $2"

DROP_DEAD_COPIES: Final = """
    DELETE FROM token_escrow e
     USING api_keys k
     WHERE k.tenant_id = e.tenant_id
       AND k.id = e.key_id
       AND (k.status = 'revoked' OR k.expires_at <= $1)
"""

DROP_COPIES: Final = "DELETE FROM token_escrow"


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A tenant's client token, as far as it is known."""

    id: UUID
    key_prefix: str
    key_suffix: str | None


async def is_name_free(conn: Conn, name: str) -> bool:
    """Whether no live tenant has the name; it stays so until the transaction ends."""
    await conn.execute(CLAIM_NAME, name)
    return not await conn.fetchval(IS_NAME_TAKEN, name)


async def find_client_key(conn: Conn, tenant_id: UUID, *, now: datetime) -> ClientKey | None:
    """The newest live client token of a tenant."""
    row = await conn.fetchrow(FIND_CLIENT_KEY, tenant_id, now)
    return None if row is None else ClientKey(**row)


async def find_similar_key(conn: Conn, tenant_id: UUID, *, now: datetime) -> ClientKey | None:
    """The newest live key of a tenant that agents could use."""
    row = await conn.fetchrow(FIND_SIMILAR_KEY, tenant_id, now)
    return None if row is None else ClientKey(**row)


async def keep_copy(
    conn: Conn, tenant_id: UUID, key_id: UUID, sealed: bytes, *, now: datetime
) -> None:
    """Keep an encrypted copy of a token."""
    await conn.execute(KEEP_COPY, tenant_id, key_id, sealed, now)


async def find_copy(conn: Conn, tenant_id: UUID, key_id: UUID) -> bytes | None:
    """The encrypted copy of a token."""
    sealed: bytes | None = await conn.fetchval(FIND_COPY, tenant_id, key_id)
    return sealed


async def drop_dead_copies(conn: Conn, *, now: datetime) -> int:
    """Forget copies of tokens that are dead; answer how many."""
    return _count(await conn.execute(DROP_DEAD_COPIES, now))


async def drop_copies(conn: Conn) -> int:
    """Forget all copies; answer how many."""
    return _count(await conn.execute(DROP_COPIES))


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
