"""Commands that work on the database itself: its version, and the login that they use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from spotplane_bench.chaos import postgres_upstream

from tests.support.command import Done, spotplane

VERSION = b"server_version\x00"


@asynccontextmanager
async def reported_as(url: str, major: bytes) -> AsyncIterator[str]:
    """A URL of the same database, whose server reports another major version."""
    upstream = postgres_upstream(url)
    assert isinstance(upstream, str)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server, from_server = await asyncio.open_unix_connection(upstream)
        with suppress(ConnectionError):
            async with asyncio.TaskGroup() as group:
                group.create_task(copy(reader, from_server))
                group.create_task(copy(to_server, writer))

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            before, found, after = data.partition(VERSION)
            writer.write(before + found + (major + after[2:] if found else after))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    name = url.partition("?")[0].rpartition("/")[2]
    yield f"postgresql://postgres@127.0.0.1:{port}/{name}"
    server.close()


@pytest.mark.parametrize("command", [("migrate",), ("server",), ("admin", "token", "list")])
async def test_a_postgresql_that_is_too_old_is_rejected(
    database_url: str, command: tuple[str, ...]
) -> None:
    async with reported_as(database_url, b"15") as url:
        done = await spotplane(*command, SPOTPLANE_DATABASE_URL=url, SPOTPLANE_PORT="0")
    assert done.status == 1
    assert "Spotplane needs PostgreSQL 16 or newer, not 15." in done.err


async def _ran(url: str, *command: str) -> Done:
    done = await spotplane(*command, SPOTPLANE_DATABASE_URL=url)
    assert done.status == 0, done
    return done


@pytest.fixture
async def owner_url(postgres: Any) -> AsyncIterator[str]:
    """An empty database whose owner may create roles, and is no superuser."""
    owner = f"owner_{uuid4().hex}"
    admin = await asyncpg.connect(postgres.get_uri())
    await admin.execute(f"CREATE ROLE {owner} LOGIN CREATEROLE")
    await admin.execute(f"CREATE DATABASE {owner} OWNER {owner}")
    yield postgres.get_uri(owner).replace("//postgres:@", f"//{owner}@")
    await admin.execute(f"DROP DATABASE {owner} WITH (FORCE)")
    await admin.execute(f"DROP ROLE {owner}")
    await admin.close()


async def test_the_first_token_is_created_with_the_url_that_migrates(owner_url: str) -> None:
    """The plain role is there already, and the owner is not its member."""
    await _ran(owner_url, "migrate")
    token = (await _ran(owner_url, "admin", "token", "create", "ops")).out.strip()
    assert token.startswith("sp_admin_")
    listed = (await _ran(owner_url, "admin", "token", "list")).out
    assert "ops" in listed
    await _ran(owner_url, "admin", "token", "revoke", "ops")


async def test_a_login_that_may_not_use_the_schema_gets_a_clear_error(
    postgres: Any, database_url: str
) -> None:
    name = f"stranger_{uuid4().hex}"
    admin = await asyncpg.connect(postgres.get_uri())
    await admin.execute(f"CREATE ROLE {name} LOGIN")
    url = database_url.replace("//postgres:@", f"//{name}@")
    done = await spotplane("admin", "token", "create", "ops", SPOTPLANE_DATABASE_URL=url)
    await admin.execute(f"DROP ROLE {name}")
    await admin.close()
    assert done.status == 1
    assert "the database cannot be used: permission denied" in done.err
    assert "Traceback" not in done.err
