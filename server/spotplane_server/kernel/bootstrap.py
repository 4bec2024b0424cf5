"""What must be in the database before the first call: shared secrets, the first administrator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from secrets import token_bytes
from typing import Final
from uuid import uuid4

from spotplane_server.kernel import secrets
from spotplane_server.kernel.db import Conn

BOOTSTRAP: Final = "bootstrap"
ALL_SCOPES: Final = ("admin:read", "admin:write", "usage:write", "export", "nodes:write")

OFFER_SECRET: Final = """
    INSERT INTO server_secrets (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING
"""
GET_SECRET: Final = "SELECT value FROM server_secrets WHERE name = $1"

# The epoch moves only when the token really changed, so that restarts cost nobody a look-up.
PUT_ADMIN: Final = """
    WITH put AS (
        INSERT INTO admin_credentials AS a (id, name, token_hash, scopes, rate_limit_rpm,
                                            created_at)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT ON CONSTRAINT admin_credentials_name_key DO UPDATE
           SET token_hash = $3, scopes = $4, rate_limit_rpm = $5, revoked_at = NULL
         WHERE a.token_hash <> $3 OR a.scopes <> $4 OR a.rate_limit_rpm <> $5
            OR a.revoked_at IS NOT NULL
        RETURNING 1)
    UPDATE auth_epoch SET epoch = epoch + 1 WHERE EXISTS (SELECT FROM put) RETURNING true
"""

LIST_ADMINS: Final = """
    SELECT name, scopes, rate_limit_rpm, created_at, revoked_at
      FROM admin_credentials
     ORDER BY name
"""
REVOKE_ADMIN: Final = """
    WITH revoked AS (
        UPDATE admin_credentials SET revoked_at = $2
         WHERE name = $1 AND revoked_at IS NULL
        RETURNING 1)
    UPDATE auth_epoch SET epoch = epoch + 1 WHERE EXISTS (SELECT FROM revoked) RETURNING true
"""


@dataclass(frozen=True, slots=True)
class Admin:
    """An administrator credential, without its secret."""

    name: str
    scopes: Sequence[str]
    rate_limit_rpm: int
    created_at: datetime
    revoked_at: datetime | None


async def shared_secret(conn: Conn, name: str) -> bytes:
    """A secret that all servers share; the first to ask makes it."""
    await conn.execute(OFFER_SECRET, name, token_bytes(32))
    value: bytes = await conn.fetchval(GET_SECRET, name)
    return value


async def put_admin(
    conn: Conn,
    name: str,
    token: str,
    *,
    scopes: tuple[str, ...] = ALL_SCOPES,
    rate_limit_rpm: int = 600,
    now: datetime,
) -> bool:
    """Make ``token`` the credential ``name``, whose former token dies; False if it was all so."""
    return bool(
        await conn.fetchval(
            PUT_ADMIN, uuid4(), name, secrets.hash_of(token), list(scopes), rate_limit_rpm, now
        )
    )


async def list_admins(conn: Conn) -> list[Admin]:
    """Every administrator credential, revoked ones included, by name."""
    return [Admin(**row) for row in await conn.fetch(LIST_ADMINS)]


async def revoke_admin(conn: Conn, name: str, *, now: datetime) -> bool:
    """End a credential on every server; False when there is no live one of this name."""
    return bool(await conn.fetchval(REVOKE_ADMIN, name, now))
