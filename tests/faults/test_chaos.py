"""The chaos proxy: each fault as its clients see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from spotplane_bench.chaos import ChaosProxy, chaos_proxy, postgres_upstream, postgres_url

from tests.support.eventually import eventually

ROWS = "SELECT count(*) FROM chaos"
INSERT = "INSERT INTO chaos (id) VALUES ($1)"


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[ChaosProxy]:
    async with chaos_proxy(postgres_upstream(database_url)) as running:
        yield running


@pytest.fixture
async def direct(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection past the proxy."""
    conn = await asyncpg.connect(database_url)
    await conn.execute("CREATE TABLE chaos (id int PRIMARY KEY)")
    yield conn
    await conn.close()


async def connect(url: str, proxy: ChaosProxy) -> asyncpg.Connection[asyncpg.Record]:
    return await asyncpg.connect(postgres_url(url, proxy), timeout=5)


async def test_forwards_until_cut(database_url: str, proxy: ChaosProxy) -> None:
    conn = await connect(database_url, proxy)
    assert await conn.fetchval("SELECT length(repeat('x', 1000000))") == 1_000_000
    assert len(await conn.fetchval("SELECT repeat('x', 1000000)")) == 1_000_000

    proxy.cut()

    await eventually(conn.is_closed)
    await eventually(lambda: proxy.connections == 0)


async def test_refuses_new_connections_only(database_url: str, proxy: ChaosProxy) -> None:
    conn = await connect(database_url, proxy)
    proxy.refuse()
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await connect(database_url, proxy)
    assert await conn.fetchval("SELECT 1") == 1

    proxy.restore()
    await (await connect(database_url, proxy)).close()
    await conn.close()


@pytest.mark.parametrize(("to_upstream", "to_client"), [(True, False), (False, True)])
async def test_silence_holds_bytes_until_restored(
    database_url: str, proxy: ChaosProxy, to_upstream: bool, to_client: bool
) -> None:
    conn = await connect(database_url, proxy)
    proxy.silence(to_upstream=to_upstream, to_client=to_client)
    answer = asyncio.ensure_future(conn.fetchval("SELECT 7"))
    assert await asyncio.wait([answer], timeout=0.1) == (set(), {answer})
    assert not conn.is_closed()

    proxy.restore()
    assert await answer == 7
    await conn.close()


async def test_delay_holds_back_each_answer(database_url: str, proxy: ChaosProxy) -> None:
    conn = await connect(database_url, proxy)
    proxy.delay(0.05)
    started = asyncio.get_running_loop().time()
    await conn.fetchval("SELECT 1")
    assert asyncio.get_running_loop().time() - started >= 0.1
    await conn.close()


@pytest.mark.parametrize("prepared", [False, True], ids=["simple", "extended"])
async def test_commit_takes_effect_and_its_answer_is_lost(
    database_url: str,
    proxy: ChaosProxy,
    direct: asyncpg.Connection[asyncpg.Record],
    prepared: bool,
) -> None:
    conn = await connect(database_url, proxy)
    proxy.lose_answers(1)
    await conn.execute("BEGIN")
    await conn.execute(INSERT, 1)
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await (conn.fetch("COMMIT") if prepared else conn.execute("COMMIT"))
    assert (proxy.lost_answers, await direct.fetchval(ROWS)) == (1, 1)

    again = await connect(database_url, proxy)
    async with again.transaction():
        await again.execute(INSERT, 2)
    assert (proxy.lost_answers, await direct.fetchval(ROWS)) == (1, 2)
    await again.close()


async def test_commit_that_rolls_back_is_answered(
    database_url: str, proxy: ChaosProxy, direct: asyncpg.Connection[asyncpg.Record]
) -> None:
    conn = await connect(database_url, proxy)
    proxy.lose_answers(1)
    await conn.execute("BEGIN")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await conn.execute("SELECT 1 / 0")
    assert await conn.execute("COMMIT") == "ROLLBACK"
    assert (proxy.lost_answers, await direct.fetchval(ROWS)) == (0, 0)
    await conn.close()


async def test_answer_of_a_chosen_statement_is_lost(
    database_url: str, proxy: ChaosProxy, direct: asyncpg.Connection[asyncpg.Record]
) -> None:
    conn = await connect(database_url, proxy)
    proxy.lose_answers(1, lambda sql: sql == INSERT)
    assert await conn.fetchval("SELECT 1") == 1
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await conn.execute(INSERT, 1)
    assert (proxy.lost_answers, await direct.fetchval(ROWS)) == (1, 1)
