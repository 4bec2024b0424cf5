"""Two servers on one database, and one tenant's fleet as a test sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from spotplane.v1 import agent_pb2_grpc, failover_pb2_grpc, fleet_pb2_grpc, replica_pb2_grpc

from tests.support.clock import FakeClock
from tests.support.plane import Metadata, Plane, Tenant
from tests.support.reader import Reader

INSTANCES = ("i-1", "i-2", "i-3", "i-4", "i-5")
AGENTS = ("web", "api")
# Roles that an instance is named by, beside its id: whoever has that part when the step is made.
PARTS = {"primary": "running_primary", "replica": "running_replica", "zombie": "zombie"}

_AGENT = """
    SELECT id::text
      FROM agents
     WHERE tenant_id = $1 AND logical_agent_id = $2
     ORDER BY created_at DESC
     LIMIT 1
"""
_PART = """
    SELECT id
      FROM instances
     WHERE tenant_id = $1 AND agent_id = $2 AND status = $3
     ORDER BY id
     LIMIT 1
"""
_COMMANDS = """
    SELECT id::text
      FROM agent_commands
     WHERE tenant_id = $1 AND agent_id = $2
     ORDER BY created_at DESC, id
     LIMIT 3
"""
_REPLICAS = """
    SELECT id::text, instance_id, bound
      FROM replicas
     WHERE tenant_id = $1 AND agent_id = $2
     ORDER BY created_at DESC, id
     LIMIT 2
"""


class Stubs:
    """Every service of one server that speaks of the fleet."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.agents = agent_pb2_grpc.AgentServiceStub(channel)
        self.fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        self.replicas = replica_pb2_grpc.ReplicaServiceStub(channel)
        self.failovers = failover_pb2_grpc.FailoverServiceStub(channel)


@dataclass
class World:
    """Two servers, one database, one clock."""

    planes: tuple[Plane, Plane]
    stubs: tuple[Stubs, Stubs]
    clock: FakeClock
    url: str
    reader: Reader


@dataclass
class Fleet:
    """One tenant's agents, found by their names.

    Attributes:
        world: Where they live.
        tenant: Whose they are.
        gone: Instances of which somebody has said that they are gone, so that their end needs
            nobody's consent any more.
        final: What has reached a state that must never change.
        instances: Instances by id, as they were after the last step.
    """

    world: World
    tenant: Tenant
    gone: set[str] = field(default_factory=set)
    final: dict[tuple[str, str], str] = field(default_factory=dict)
    instances: dict[str, Any] = field(default_factory=dict)

    def real(self, symbol: str) -> str:
        """The id in the cloud of what steps call an instance."""
        return f"{symbol}-{self.tenant.id[:8]}"

    @property
    def everyone(self) -> set[str]:
        """Every id that an instance can have."""
        return {self.real(symbol) for symbol in INSTANCES}

    @property
    def metadata(self) -> Metadata:
        """The tenant's credential."""
        return self.tenant.metadata

    async def rows(self, statement: str, *more: Any) -> list[Any]:
        """Read the tenant's rows."""
        return await self.world.reader.fetch(statement, self.tenant.id, *more)

    async def agent(self, name: str) -> Any:
        """The youngest agent of a name, deleted or not."""
        found = await self.rows(_AGENT, name)
        return found[0]["id"] if found else None

    async def instance(self, agent_id: str | None, who: str) -> Any:
        """Id of an instance by what steps call it, or by the part that it has for an agent."""
        if who not in PARTS:
            return self.real(who)
        found = await self.rows(_PART, agent_id, PARTS[who])
        return found[0]["id"] if found else None

    async def command(self, agent_id: str | None, number: int) -> Any:
        """One of an agent's newest commands."""
        found = await self.rows(_COMMANDS, agent_id)
        return found[number % len(found)]["id"] if found else None

    async def replica(self, agent_id: str | None, number: int) -> Any | None:
        """One of an agent's newest replicas."""
        found = await self.rows(_REPLICAS, agent_id)
        return found[number % len(found)] if found else None
