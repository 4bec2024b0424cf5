"""NodeService: launches."""

from __future__ import annotations

from datetime import datetime

from spotplane.v1 import node_pb2 as pb

from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import tenant_scope, wire
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.nodes import launching, operations_store, requests
from spotplane_server.nodes.handlers import Handlers
from spotplane_server.nodes.launching import Order, Ordered
from spotplane_server.nodes.operations_store import Launch

_STATUSES = {"queued": "launching", "running": "launching", "succeeded": "active"}


class LaunchHandlers(Handlers):
    """Orders of nodes, and how far they are."""

    async def LaunchNode(
        self, request: pb.LaunchNodeRequest, context: Context
    ) -> pb.LaunchNodeResponse:
        tenant_id = tenant_scope.tenant(request_context.current().caller, request)
        done = await self._order(requests.order(request, tenant_id))
        return pb.LaunchNodeResponse(
            cluster_name=done.node.cluster_name,
            node_id=str(done.node.id),
            status="launching",
            job_id=str(done.job_id),
        )

    async def LaunchInstance(
        self, request: pb.LaunchInstanceRequest, context: Context
    ) -> pb.LaunchInstanceResponse:
        tenant_id = tenant_scope.tenant(request_context.current().caller, request)
        done = await self._order(requests.instance_order(request, tenant_id))
        return pb.LaunchInstanceResponse(
            status="launching",
            message=f"{done.node.cluster_name} is being launched for {done.model}",
            job_id=str(done.job_id),
            node_id=str(done.node.id),
            model=done.model,
            provider=request.provider,
            region=request.region,
        )

    async def GetLaunchStatus(
        self, request: pb.GetLaunchStatusRequest, context: Context
    ) -> pb.GetLaunchStatusResponse:
        job_id = wire.uuid(request.job_id, "job_id", "job ID")
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await operations_store.find_launch(conn, job_id)
        if found is None:
            return pb.GetLaunchStatusResponse(job_id=request.job_id, status="not_found")
        return _status(found, self._clock.now())

    async def _order(self, wanted: Order) -> Ordered:
        now = self._clock.now()
        async with self._db.transaction(ALL_TENANTS) as conn:
            done = await launching.order(
                conn, wanted, default_max=self._config.region_default_max_nodes, now=now
            )
        self._work.ring(wanted.provider)
        request_context.created()
        return done


def _status(launch: Launch, now: datetime) -> pb.GetLaunchStatusResponse:
    elapsed = (launch.finished_at or now) - launch.created_at
    return pb.GetLaunchStatusResponse(
        job_id=str(launch.id),
        status=_STATUSES.get(launch.status, launch.status),
        stage=launch.stage,
        progress=launch.progress,
        stages=[
            pb.LaunchStage(
                stage=entry["stage"],
                progress=entry["progress"],
                started_at=wire.timestamp(datetime.fromisoformat(entry["started_at"])),
            )
            for entry in launch.stages
        ],
        model=launch.spec["model"],
        elapsed=max(0.0, elapsed.total_seconds()),
        error=launch.error,
        node_id=str(launch.node_id),
        cluster_name=launch.cluster_name,
    )
