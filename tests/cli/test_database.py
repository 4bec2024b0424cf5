"""Commands that work on the database itself: its version, and the login that they use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.support.command import Done, spotplane
from tests.support.rewrite import rewritten

VERSION = b"server_version\x00"


def older(data: bytes) -> bytes:
    """Have the server report version 15."""
    before, found, after = data.partition(VERSION)
    return before + found + (b"15" + after[2:] if found else after)


@pytest.mark.parametrize("command", [("migrate",), ("server",), ("admin", "token", "list")])
async def test_a_postgresql_that_is_too_old_is_rejected(
    database_url: str, command: tuple[str, ...]
) -> None:
    async with rewritten(database_url, to_client=older) as url:
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
