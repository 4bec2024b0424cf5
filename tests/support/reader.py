"""Reading the database beside a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class Reader:
    """A connection of the test's own, which nobody cuts; one statement at a time."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._turn = asyncio.Lock()

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        """Read rows."""
        async with self._turn:
            return list(await self._conn.fetch(statement, *arguments))

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[None]:
        """Read all of one moment within the block, whatever jobs do meanwhile."""
        async with self._conn.transaction(isolation="repeatable_read", readonly=True):
            yield
