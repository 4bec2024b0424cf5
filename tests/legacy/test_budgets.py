"""Rate limits of legacy callers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from aiohttp import ClientSession
from spotplane_bridge.app import running as bridge_running
from spotplane_bridge.config import BridgeConfig

from tests.legacy.field import Field
from tests.support.clock import FakeClock
from tests.support.plane import running

AGENT = "00000000-0000-4000-8000-00000000000a"
OTHER = "00000000-0000-4000-8000-00000000000b"
BURST = 50


@pytest.fixture
async def guarded(database_url: str, clock: FakeClock) -> AsyncIterator[Field]:
    """A client of a server that allows few failed authentications."""
    async with (
        running(database_url, clock, auth_failures_per_minute=3) as plane,
        bridge_running(BridgeConfig(port=0, grpc_target=plane.target)) as port,
        ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield Field(plane, session, await plane.tenant(), await plane.tenant())


async def _use_up(field: Field) -> None:
    for _ in range(BURST):
        await field.get(f"/api/agents/{AGENT}/config", status=404)
    await field.refused("RATE_LIMIT_EXCEEDED", "GET", f"/api/agents/{AGENT}/config", status=429)


async def test_one_agent_has_bursts_of_fifty(field: Field, clock: FakeClock) -> None:
    await _use_up(field)
    async with field.send("GET", f"/api/agents/{AGENT}/config") as response:
        assert int(response.headers["Retry-After"]) >= 1
    await field.get(f"/api/agents/{OTHER}/config", status=404)
    await field.get(f"/api/agents/{AGENT}/config", status=404, by=field.foreign)
    clock.advance(timedelta(seconds=6))
    await field.get(f"/api/agents/{AGENT}/config", status=404)


async def test_polling_does_not_consume_the_rate_limit_of_emergencies(field: Field) -> None:
    await _use_up(field)
    for route in ("create-emergency-replica", "termination-imminent", "rebalance-recommendation"):
        await field.post(f"/api/agents/{AGENT}/{route}", {}, status=404)


async def test_an_address_with_failed_authentications_is_throttled(
    guarded: Field, clock: FakeClock
) -> None:
    path = "/api/client/validate"
    await guarded.get(path)
    for number in range(3):
        await guarded.refused("INVALID_TOKEN", "GET", path, status=401, by=f"guess-{number}")
    await guarded.refused("RATE_LIMIT_EXCEEDED", "GET", path, status=429, by="guess-4")
    await guarded.get(path)
    clock.advance(timedelta(seconds=61))
    await guarded.refused("INVALID_TOKEN", "GET", path, status=401, by="guess-5")
