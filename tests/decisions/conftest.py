"""Fixtures of the tests of decisions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.decisions.world import Engines, World
from tests.support.link import by_hand
from tests.support.plane import Plane


@pytest.fixture
async def world(plane: Plane) -> AsyncIterator[World]:
    """A tenant's agents, spoken by hand, and their market."""
    async with by_hand(plane) as hand:
        world = World(plane, hand)
        await world.hold_loop()
        yield world


@pytest.fixture
def engines(plane: Plane) -> Engines:
    """What an administrator does with engines."""
    return Engines(plane)
