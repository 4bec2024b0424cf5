"""What must be in the database before the first call: shared secrets and the first administrator."""

from __future__ import annotations

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
        INSERT INTO admin_credentials AS a (id, name, token_hash, scopes, rate_limit_rpm, created_at)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT ON CONSTRAINT admin_credentials_name_key DO UPDATE
           SET token_hash = $3, scopes = $4, rate_limit_rpm = $5, revoked_at = NULL
         WHERE a.token_hash <> $3 OR a.scopes <> $4 OR a.rate_limit_rpm <> $5
            OR a.revoked_at IS NOT NULL
        RETURNING 1)
    UPDATE auth_epoch SET epoch = epoch + 1 WHERE EXISTS (SELECT FROM put)
"""


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
) -> None:
    """Make ``token`` the credential ``name``; the token it had before dies."""
    await conn.execute(
        PUT_ADMIN, uuid4(), name, secrets.hash_of(token), list(scopes), rate_limit_rpm, now
    )
