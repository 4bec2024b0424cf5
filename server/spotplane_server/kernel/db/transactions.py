"""Connection errors, and ending a transaction on a possibly broken connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import asyncpg

from spotplane_server.kernel.errors import Unavailable

if TYPE_CHECKING:
    from asyncpg.transaction import Transaction

    from spotplane_server.kernel.db.connections import ScopedConnection

SET_SCOPE: Final = "SELECT set_config('spotplane.tenant_id', $1, false)"

# Longest wait for a ROLLBACK; a connection that does not answer by then is closed instead.
ROLLBACK_SECONDS: Final = 2.0

# What asyncpg raises when the database is away, restarting or full; all of it is worth a retry.
CONNECTION_ERRORS: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    # What a connection says between being told that it is cut and noticing.
    asyncpg.InternalClientError,
    # A row that a stuck transaction holds; PostgreSQL ends that one within seconds.
    asyncpg.LockNotAvailableError,
    OSError,
    TimeoutError,
)


class TransactionLost(Unavailable):
    """A transaction was rolled back because its connection ended before COMMIT."""

    def __init__(self) -> None:
        super().__init__("the connection to the database was lost", retry_after_seconds=1.0)


async def begin(conn: ScopedConnection, transaction: Transaction) -> None:
    """Begin a transaction, and close the connection when that is broken off.

    The driver counts the connection as in a transaction before BEGIN is sent, and goes on to when
    it fails: every later transaction on it would be a savepoint in none.
    """
    try:
        await transaction.start()
    except BaseException:
        conn.terminate()
        raise


async def roll_back(conn: ScopedConnection, transaction: Transaction) -> bool:
    """Roll a transaction back; False when the connection ended first, which has the same effect."""
    if conn.is_closed():
        return False
    try:
        async with asyncio.timeout(ROLLBACK_SECONDS):
            await transaction.rollback()
    except CONNECTION_ERRORS:
        conn.terminate()
        return False
    return True
