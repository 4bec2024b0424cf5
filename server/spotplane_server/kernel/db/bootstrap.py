"""Database bootstrap: shared secrets and the first administrator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from secrets import token_bytes
from typing import Final
from uuid import uuid4

from spotplane_server.kernel.auth import secrets
from spotplane_server.kernel.auth.client_address import Network
from spotplane_server.kernel.db.database import Conn

BOOTSTRAP: Final = "bootstrap"
ALL_SCOPES: Final = ("admin:read", "admin:write", "usage:write", "export", "nodes:write")

OFFER_SECRET: Final = """
    INSERT INTO server_secrets (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING
"""
GET_SECRET: Final = "SELECT value FROM server_secrets WHERE name = $1"

# The epoch moves only when the credential really changed, so that restarts cost nobody a look-up.
PUT_ADMIN: Final = """
    WITH put AS (
        INSERT INTO admin_credentials AS a (id, name, token_hash, scopes, rate_limit_rpm,
                                            created_at, cidrs, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7::text[]::cidr[], $8)
        ON CONFLICT ON CONSTRAINT admin_credentials_name_key DO UPDATE
           SET token_hash = $3, scopes = $4, rate_limit_rpm = $5, cidrs = excluded.cidrs,
               expires_at = $8, revoked_at = NULL
         WHERE a.token_hash <> $3 OR a.scopes <> $4 OR a.rate_limit_rpm <> $5
            OR a.cidrs <> excluded.cidrs OR a.expires_at IS DISTINCT FROM $8
            OR a.revoked_at IS NOT NULL
        RETURNING 1)
    UPDATE auth_epoch SET epoch = epoch + 1 WHERE EXISTS (SELECT FROM put) RETURNING true
"""

LIST_ADMINS: Final = """
    SELECT name, scopes, rate_limit_rpm, cidrs::text[] AS cidrs, created_at, expires_at, revoked_at
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
    cidrs: Sequence[str]
    created_at: datetime
    expires_at: datetime | None
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
    cidrs: Sequence[Network] = (),
    expires_at: datetime | None = None,
    now: datetime,
) -> bool:
    """Make ``token`` the credential ``name``, whose former token dies; False if it was all so.

    Args:
        conn: In a transaction.
        name: Of the credential, and its actor's name.
        token: The secret.
        scopes: What it may do.
        rate_limit_rpm: Requests a minute.
        cidrs: Where it may be used from; anywhere when there are none.
        expires_at: When it dies by itself.
        now: When it is made.
    """
    return bool(
        await conn.fetchval(
            PUT_ADMIN,
            uuid4(),
            name,
            secrets.hash_of(token),
            list(scopes),
            rate_limit_rpm,
            now,
            [str(network) for network in cidrs],
            expires_at,
        )
    )


async def list_admins(conn: Conn) -> list[Admin]:
    """Every administrator credential, revoked ones included, by name."""
    return [Admin(**row) for row in await conn.fetch(LIST_ADMINS)]


async def revoke_admin(conn: Conn, name: str, *, now: datetime) -> bool:
    """End a credential on every server; False when there is no live one of this name."""
    return bool(await conn.fetchval(REVOKE_ADMIN, name, now))
