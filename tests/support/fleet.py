"""Real agents on simulated instances, against a real plane."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
from spotplane.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    failover_pb2,
    failover_pb2_grpc,
    replica_pb2,
    replica_pb2_grpc,
)
from spotplane_agents.backoff import Pace
from spotplane_agents.providers.market import ReplayedMarket
from spotplane_agents.providers.simulated import Service, SimulatedCloud, SimulatedInstance

from tests.support.eventually import eventually
from tests.support.plane import Tenant

TYPE, REGION = "g5.xlarge", "us-east-1"
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
START = datetime(2026, 1, 1, tzinfo=UTC)
PRICES = {zone: 300_000_000 + 10_000_000 * n for n, zone in enumerate(ZONES)}


class Fleet:
    """A simulated cloud whose agents belong to one tenant."""

    def __init__(self, cloud: SimulatedCloud, target: str, tenant: Tenant) -> None:
        self.cloud = cloud
        self.target = target
        self.tenant = tenant
        self._channel: grpc.aio.Channel | None = None

    async def start(self, name: str = "chat", zone: str = ZONES[0]) -> SimulatedInstance:
        """Start an agent and wait until it is connected."""
        instance = self.cloud.start(self.service(name), instance_type=TYPE, region=REGION, az=zone)
        await eventually(lambda: instance.agent is not None and instance.agent.connected)
        return instance

    def service(self, name: str) -> Service:
        """An agent's identity and how its instances reach the plane."""
        quick: Any = {"retry": Pace(0.02, 0.2)}
        return Service(name, self.target, self.tenant.key, connection=quick)


class Calls:
    """What an operator asks of the fleet."""

    def __init__(self, channel: grpc.aio.Channel, tenant: Tenant) -> None:
        self.agents = agent_pb2_grpc.AgentServiceStub(channel)
        self.replicas = replica_pb2_grpc.ReplicaServiceStub(channel)
        self.failovers = failover_pb2_grpc.FailoverServiceStub(channel)
        self.metadata = tenant.metadata

    async def agent(self, agent_id: str) -> agent_pb2.Agent:
        """Read an agent."""
        return await self.agents.GetAgent(
            agent_pb2.GetAgentRequest(agent_id=agent_id), metadata=self.metadata
        )

    async def configure(self, agent_id: str, **fields: Any) -> None:
        """Change an agent's configuration."""
        await self.agents.UpdateAgentConfig(
            agent_pb2.UpdateAgentConfigRequest(agent_id=agent_id, **fields), metadata=self.metadata
        )

    async def issue(self, agent_id: str, name: str, **fields: Any) -> agent_pb2.Command:
        """Issue a custom command."""
        return await self.agents.IssueCommand(
            agent_pb2.IssueCommandRequest(agent_id=agent_id, name=name, **fields),
            metadata=self.metadata,
        )

    async def command(self, agent_id: str, command_id: str) -> agent_pb2.Command:
        """Read a command with its story."""
        return await self.agents.GetCommand(
            agent_pb2.GetCommandRequest(agent_id=agent_id, command_id=command_id),
            metadata=self.metadata,
        )

    async def replica(self, agent_id: str, *, status: str) -> replica_pb2.Replica:
        """Wait for a replica in a state."""

        async def found() -> Any:
            answer = await self.replicas.ListReplicas(
                replica_pb2.ListReplicasRequest(agent_id=agent_id, status=status),
                metadata=self.metadata,
            )
            return answer.data and answer.data[0]

        # Slower than the budget of one agent's calls.
        replica: replica_pb2.Replica = await eventually(found, every=0.15)
        return replica

    async def failovers_of(self, agent_id: str) -> list[failover_pb2.Failover]:
        """List an agent's failovers."""
        answer = await self.failovers.ListFailovers(
            failover_pb2.ListFailoversRequest(agent_id=agent_id), metadata=self.metadata
        )
        return list(answer.data)


@asynccontextmanager
async def simulated(path: Path, target: str, tenant: Tenant) -> AsyncIterator[Fleet]:
    """A cloud with three priced zones for the block."""
    market = ReplayedMarket(
        [(START, f"{TYPE}.{zone}", price) for zone, price in PRICES.items()], start=START
    )
    async with SimulatedCloud(
        path,
        market=market,
        on_demand={TYPE: 1_000_000_000},
        boot_seconds=0.05,
        price_period_seconds=0.2,
    ) as cloud:
        yield Fleet(cloud, target, tenant)
