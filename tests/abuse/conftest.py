"""A stack to attack: a server, a bridge and Envoy, with a short patience for stuck streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from spotplane_bench.abuse.target import Target
from spotplane_bridge.addresses import Address
from spotplane_bridge.app import running as bridge_running
from spotplane_bridge.config import BridgeConfig
from spotplane_bridge.edge.config import EdgeConfig
from spotplane_bridge.edge.process import start_envoy

from tests.support.link import Hand, by_hand
from tests.support.plane import Plane, running

STALL_SECONDS = 1
SUBSCRIPTIONS = 3
ANY_PORT = Address("127.0.0.1", 0)


@dataclass(frozen=True)
class Stack:
    """What is attacked, and by whom.

    Attributes:
        plane: The server.
        hand: The attacker's tenant and its agents.
        bridge: Address of the bridge.
    """

    plane: Plane
    hand: Hand
    bridge: str

    async def target(self, edge: str = "") -> Target:
        """The stack with a registered agent, as attacks take it."""
        registered = await self.hand.register("i-abuse")
        return Target(
            server=self.plane.target,
            bridge=self.bridge,
            edge=edge,
            database_url=self.plane.database_url,
            tenant_id=self.hand.tenant.id,
            key=self.hand.tenant.key,
            agent_id=registered.agent_id,
            instance_id="i-abuse",
        )


@pytest.fixture
async def stack(database_url: str) -> AsyncIterator[Stack]:
    """A server and a bridge, without Envoy."""
    settings: dict[str, Any] = {
        "stream_stall_seconds": STALL_SECONDS,
        "subscriptions_per_credential": SUBSCRIPTIONS,
        "subscriptions_per_tenant": SUBSCRIPTIONS + 1,
    }
    async with running(database_url, **settings) as plane, by_hand(plane) as hand:
        config = BridgeConfig(
            port=0,
            grpc_target=plane.target,
            drain_timeout_s=0.2,
            stream_write_timeout_s=STALL_SECONDS,
        )
        async with bridge_running(config) as port:
            yield Stack(plane, hand, f"127.0.0.1:{port}")


@pytest.fixture
async def edge(stack: Stack, tmp_path: Path) -> AsyncIterator[str]:
    """The public address of Envoy in front of the stack."""
    config = EdgeConfig(
        listen=ANY_PORT,
        admin=ANY_PORT,
        grpc_upstreams=(Address.parse(stack.plane.target),),
        bridge_upstreams=(Address.parse(stack.bridge),),
    )
    envoy = await start_envoy(config, tmp_path, tmp_path / "envoy.log", concurrency=1)
    try:
        yield f"{envoy.listen.host}:{envoy.listen.port}"
    finally:
        await envoy.stop()
