"""Fixtures of the tests of budgets: two servers a module, as each test has a tenant of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest_asyncio

from tests.spending.world import World
from tests.support.clock import FakeClock
from tests.support.plane import running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: Any) -> AsyncIterator[World]:
    """Servers under one clock; a test that moves it on moves it for those that follow."""
    name = f"s{uuid4().hex}"
    owner = await asyncpg.connect(postgres.get_uri())
    await owner.execute(f'CREATE DATABASE "{name}" TEMPLATE template_migrated')
    url, clock = postgres.get_uri(name), FakeClock()
    # Far from midnight, whenever this runs.
    noon = (clock.now() + timedelta(days=1)).replace(hour=12, minute=0)
    clock.advance(noon - clock.now())
    async with running(url, clock) as plane, running(url, clock) as second:
        made = World(plane, second, clock)
        await made.furnish()
        yield made
    await owner.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await owner.close()
