"""The epoch of rights."""

from __future__ import annotations

import asyncio

import asyncpg
from spotplane_server.kernel.auth.authenticator import EpochReader, bump_epoch
from spotplane_server.kernel.db.database import ALL_TENANTS, CONNECTION_ERRORS, Database

from tests.support.eventually import eventually

CALLERS = 20
ROUNDS = 25


async def test_a_request_never_joins_a_read_that_began_before_it(db: Database) -> None:
    """Whoever asks after a change was committed sees it, however many ask at once."""
    reader = EpochReader(db)

    async def change_and_ask() -> None:
        for _ in range(ROUNDS):
            async with db.transaction(ALL_TENANTS) as conn:
                await bump_epoch(conn)
                mine = await conn.fetchval("SELECT epoch FROM auth_epoch")
            assert await reader.current() >= mine

    await asyncio.gather(*(change_and_ask() for _ in range(CALLERS)))


async def test_a_cut_connection_fails_those_who_wait_and_nobody_after(
    db: Database, database_url: str
) -> None:
    """The reader reads again for the next request."""
    reader = EpochReader(db)
    before = await reader.current()
    owner = await asyncpg.connect(database_url)
    await owner.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await owner.close()

    async def answered() -> bool:
        try:
            return await reader.current() == before
        except CONNECTION_ERRORS:
            return False

    assert await eventually(answered)
