"""Leases: elect one process per singleton job, with a fencing token."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from spotplane_server.kernel.db.database import Conn

ACQUIRE: Final = """
    INSERT INTO leases AS l (name, holder, token, expires_at)
    VALUES ($1, $2, 1, $4)
    ON CONFLICT (name) DO UPDATE
       SET holder = $2,
           token = l.token + CASE WHEN l.holder = $2 THEN 0 ELSE 1 END,
           expires_at = $4
     WHERE l.holder = $2 OR l.expires_at <= $3
    RETURNING token
"""

RELEASE_ALL: Final = "UPDATE leases SET expires_at = $2 WHERE holder = $1 AND expires_at > $2"


async def acquire(
    conn: Conn, name: str, holder: str, *, now: datetime, ttl: timedelta
) -> int | None:
    """Take or prolong a lease.

    Returns:
        The fencing token, which rises with every change of holder; None while another holds it.
    """
    token: int | None = await conn.fetchval(ACQUIRE, name, holder, now, now + ttl)
    return token


async def release_all(conn: Conn, holder: str, *, now: datetime) -> None:
    """Let all leases of a holder go at once."""
    await conn.execute(RELEASE_ALL, holder, now)
