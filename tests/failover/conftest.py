"""Fixtures of the tests of failovers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.fleet import Calls
from tests.support.link import Hand, by_hand
from tests.support.plane import Plane


@pytest.fixture
async def hand(plane: Plane) -> AsyncIterator[Hand]:
    """A tenant's agents, spoken by hand."""
    async with by_hand(plane) as agents:
        yield agents


@pytest.fixture
def calls(plane: Plane, hand: Hand) -> Calls:
    """What the tenant's operator asks."""
    return Calls(plane.channel, hand.tenant)
