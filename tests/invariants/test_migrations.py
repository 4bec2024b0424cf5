"""The schema moves forward only, and ends the same whichever way it came."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias
from uuid import uuid4

import asyncpg
import pytest
from spotplane_server.kernel.db import migrate
from spotplane_server.kernel.db.migrate import MigrationRefused

from tests.support.plane import running

CATALOGUE: Final = (
    """
    SELECT c.relname, c.relkind, c.relrowsecurity, a.attnum, a.attname,
           format_type(a.atttypid, a.atttypmod), a.attnotnull,
           pg_get_expr(d.adbin, d.adrelid), c.relacl::text
      FROM pg_class c
      LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE c.relnamespace = 'public'::regnamespace
     ORDER BY c.relname, a.attnum
    """,
    """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
     WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
    """,
    "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    """
    SELECT tablename, policyname, roles::text, cmd, qual, with_check FROM pg_policies ORDER BY 1, 2
    """,
    """
    SELECT proname, pg_get_functiondef(oid), proacl::text FROM pg_proc
     WHERE pronamespace = 'public'::regnamespace AND prokind IN ('f', 'p') ORDER BY 1, 2
    """,
    """
    SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger
     WHERE NOT tgisinternal ORDER BY 1, 2
    """,
    "SELECT version, name, checksum FROM schema_migrations ORDER BY 1",
)
# Makes a database like the one named, an empty one if none is.
MakeDatabase: TypeAlias = Callable[..., Awaitable[str]]


@pytest.fixture
async def make_database(postgres: Any) -> AsyncIterator[MakeDatabase]:
    """Databases of the test's own."""
    made: list[str] = []

    async def make(like: str = "template0") -> str:
        made.append(f"m{uuid4().hex}")
        async with _owner(postgres.get_uri()) as conn:
            await conn.execute(f'CREATE DATABASE "{made[-1]}" TEMPLATE "{like}"')
        url: str = postgres.get_uri(made[-1])
        return url

    yield make
    async with _owner(postgres.get_uri()) as conn:
        for name in made:
            await conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@asynccontextmanager
async def _owner(url: str) -> AsyncIterator[Any]:
    conn = await asyncpg.connect(url)
    try:
        yield conn
    finally:
        await conn.close()


async def _catalogue(url: str) -> list[list[tuple[object, ...]]]:
    async with _owner(url) as conn:
        return [[tuple(row) for row in await conn.fetch(query)] for query in CATALOGUE]


async def _migrate_to(url: str, version: int, since: int = 0) -> None:
    """Bring a database to an older version, as that version did."""
    async with _owner(url) as conn:
        await conn.execute(migrate.CREATE_LEDGER)
        for step in migrate.load()[since:version]:
            async with conn.transaction():
                await conn.execute(step.sql)
                await conn.execute(migrate.RECORD, step.version, step.name, step.checksum)


async def test_every_older_version_comes_to_the_same_schema(
    make_database: MakeDatabase, database_url: str
) -> None:
    """Each applies what it lacks, and nothing twice."""
    steps = [step.name for step in migrate.load()]
    expected = await _catalogue(database_url)
    older = await make_database()
    async with _owner(older) as conn:
        name = await conn.fetchval("SELECT current_database()")
    for version in range(len(steps)):
        await _migrate_to(older, version, max(0, version - 1))
        url = await make_database(name)

        assert await migrate.migrate(url) == steps[version:]

        assert await _catalogue(url) == expected, version
    assert await migrate.migrate(database_url) == []


async def test_processes_that_migrate_at_once_all_end_well(make_database: MakeDatabase) -> None:
    """One does the work; the others wait for it and find nothing to do."""
    url = await make_database()
    environment = {**os.environ, "SPOTPLANE_DATABASE_URL": url}
    command = (sys.executable, "-m", "spotplane_server.cli", "migrate")
    processes = [await asyncio.create_subprocess_exec(*command, env=environment) for _ in range(3)]

    assert await asyncio.gather(*(process.wait() for process in processes)) == [0, 0, 0]

    assert await migrate.migrate(url) == []


async def test_a_newer_database_is_refused(database_url: str) -> None:
    """An older program must not touch what it does not know."""
    async with _owner(database_url) as conn:
        await conn.execute(migrate.RECORD, migrate.load()[-1].version + 1, "9999_later", "x")

    with pytest.raises(MigrationRefused, match="upgrade"):
        await migrate.migrate(database_url)


async def test_a_file_that_was_changed_after_it_was_applied_is_refused(database_url: str) -> None:
    """Forward only: what ran is never written anew."""
    async with _owner(database_url) as conn:
        await conn.execute("UPDATE schema_migrations SET checksum = 'x' WHERE version = 3")

    with pytest.raises(MigrationRefused, match="0003"):
        await migrate.migrate(database_url)


async def test_a_migration_that_fails_leaves_nothing_of_itself(make_database: MakeDatabase) -> None:
    """And can be run again once its cause is gone."""
    url = await make_database()
    async with _owner(url) as conn:
        await conn.execute("CREATE TABLE api_keys (in_the_way int)")
    with pytest.raises(asyncpg.DuplicateTableError):
        await migrate.migrate(url)
    async with _owner(url) as conn:
        assert await conn.fetchval(migrate.LATEST) == 1
        assert await conn.fetchval("SELECT to_regclass('tenants')") is None
        await conn.execute("DROP TABLE api_keys")

    assert await migrate.migrate(url) == [step.name for step in migrate.load()][1:]


@pytest.mark.parametrize("version", [0, 1])
async def test_a_server_refuses_a_database_that_is_behind(
    make_database: MakeDatabase, version: int
) -> None:
    """Empty, or of an older version: it says what to do."""
    url = await make_database()
    if version:
        await _migrate_to(url, version)

    with pytest.raises(MigrationRefused, match="spotplane migrate"):
        async with running(url):
            pass


async def test_a_server_goes_on_with_a_database_that_is_ahead(database_url: str) -> None:
    """Migrations run before the new program; the old one works until it is replaced."""
    async with _owner(database_url) as conn:
        await conn.execute(migrate.RECORD, migrate.load()[-1].version + 1, "9999_later", "x")

    async with running(database_url) as plane:
        assert (await plane.tenant()).id
