"""Cutting a server off in the middle of what it does: at a table that it comes to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

TABLES = (
    "agents", "instances", "replicas", "agent_commands", "switches", "failovers",
    "outbox_events", "audit_logs",
)  # fmt: skip

# Locks are told as they are; activity as of a transaction's first look, without whoever came later.
_CUT = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE NOT granted"


@asynccontextmanager
async def held(url: str, table: str) -> AsyncIterator[Any]:
    """Nobody writes to a table for the block."""
    conn = await asyncpg.connect(url)
    try:
        async with conn.transaction():
            await conn.execute(f"LOCK TABLE {table} IN SHARE MODE")
            yield conn
    finally:
        await conn.close()


async def cut_at(url: str, table: str, work: Awaitable[None]) -> None:
    """Do some work, and cut it off whenever it comes to write to a table.

    What has been cut is rolled back by PostgreSQL as if its server had died there. Work that never
    comes to the table is done when this returns.
    """
    async with held(url, table) as conn:
        task = asyncio.ensure_future(work)
        while not task.done():
            await conn.fetchval(_CUT)
            await asyncio.wait([task], timeout=0.01)
        await task
