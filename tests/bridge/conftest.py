"""Fixtures: a real gRPC server, a real bridge in front of it, and a client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, DummyCookieJar
from spotplane_bridge.app import running
from spotplane_bridge.config import BridgeConfig

from tests.bridge.fake_plane import FakePlane, fake_plane


@pytest.fixture
async def plane() -> AsyncIterator[FakePlane]:
    async with fake_plane() as running_plane:
        yield running_plane


@pytest.fixture
def config(plane: FakePlane) -> BridgeConfig:
    return BridgeConfig(
        port=0, grpc_target=plane.target, trusted_proxies=(), max_body_mib=1, drain_timeout_s=5
    )


@pytest.fixture
async def http(config: BridgeConfig) -> AsyncIterator[ClientSession]:
    async with (
        running(config) as port,
        ClientSession(f"http://127.0.0.1:{port}", cookie_jar=DummyCookieJar()) as session,
    ):
        yield session
