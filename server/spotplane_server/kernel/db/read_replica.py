"""Read replica: optional, and may lag or be unavailable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import asyncpg
import structlog

from spotplane_server.kernel.db.database import (
    ALL_TENANTS,
    CONNECTION_ERRORS,
    Conn,
    Database,
    Scope,
)
from spotplane_server.kernel.errors import Unavailable

T = TypeVar("T")

log = structlog.get_logger(__name__)

# Without an answer it is left alone for so long, so that not every call waits in vain.
PAUSE_SECONDS: Final = 5.0
PROBE: Final = "SELECT 1"

# Besides being away: a statement was in the way of replay, or the schema is not there yet.
_UNFIT: Final = (
    *CONNECTION_ERRORS,
    Unavailable,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SyntaxOrAccessError,
    asyncpg.ReadOnlySQLTransactionError,
)


class ReadReplica:
    """Runs what reads on the replica, and says when it could not.

    Args:
        db: Of the replica, opened without connecting.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._paused_until = 0.0

    async def read(self, scope: Scope, action: Callable[[Conn], Awaitable[T]]) -> T | None:
        """Run an action in one snapshot; None when the replica cannot."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._paused_until:
            return None
        try:
            async with self._db.transaction(
                scope, isolation="repeatable_read", readonly=True
            ) as conn:
                return await action(conn)
        except _UNFIT as err:
            log.warning("replica_failed", error=type(err).__name__)
            if isinstance(err, (*CONNECTION_ERRORS, Unavailable)):
                self._paused_until = loop.time() + PAUSE_SECONDS
            return None

    async def answers(self) -> bool:
        """Whether the replica can be reached; when it can it is used again."""
        try:
            async with self._db.connection(ALL_TENANTS) as conn:
                await conn.fetchval(PROBE)
        except (*CONNECTION_ERRORS, Unavailable, asyncpg.PostgresError):
            return False
        self._paused_until = 0.0
        return True

    async def close(self) -> None:
        """Close its connections."""
        await self._db.close()
