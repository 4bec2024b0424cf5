"""NodeService: how nodes leave."""

from __future__ import annotations

from uuid import UUID

from spotplane.v1 import node_pb2 as pb

from spotplane_server.kernel import request_context
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn
from spotplane_server.kernel.request_context import Caller
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.nodes import events, lifecycle, queries, requests, store
from spotplane_server.nodes.errors import NodeNotFound
from spotplane_server.nodes.handlers import Handlers
from spotplane_server.nodes.store import Known


class DepartureHandlers(Handlers):
    """Drains, warnings, and ends."""

    async def TerminateNode(
        self, request: pb.TerminateNodeRequest, context: Context
    ) -> pb.TerminateNodeResponse:
        name, now = requests.cluster_name(request.cluster_name), self._clock.now()
        async with self._db.transaction(ALL_TENANTS) as conn:
            node = await store.lock_by_name(conn, name)
            if node is None:
                raise await _unknown(conn, name)
            if node.status != "dead":
                after = await lifecycle.end(conn, node, "ended by hand", now, gone=False)
                if after != node.status:
                    await events.record_move(conn, node, "terminate", after, now)
        self._told(node)
        return pb.TerminateNodeResponse(cluster_name=name, status="terminating")

    async def DrainNode(
        self, request: pb.DrainNodeRequest, context: Context
    ) -> pb.DrainNodeResponse:
        node_id, why = requests.node_id(request.id), requests.reason(request)
        caller, now = request_context.current().caller, self._clock.now()
        async with self._db.transaction(ALL_TENANTS) as conn:
            node = await _lock(conn, caller, node_id)
            if node.status == "dead":
                raise NodeNotFound("the node is dead")
            await lifecycle.drain(conn, node, why, now)
        self._told(node)
        return pb.DrainNodeResponse(status="draining")

    async def ReportTermination(
        self, request: pb.NodeReportTerminationRequest, context: Context
    ) -> pb.NodeReportTerminationResponse:
        node_id, why = requests.node_id(request.id), requests.reason(request)
        caller, now = request_context.current().caller, self._clock.now()
        async with self._db.transaction(ALL_TENANTS) as conn:
            node = await _lock(conn, caller, node_id)
            if node.status == "dead":
                raise NodeNotFound("the node is dead")
            # A warning that says no deadline repeats the one that is known.
            at = requests.deadline(request, node.provider, now)
            if node.termination_at is not None and not request.HasField("deadline"):
                at = node.termination_at
            await lifecycle.warn(conn, node, at, why, now)
        self._told(node)
        return pb.NodeReportTerminationResponse(status="received")

    async def DeregisterNode(
        self, request: pb.DeregisterNodeRequest, context: Context
    ) -> pb.DeregisterNodeResponse:
        node_id, why = requests.node_id(request.id), requests.reason(request)
        caller, now = request_context.current().caller, self._clock.now()
        async with self._db.transaction(ALL_TENANTS) as conn:
            node = await _lock(conn, caller, node_id)
            if node.status != "dead":
                why = f"it has left: {why}" if why else "it has left"
                after = await lifecycle.end(conn, node, why, now, gone=True)
                if after != node.status:
                    await events.record_move(conn, node, "deregister", after, now)
        self._told(node)
        return pb.DeregisterNodeResponse(status="deregistered")

    def _told(self, node: Known) -> None:
        self._lines.ring(node.id)
        self._work.ring(node.provider)


async def _lock(conn: Conn, caller: Caller, node_id: UUID) -> Known:
    """Hold a node that the caller may name.

    The connection sees all tenants, since a node's end is the operator's work as well.

    Raises:
        NodeNotFound: There is none, or it is not of the caller's tenant.
    """
    node = await store.lock(conn, node_id)
    if node is None or caller.tenant_id not in (None, node.tenant_id):
        raise NodeNotFound
    return node


async def _unknown(conn: Conn, name: str) -> NodeNotFound:
    found = await queries.find_by_name(conn, name)
    if found is None:
        return NodeNotFound()
    return NodeNotFound(
        "the node is an instance of the fleet", suggestion="end it through FleetService"
    )
