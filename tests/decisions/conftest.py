"""Fixtures of the tests of decisions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from spotplane_server.decisions.loop import DecisionLoop

from tests.decisions.world import Engines, World
from tests.support.link import by_hand
from tests.support.plane import Plane

HOLD_LOOP = """
    INSERT INTO leases (name, holder, token, expires_at) VALUES ($1, 'the test', 1, 'infinity')
    ON CONFLICT (name) DO UPDATE SET holder = 'the test', expires_at = 'infinity'
"""


@pytest.fixture
async def world(plane: Plane) -> AsyncIterator[World]:
    """A tenant's agents, spoken by hand, and their market."""
    async with by_hand(plane) as hand:
        world = World(plane, hand)
        # The test runs the loop itself: the servers' own leave it to whoever holds its lease.
        await world.owner(HOLD_LOOP, f"job:{DecisionLoop.name}")
        yield world


@pytest.fixture
def engines(plane: Plane) -> Engines:
    """What an administrator does with engines."""
    return Engines(plane)
