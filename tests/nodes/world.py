"""A catalogue with something to rent and to serve, and the calls of nodes."""

from __future__ import annotations

from typing import Any

from spotplane.v1 import node_pb2 as pb
from spotplane.v1 import node_pb2_grpc
from spotplane_server.kernel.db import EVERY_TENANT

from tests.catalog.world import Catalog
from tests.support.plane import ADMIN, Metadata, Plane, bearer

ENDPOINT = "http://10.0.0.1:8000"


class Nodes:
    """NodeService on a running server, called as an administrator unless said otherwise."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.catalog = Catalog(plane)
        self.stub = plane.stub(node_pb2_grpc.NodeServiceStub)

    async def furnish(self) -> None:
        """Two regions, a type sold in one of them, and a model."""
        self.region = await self.catalog.region("us-east-1")
        await self.catalog.region("eastus", provider="azure")
        self.type = await self.catalog.type("g5.xlarge", price_per_hour=1.006, supports_spot=True)
        await self.catalog.associate(self.type.id, "us-east-1")
        self.model = await self.catalog.model("llama-3-8b")

    async def agent_key(self, tenant_id: str) -> Metadata:
        """A key of role agent that no budget holds back."""
        settings = {"rate_limit_rpm": 1_000_000, "concurrency_limit": 10_000}
        return bearer((await self.plane.key(tenant_id, role="agent", **settings)).key)

    async def register(
        self, name: str | None = None, who: Metadata = ADMIN, **members: Any
    ) -> pb.RegisterNodeResponse:
        """Register a node."""
        defaults = {"provider": "aws", "endpoint_url": ENDPOINT, "cluster_name": name}
        request = pb.RegisterNodeRequest(**(defaults | members))
        answer: pb.RegisterNodeResponse = await self.stub.RegisterNode(request, metadata=who)
        return answer

    async def beat(
        self, node_id: str, score: float = 90, who: Metadata = ADMIN, **members: Any
    ) -> None:
        """Send a heartbeat."""
        request = pb.NodeHeartbeatRequest(id=node_id, health_score=score, **members)
        answer = await self.stub.Heartbeat(request, metadata=who)
        assert answer.status == "ok"

    async def get(self, name: str) -> pb.Node:
        """Read a node."""
        found: pb.Node = await self.stub.GetNode(
            pb.GetNodeRequest(cluster_name=name), metadata=ADMIN
        )
        return found

    async def status(self, name: str) -> str:
        """Read a node's state."""
        answer = await self.stub.GetNodeStatus(
            pb.GetNodeStatusRequest(cluster_name=name), metadata=ADMIN
        )
        assert answer.cluster_name == name
        return str(answer.status)

    async def events(self, node_id: str | None = None) -> list[Any]:
        """Events of nodes in their order, of one node or all."""
        async with self.plane.db.read(EVERY_TENANT) as conn:
            return await conn.fetch(
                r"""
                SELECT event_type, tenant_id, data FROM outbox_events
                 WHERE event_type ~ '^node\.' AND ($1::text IS NULL OR aggregate_id = $1)
                 ORDER BY seq
                """,
                node_id,
            )

    async def told(self, node_id: str) -> list[str]:
        """Types of a node's events, in their order, without their prefix."""
        return [row["event_type"].removeprefix("node.") for row in await self.events(node_id)]

    async def audited(self, node_id: str) -> list[str]:
        """Actions on a node, in their order."""
        async with self.plane.db.read(EVERY_TENANT) as conn:
            rows = await conn.fetch(
                "SELECT action FROM audit_logs WHERE resource_id = $1 ORDER BY occurred_at", node_id
            )
        return [row["action"] for row in rows]
