"""Fixtures: a real server, a real bridge in front of it, and legacy clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, DummyCookieJar
from spotplane_bridge.app import running as bridge_running
from spotplane_bridge.config import BridgeConfig

from tests.legacy.field import Field
from tests.support.plane import Plane


@pytest.fixture
async def field(plane: Plane) -> AsyncIterator[Field]:
    """Two tenants and an administrator as JSON clients of one server, under the test's clock."""
    config = BridgeConfig(port=0, grpc_target=plane.target, drain_timeout_s=5, log_level="WARNING")
    async with (
        bridge_running(config) as port,
        ClientSession(f"http://127.0.0.1:{port}", cookie_jar=DummyCookieJar()) as session,
    ):
        yield Field(plane, session, await plane.tenant(), await plane.tenant())
