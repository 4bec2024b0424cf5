"""Units of work: blocks join, later blocks may fail alone, and hints wait for the commit."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import uuid4

import asyncpg
import pytest
from spotplane_server.kernel.db import unit_of_work
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.db.transactions import TransactionLost
from spotplane_server.kernel.db.unit_of_work import UnitOfWork
from spotplane_server.kernel.request_context import TenantId

SCOPE = "SELECT current_setting('spotplane.tenant_id')"


@pytest.fixture
async def probe(database_url: str) -> str:
    """A table of the test's own."""
    conn = await asyncpg.connect(database_url)
    await conn.execute("CREATE TABLE probe (value int UNIQUE)")
    await conn.execute("GRANT ALL ON probe TO spotplane_app")
    await conn.close()
    return database_url


async def _add(conn: Conn, value: int) -> None:
    await conn.execute("INSERT INTO probe VALUES ($1)", value)


async def _committed(url: str) -> list[int]:
    conn = await asyncpg.connect(url)
    try:
        return [row["value"] for row in await conn.fetch("SELECT value FROM probe ORDER BY 1")]
    finally:
        await conn.close()


async def _nothing(*_: object) -> None:
    return None


def _unit(db: Database) -> UnitOfWork:
    return db.new_unit(_nothing)


async def test_all_blocks_commit_together(probe: str, db: Database) -> None:
    unit = _unit(db)
    with unit_of_work.entered(unit):
        async with db.transaction(ALL_TENANTS) as conn:
            await _add(conn, 1)
        async with db.write(ALL_TENANTS) as conn:
            await _add(conn, 2)
        assert await _committed(probe) == []
        async with db.connection(ALL_TENANTS) as conn:
            assert await conn.fetchval("SELECT count(*) FROM probe") == 2
    await unit.commit(ALL_TENANTS, lambda conn: _add(conn, 3))
    assert await _committed(probe) == [1, 2, 3]
    assert db.stats()["used"] == 0


async def test_a_block_that_fails_leaves_the_others(probe: str, db: Database) -> None:
    unit = _unit(db)
    with unit_of_work.entered(unit):
        for value in (1, 1, 2):
            with suppress(asyncpg.UniqueViolationError):
                async with db.transaction(ALL_TENANTS) as conn:
                    await _add(conn, 10 + value)
                    await _add(conn, value)
    await unit.commit(ALL_TENANTS, _nothing)
    assert await _committed(probe) == [1, 2, 11, 12]


async def test_nothing_remains_when_the_last_block_fails(probe: str, db: Database) -> None:
    unit, hints = _unit(db), list[str]()
    with unit_of_work.entered(unit):
        async with db.transaction(ALL_TENANTS) as conn:
            await _add(conn, 1)
        unit_of_work.after_commit(lambda: hints.append("hint"))
    with pytest.raises(asyncpg.UniqueViolationError):
        await unit.commit(ALL_TENANTS, lambda conn: _add(conn, 1))
    assert await _committed(probe) == []
    assert (hints, db.stats()["used"]) == ([], 0)


async def test_hints_wait_for_the_commit(probe: str, db: Database) -> None:
    unit, seen = _unit(db), list[bool]()
    with unit_of_work.entered(unit):
        async with db.transaction(ALL_TENANTS) as conn:
            await _add(conn, 1)
        unit_of_work.after_commit(lambda: seen.append(unit.is_committed))
        assert seen == []
    await unit.commit(ALL_TENANTS, _nothing)
    unit_of_work.after_commit(lambda: seen.append(True))
    assert seen == [True, True]


async def test_each_block_has_its_scope(db: Database) -> None:
    """Also after a nested block of another scope, and after a rollback to before it."""
    outer, inner = TenantId(uuid4()), TenantId(uuid4())
    unit = _unit(db)
    with unit_of_work.entered(unit):
        async with db.transaction(outer) as conn:
            with suppress(asyncpg.DivisionByZeroError):
                async with db.transaction(inner) as nested:
                    assert await nested.fetchval(SCOPE) == str(inner)
                    await nested.execute("SELECT 1 / 0")
            assert await conn.fetchval(SCOPE) == str(outer)
        async with db.connection(inner) as conn:
            assert await conn.fetchval(SCOPE) == str(inner)
    await unit.rollback()
    async with db.connection(outer) as conn:
        assert await conn.fetchval(SCOPE) == str(outer)


async def test_other_tasks_and_independent_transactions_do_not_join(
    probe: str, db: Database
) -> None:
    async def elsewhere() -> None:
        async with db.transaction(ALL_TENANTS) as conn:
            await _add(conn, 2)

    unit = _unit(db)
    with unit_of_work.entered(unit):
        async with db.transaction(ALL_TENANTS) as conn:
            await _add(conn, 1)
        await asyncio.create_task(elsewhere())
        async with db.transaction(ALL_TENANTS, is_independent=True) as conn:
            await _add(conn, 3)
    await unit.rollback()
    assert await _committed(probe) == [2, 3]


async def test_a_lost_unit_runs_no_further_block(probe: str, db: Database) -> None:
    """Else a retried block would commit without those before it."""
    unit = _unit(db)
    with unit_of_work.entered(unit):
        async with db.transaction(ALL_TENANTS) as conn:
            await _add(conn, 1)
            conn.terminate()
    with unit_of_work.entered(unit):
        for _ in range(2):
            with pytest.raises(TransactionLost):
                async with db.transaction(ALL_TENANTS) as conn:
                    await _add(conn, 2)
    with pytest.raises(TransactionLost):
        await unit.commit(ALL_TENANTS, _nothing)
    assert await _committed(probe) == []
    assert db.stats()["used"] == 0


async def test_a_restart_undoes_what_was_done(probe: str, db: Database) -> None:
    unit = _unit(db)
    with unit_of_work.entered(unit):
        for _ in range(2):
            await unit_of_work.restart()
            async with db.transaction(ALL_TENANTS) as conn:
                await _add(conn, 1)
            async with db.transaction(ALL_TENANTS) as conn:
                await _add(conn, 2)
    await unit.commit(ALL_TENANTS, _nothing)
    assert await _committed(probe) == [1, 2]
