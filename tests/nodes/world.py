"""A catalogue with something to rent and to serve, and the calls of nodes."""

from __future__ import annotations

from typing import Any

from spotplane.v1 import node_pb2 as pb
from spotplane.v1 import node_pb2_grpc
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.nodes.bells import Bells
from spotplane_server.nodes.jobs import SilenceJob

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

    async def launch(self, **members: Any) -> pb.LaunchNodeResponse:
        """Order a node."""
        defaults = {
            "provider": "aws",
            "region": "us-east-1",
            "model": "llama-3-8b",
            "instance_type": "g5.xlarge",
        }
        request = pb.LaunchNodeRequest(**(defaults | members))
        answer: pb.LaunchNodeResponse = await self.stub.LaunchNode(request, metadata=ADMIN)
        return answer

    async def job(self, job_id: str) -> pb.GetLaunchStatusResponse:
        """Read how far a launch is."""
        request = pb.GetLaunchStatusRequest(job_id=job_id)
        answer: pb.GetLaunchStatusResponse = await self.stub.GetLaunchStatus(
            request, metadata=ADMIN
        )
        return answer

    async def lease(self, holder: str = "p-1", **members: Any) -> list[pb.NodeOperation]:
        """Take work as a provisioner."""
        request = pb.LeaseNodeOperationsRequest(holder=holder, providers=["aws"], **members)
        answer = await self.stub.LeaseNodeOperations(request, metadata=ADMIN)
        return list(answer.operations)

    async def report(
        self, operation: pb.NodeOperation, outcome: str = "working", **members: Any
    ) -> bool:
        """Report as a provisioner; whether to go on."""
        request = pb.ReportNodeOperationRequest(
            operation_id=operation.id, attempt=operation.attempt, outcome=outcome, **members
        )
        return bool((await self.stub.ReportNodeOperation(request, metadata=ADMIN)).open)

    async def terminate(self, name: str) -> None:
        """End a node."""
        answer = await self.stub.TerminateNode(
            pb.TerminateNodeRequest(cluster_name=name), metadata=ADMIN
        )
        assert (answer.cluster_name, answer.status) == (name, "terminating")

    async def silence(self) -> None:
        """Run the job that looks for silent nodes, after servers have taken heartbeats down."""
        async with self.plane.db.connection(ALL_TENANTS) as conn:
            await conn.execute("UPDATE heartbeat_collection SET seen_at = now()")
        bells = Bells(self.plane.server.kernel.wakeups, "node-work")
        await SilenceJob(self.plane.db, bells).run_once(self.plane.server.kernel.clock.now())

    async def logs(self, node_id: str, **members: Any) -> list[str]:
        """Messages of a node's log, oldest first."""
        answer = await self.stub.ListNodeLogs(
            pb.ListNodeLogsRequest(id=node_id, **members), metadata=ADMIN
        )
        assert answer.count == len(answer.logs)
        return [line.message for line in answer.logs]

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
        async with self.plane.db.connection(ALL_TENANTS) as conn:
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
        async with self.plane.db.connection(ALL_TENANTS) as conn:
            rows = await conn.fetch(
                "SELECT action FROM audit_logs WHERE resource_id = $1 ORDER BY occurred_at", node_id
            )
        return [row["action"] for row in rows]
