"""Fixtures: a server behind its bridge, for clients that know only its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from tests.clients.cloud import Cloud
from tests.clients.dashboard import Dashboard
from tests.legacy.conftest import field
from tests.legacy.field import Field
from tests.support.clock import FakeClock
from tests.support.plane import Plane, running

__all__ = ["field"]


@pytest.fixture
async def plane(database_url: str, clock: FakeClock) -> AsyncIterator[Plane]:
    """A server that trusts the client addresses of its bridge."""
    bridge = ip_network("127.0.0.1/32")
    async with running(database_url, clock, trusted_proxies=(bridge,)) as up:
        yield up


@pytest.fixture
async def dashboard(field: Field, clock: FakeClock) -> AsyncIterator[Dashboard]:
    """A tenant without agents, and an empty cloud."""
    async with Cloud.before(field, clock) as cloud:
        yield Dashboard(field, cloud)
