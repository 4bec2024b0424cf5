"""The edge with two servers and two bridges: what a kill and a rolling restart cost its clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.edge import Edge, Load, doubled, loaded
from tests.faults.process import BridgeProcess, ServerProcess
from tests.support.eventually import eventually
from tests.support.fleet import Fleet, simulated

pytestmark = pytest.mark.timeout(180)

# The bounds: no failed request later than this after a kill, and agents back within this.
GRACE_SECONDS = 1.0
RECONNECT_SECONDS = 5.0
# How long requests go on after that: past the end of an ejection by outlier detection's interval.
OBSERVED_SECONDS = 2.0


@pytest.fixture
async def edge(database_url: str, tmp_path: Path) -> AsyncIterator[Edge]:
    async with doubled(database_url, tmp_path) as running:
        yield running


@pytest.fixture
async def fleet(edge: Edge, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with simulated(tmp_path / "instances", edge.target, edge.tenant) as found:
        for number in range(4):
            await found.start(f"agent-{number}")
        yield found


async def streaming(fleet: Fleet) -> None:
    """Wait until every agent has a stream."""

    def all_connected() -> bool:
        agents = [instance.agent for instance in fleet.cloud.instances.values()]
        return all(agent is not None and agent.connection_state == "connected" for agent in agents)

    await eventually(all_connected, within=RECONNECT_SECONDS)


async def kill_and_restart(
    edge: Edge, load: Load, fleet: Fleet, process: ServerProcess | BridgeProcess
) -> None:
    await process.kill()
    at = time.monotonic()
    await streaming(fleet)
    # Requests that are sent in this time must not fail.
    await asyncio.sleep(max(0.0, at + GRACE_SECONDS + OBSERVED_SECONDS - time.monotonic()))
    assert load.failed_after(at + GRACE_SECONDS) == []
    await process.start()
    await eventually(edge.balanced)
    assert load.failed_after(at + GRACE_SECONDS) == []


async def restart(process: ServerProcess | BridgeProcess) -> None:
    await process.stop()
    await process.start()


async def test_kill_of_one_of_two_fails_no_request_after_a_second(edge: Edge, fleet: Fleet) -> None:
    async with loaded(edge) as load:
        await kill_and_restart(edge, load, fleet, edge.servers[0])
        await kill_and_restart(edge, load, fleet, edge.bridges[0])
    assert load.sent > 0


async def test_rolling_restart_of_servers_and_bridges_fails_no_request(
    edge: Edge, fleet: Fleet
) -> None:
    async with loaded(edge) as load:
        for server, bridge in zip(edge.servers, edge.bridges, strict=True):
            await asyncio.gather(restart(server), restart(bridge))
            await streaming(fleet)
            await eventually(edge.balanced)
    assert load.failed == []
    assert load.sent > 0
