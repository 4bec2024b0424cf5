"""Fixtures of the usage tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.usage.world import World


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    """Two models and two regions, and the means to add tenants."""
    conn = await asyncpg.connect(database_url)
    made = World(conn)
    await made.model("llama-3-70b", "0.60", "0.60")
    await made.model("mistral-7b", "0.04", "0.05", "0.01")
    await made.region("in-mumbai", "0.7")
    await made.region("eu-west", "1.10")
    yield made
    await conn.close()
