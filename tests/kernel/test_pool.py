"""Connections: lent by scope, in turn, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS, CONNECTION_ERRORS, Database
from spotplane_server.kernel.errors import Unavailable
from spotplane_server.kernel.request_context import TenantId

from tests.support.eventually import eventually

PID = "SELECT pg_backend_pid()"
SLEEP = "SELECT pg_advisory_xact_lock(7), pg_sleep(30)"
SLEEPING = """
    SELECT count(*)
      FROM pg_locks l
      JOIN pg_database d ON d.oid = l.database
     WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()
"""
SCOPE = "SELECT current_setting('spotplane.tenant_id')"


@pytest.fixture
async def pair(database_url: str) -> AsyncIterator[Database]:
    """A database with two connections at most."""
    database = await Database.open(database_url, size=2)
    yield database
    await database.close()


async def test_a_connection_of_the_scope_is_preferred(pair: Database) -> None:
    """Two scopes in turns keep a connection each, so that neither pays for the other."""
    tenant = TenantId(uuid4())
    async with pair.connection(tenant) as one, pair.connection(ALL_TENANTS) as other:
        mine, everyones = await one.fetchval(PID), await other.fetchval(PID)

    for _ in range(3):
        async with pair.connection(tenant) as conn:
            assert await conn.fetchval(PID) == mine
            assert await conn.fetchval(SCOPE) == str(tenant)
        async with pair.connection(ALL_TENANTS) as conn:
            assert await conn.fetchval(PID) == everyones
            assert await conn.fetchval(SCOPE) == ALL_TENANTS


async def test_a_third_scope_changes_the_longest_unused(pair: Database) -> None:
    """Whichever connection is lent, it is under the scope that was asked for."""
    for tenant in [TenantId(uuid4()) for _ in range(5)]:
        async with pair.connection(tenant) as conn:
            assert await conn.fetchval(SCOPE) == str(tenant)


async def test_who_waits_is_served_in_turn(pair: Database) -> None:
    """A connection that comes back goes to whoever has waited longest."""
    served: list[int] = []

    async def ask(number: int) -> None:
        async with pair.connection(ALL_TENANTS):
            served.append(number)

    async with pair.connection(ALL_TENANTS), pair.connection(ALL_TENANTS):
        asks = []
        for number in range(4):
            asks.append(asyncio.create_task(ask(number)))
            await asyncio.sleep(0)
    await asyncio.gather(*asks)
    assert served == [0, 1, 2, 3]


async def test_waiting_in_vain_is_unavailable(database_url: str) -> None:
    """While all are in use a caller is told to come back, and nothing is lost."""
    database = await Database.open(database_url, size=1, acquire_timeout=1.0)
    async with database.connection(ALL_TENANTS):
        with pytest.raises(Unavailable):
            async with database.connection(ALL_TENANTS):
                pass
    assert database.stats() == {"idle": 1, "used": 0}
    await database.close()


async def test_a_cancelled_wait_loses_no_connection(pair: Database) -> None:
    """A caller that leaves at the moment of its turn passes the connection on."""

    async def ask() -> None:
        async with pair.connection(ALL_TENANTS):
            pass

    async with pair.connection(ALL_TENANTS):
        async with pair.connection(ALL_TENANTS):
            asking = asyncio.create_task(ask())
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await eventually(lambda: pair.stats() == {"idle": 2, "used": 0})


async def test_a_cancelled_statement_leaves_a_usable_connection(pair: Database) -> None:
    """It is lent again only once the statement before is really cancelled."""

    async def slow() -> None:
        async with pair.connection(ALL_TENANTS) as conn:
            await conn.execute(SLEEP)

    async def running() -> bool:
        async with pair.connection(ALL_TENANTS) as conn:
            return bool(await conn.fetchval(SLEEPING))

    for _ in range(4):
        task = asyncio.create_task(slow())
        await eventually(running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with pair.connection(ALL_TENANTS) as one, pair.connection(ALL_TENANTS) as two:
            assert await one.fetchval("SELECT 1") == await two.fetchval("SELECT 1") == 1


async def test_a_cut_connection_is_replaced(pair: Database, database_url: str) -> None:
    """After the database cut all connections the pool opens new ones, no more than before."""
    async with pair.connection(ALL_TENANTS) as one, pair.connection(ALL_TENANTS) as two:
        pids = [await one.fetchval(PID), await two.fetchval(PID)]
    killer = await asyncpg.connect(database_url)
    await killer.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", pids)
    await killer.close()

    async def works() -> bool:
        try:
            async with pair.connection(ALL_TENANTS) as one, pair.connection(ALL_TENANTS) as two:
                return await one.fetchval(PID) not in pids and await two.fetchval(PID) not in pids
        except (Unavailable, *CONNECTION_ERRORS):
            return False

    await eventually(works)
    await eventually(lambda: pair.stats() == {"idle": 2, "used": 0})


async def test_an_open_transaction_is_not_handed_on(pair: Database) -> None:
    """A connection that comes back amid a transaction is dropped, with what it had begun."""
    async with pair.connection(ALL_TENANTS) as conn:
        left = await conn.fetchval(PID)
        await conn.execute("BEGIN")
    async with pair.connection(ALL_TENANTS) as one, pair.connection(ALL_TENANTS) as two:
        assert left not in {await one.fetchval(PID), await two.fetchval(PID)}
        assert not one.is_in_transaction()
        assert not two.is_in_transaction()
