"""Fixtures of the tests of nodes."""

from __future__ import annotations

import pytest

from tests.nodes.world import Nodes
from tests.support.plane import Plane


@pytest.fixture
async def nodes(plane: Plane) -> Nodes:
    """NodeService beside a catalogue with something to rent."""
    made = Nodes(plane)
    await made.furnish()
    return made
