"""Fixtures of the savings tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.savings.world import World


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    """The means to write histories."""
    conn = await asyncpg.connect(database_url)
    yield World(conn)
    await conn.close()
