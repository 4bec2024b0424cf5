"""Fixtures of the tests of switches."""

from __future__ import annotations

import pytest

from tests.fleet.world import World
from tests.support.clock import FakeClock
from tests.support.plane import Plane


@pytest.fixture
async def world(plane: Plane, clock: FakeClock) -> World:
    """A tenant whose market has prices."""
    made = World(plane, await plane.tenant(), clock)
    await made.prices()
    return made
