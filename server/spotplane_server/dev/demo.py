"""The demo's tenants and keys, and what an operator would set up for their agents."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Final

import grpc
import grpc.aio
from spotplane.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    api_key_pb2,
    api_key_pb2_grpc,
    replica_pb2,
    replica_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
)

from spotplane_server.dev.children import DataDir

FILE: Final = "demo.json"
_TENANTS: Final = (("Aurora Labs", "ops@aurora.example"), ("Borealis AI", "ops@borealis.example"))
_SERVICES: Final = ("chat", "embed", "rank", "vision")
# So many agents have a replica standing at all times that something can take over, in both tenants.
_REPLICA_EVERY: Final = 5


@dataclass(frozen=True, slots=True)
class DemoTenant:
    """A tenant of the demo, with a key for dashboards (role admin) and one for its agents."""

    id: str
    name: str
    key: str
    agent_key: str


@dataclass(frozen=True, slots=True)
class DemoAgent:
    """An agent of the demo: whose it is, and whether a replica is to stand by."""

    name: str
    tenant: DemoTenant
    replica: bool


def agents_of(tenants: list[DemoTenant], count: int) -> list[DemoAgent]:
    """Spread ``count`` agents over the tenants, by turns."""
    return [
        DemoAgent(
            f"{_SERVICES[index % len(_SERVICES)]}-{index // len(_SERVICES) + 1:02}",
            tenants[index % len(tenants)],
            replica=index % _REPLICA_EVERY == 0,
        )
        for index in range(count)
    ]


class Operator:
    """Calls of an administrator."""

    def __init__(self, target: str, token: str) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        self._admin: Any = {"metadata": (("x-admin-token", token),), "timeout": 10.0}
        self._tenants = tenant_pb2_grpc.TenantServiceStub(self._channel)
        self._keys = api_key_pb2_grpc.ApiKeyServiceStub(self._channel)
        self._agents = agent_pb2_grpc.AgentServiceStub(self._channel)
        self._replicas = replica_pb2_grpc.ReplicaServiceStub(self._channel)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def tenants(self, data: DataDir) -> list[DemoTenant]:
        """The demo's tenants as they were, or new ones where they are not there any more."""
        try:
            text = (data.path / FILE).read_text(encoding="utf-8")
            known = [DemoTenant(**entry) for entry in json.loads(text)]
        except (OSError, ValueError, TypeError):
            known = []
        if not known or not all([await self._usable(tenant) for tenant in known]):
            known = [await self._create(name, email) for name, email in _TENANTS]
            data.write_secret(FILE, json.dumps([asdict(tenant) for tenant in known]))
        return known

    async def clear_replicas(self, tenants: list[DemoTenant]) -> None:
        """End replicas of a former run: the instances that they were died with it."""
        for tenant in tenants:
            for agent in await self.agents(tenant):
                listed = await self._replicas.ListReplicas(
                    replica_pb2.ListReplicasRequest(agent_id=agent.id), **self._admin
                )
                for replica in listed.data:
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        await self._replicas.DeleteReplica(
                            replica_pb2.DeleteReplicaRequest(
                                agent_id=agent.id, replica_id=replica.id
                            ),
                            **self._admin,
                        )

    async def keep_replicas(self, wanted: list[DemoAgent]) -> None:
        """Have replicas kept for the agents that are to have one, as soon as each is there."""
        left = {(agent.tenant.id, agent.name) for agent in wanted if agent.replica}
        while left:
            for tenant in {agent.tenant for agent in wanted}:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    for agent in await self.agents(tenant):
                        if (tenant.id, agent.logical_agent_id) in left:
                            await self._agents.UpdateAgentConfig(
                                agent_pb2.UpdateAgentConfigRequest(
                                    agent_id=agent.id, manual_replica_enabled=True
                                ),
                                **self._admin,
                            )
                            left.discard((tenant.id, agent.logical_agent_id))
            await asyncio.sleep(0.5)

    async def agents(self, tenant: DemoTenant) -> list[agent_pb2.Agent]:
        """A tenant's agents, at most a hundred."""
        answer = await self._agents.ListAgents(
            agent_pb2.ListAgentsRequest(tenant_id=tenant.id, limit=100), **self._admin
        )
        return list(answer.data)

    async def _usable(self, tenant: DemoTenant) -> bool:
        try:
            found = await self._tenants.GetTenant(
                tenant_pb2.GetTenantRequest(id=tenant.id), **self._admin
            )
        except grpc.aio.AioRpcError as err:
            if err.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return bool(found.status != "deleted")

    async def _create(self, name: str, email: str) -> DemoTenant:
        resolved = await self._tenants.ResolveTenant(
            tenant_pb2.ResolveTenantRequest(email=email, name=name), **self._admin
        )
        key = await self._key(resolved.id, "dashboard", "admin")
        agent_key = await self._key(resolved.id, "agents", "agent")
        return DemoTenant(resolved.id, name, key, agent_key)

    async def _key(self, tenant_id: str, name: str, role: str) -> str:
        issued = await self._keys.CreateApiKey(
            api_key_pb2.CreateApiKeyRequest(
                tenant_id=tenant_id,
                name=name,
                role=role,
                rate_limit_rpm=6000,
                concurrency_limit=100,
            ),
            **self._admin,
        )
        return issued.key
