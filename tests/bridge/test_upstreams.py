"""A bridge with several servers: which of them gets a call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from aiohttp import ClientSession
from grpc_health.v1 import health_pb2
from spotplane_bridge.app import running
from spotplane_bridge.config import BridgeConfig, ConfigError

from tests.bridge.fake_plane import FakePlane, fake_plane
from tests.support.eventually import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Pair:
    """Two servers and a client of the bridge before them; `first` stops the first server."""

    planes: list[FakePlane]
    first: AsyncExitStack
    http: ClientSession

    async def served_by(self, calls: int = 4) -> set[int]:
        """Send reads, all of which succeed; the numbers of the servers that received them."""
        before = [len(plane.calls) for plane in self.planes]
        for _ in range(calls):
            async with self.http.get("/admin/tenants") as response:
                assert response.status == 200
        counts = zip(self.planes, before, strict=True)
        return {n for n, (plane, count) in enumerate(counts) if len(plane.calls) > count}


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack, AsyncExitStack() as first:
        planes = [
            await first.enter_async_context(fake_plane()),
            await stack.enter_async_context(fake_plane()),
        ]
        for plane in planes:
            await plane.health.set("", SERVING)
        target = ",".join(plane.target for plane in planes)
        port = await stack.enter_async_context(
            running(BridgeConfig(port=0, grpc_target=target, drain_timeout_s=1))
        )
        http = await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{port}"))
        yield Pair(planes, first, http)


async def test_calls_go_to_both_servers(pair: Pair) -> None:
    async def balanced() -> bool:
        return await pair.served_by() == {0, 1}

    await eventually(balanced)


async def test_a_dead_server_costs_no_call(pair: Pair) -> None:
    assert await pair.served_by(8)
    await pair.first.aclose()

    assert await pair.served_by(8) == {1}


async def test_a_draining_server_gets_no_calls(pair: Pair) -> None:
    await pair.planes[0].health.set("", NOT_SERVING)

    async def left() -> bool:
        return await pair.served_by() == {1}

    await eventually(left)


async def test_servers_that_are_not_ready_are_called_when_there_is_no_other(pair: Pair) -> None:
    for plane in pair.planes:
        await plane.health.set("", NOT_SERVING)

    assert await pair.served_by()


@pytest.mark.parametrize("text", ["server", "a:1,,b:2", "a:1,a:1", "a:0"])
def test_bad_targets_are_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match="SPOTPLANE_GRPC_TARGET: "):
        BridgeConfig.from_env({"SPOTPLANE_GRPC_TARGET": text})
