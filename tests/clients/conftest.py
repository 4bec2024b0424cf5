"""A plane behind its bridge, for clients that know nothing but its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from tests.dialects.conftest import field
from tests.support.clock import FakeClock
from tests.support.plane import Plane, running

__all__ = ["field"]


@pytest.fixture
async def plane(database_url: str, clock: FakeClock) -> AsyncIterator[Plane]:
    """A server that believes its bridge where requests come from."""
    bridge = ip_network("127.0.0.1/32")
    async with running(database_url, clock, trusted_proxies=(bridge,)) as up:
        yield up
