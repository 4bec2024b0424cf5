"""NodeService."""

from __future__ import annotations

from google.api import httpbody_pb2
from spotplane.v1 import node_pb2 as pb
from spotplane.v1 import node_pb2_grpc

from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import http_body, paging, tenant_scope, wire
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.nodes import convert, health, queries, registration, requests, rules
from spotplane_server.nodes.errors import NodeNotFound
from spotplane_server.nodes.launch_service import LaunchHandlers
from spotplane_server.nodes.lifecycle_service import DepartureHandlers
from spotplane_server.nodes.logs_service import LogHandlers
from spotplane_server.nodes.provisioning_service import ProvisioningHandlers
from spotplane_server.nodes.queries import Listed


class NodeService(
    LaunchHandlers,
    DepartureHandlers,
    LogHandlers,
    ProvisioningHandlers,
    node_pb2_grpc.NodeServiceServicer,
):
    """Keeps the machines that serve models."""

    async def ListNodes(
        self, request: pb.ListNodesRequest, context: Context
    ) -> pb.ListNodesResponse:
        return await self._list(request)

    async def ListNodesFlat(
        self, request: pb.ListNodesRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        found = await self._list(request)
        return http_body.answer(found.data, found.pagination, envelope=request.envelope)

    async def GetNode(self, request: pb.GetNodeRequest, context: Context) -> pb.Node:
        return convert.node(await self._get(request.cluster_name), self._clock.now())

    async def GetNodeStatus(
        self, request: pb.GetNodeStatusRequest, context: Context
    ) -> pb.GetNodeStatusResponse:
        found = await self._get(request.cluster_name)
        return pb.GetNodeStatusResponse(cluster_name=found.cluster_name, status=found.status)

    async def RegisterNode(
        self, request: pb.RegisterNodeRequest, context: Context
    ) -> pb.RegisterNodeResponse:
        caller, now = request_context.current().caller, self._clock.now()
        tenant_id = tenant_scope.tenant(caller, request)
        wanted = requests.registration(request)
        async with self._db.transaction(ALL_TENANTS) as conn:
            done = await registration.register(conn, caller, tenant_id, wanted, now)
        self._lines.ring(done.node.id)
        if done.new:
            request_context.created()
        return pb.RegisterNodeResponse(
            status="registered" if done.new else "updated", node_id=str(done.node.id)
        )

    async def Heartbeat(
        self, request: pb.NodeHeartbeatRequest, context: Context
    ) -> pb.NodeHeartbeatResponse:
        caller, now = request_context.current().caller, self._clock.now()
        node_id = requests.node_id(request.id)
        beat = requests.beat(request, now)
        if await health.hear(self._db, caller.tenant_id or ALL_TENANTS, node_id, beat, now):
            self._lines.ring(node_id)
        return pb.NodeHeartbeatResponse(status="ok")

    async def _list(self, request: pb.ListNodesRequest) -> pb.ListNodesResponse:
        statuses = requests.statuses(request)
        provider = wire.optional_one_of(request, "provider", rules.PROVIDERS)
        page = paging.read(
            request,
            self._tokens,
            default=100,
            maximum=100,
            filters={"statuses": ",".join(statuses), "provider": provider},
        )
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await queries.list_nodes(conn, page, statuses=statuses, provider=provider)
        rows, pagination = paging.answer(page, found, self._tokens, queries.key)
        now = self._clock.now()
        data = [convert.node(row, now) for row in rows]
        return pb.ListNodesResponse(data=data, pagination=pagination)

    async def _get(self, text: str) -> Listed:
        name = requests.cluster_name(text)
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await queries.find_by_name(conn, name)
        if found is None:
            raise NodeNotFound
        return found
