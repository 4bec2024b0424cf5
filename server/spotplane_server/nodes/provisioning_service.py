"""NodeService for provisioners: leasing operations and reporting of them."""

from __future__ import annotations

import time
from typing import Final

from spotplane.v1 import node_pb2 as pb

from spotplane_server.kernel.api import wire
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.nodes import bells, operations, operations_store, requests, rules
from spotplane_server.nodes.handlers import Handlers
from spotplane_server.nodes.operations_store import Leased

# Work that has become due by time rings no bell.
LOOK_SECONDS: Final = 1.0


class ProvisioningHandlers(Handlers):
    """What provisioners call."""

    async def LeaseNodeOperations(
        self, request: pb.LeaseNodeOperationsRequest, context: Context
    ) -> pb.LeaseNodeOperationsResponse:
        holder = wire.text(request.holder, "holder", maximum=200, required=True)
        if not request.providers:
            raise wire.missing("providers")
        providers = [wire.one_of(p, "providers", rules.LAUNCHABLE) for p in request.providers]
        limit = wire.optional_integer(request, "limit", 1, 100) or 1
        wait = wire.optional_integer(request, "wait_seconds", 0, 25) or 0
        until = time.monotonic() + wait
        with self._work.hearing(providers) as heard:
            while True:
                async with self._db.connection(ALL_TENANTS) as conn:
                    leased = await operations_store.lease(
                        conn, holder, providers, limit=limit, now=self._clock.now()
                    )
                left = until - time.monotonic()
                if leased or left <= 0:
                    break
                await bells.wait(heard, min(left, LOOK_SECONDS))
        return pb.LeaseNodeOperationsResponse(
            operations=map(_operation, leased), lease_seconds=rules.LEASE.seconds
        )

    async def ReportNodeOperation(
        self, request: pb.ReportNodeOperationRequest, context: Context
    ) -> pb.ReportNodeOperationResponse:
        report = requests.report(request)
        async with self._db.transaction(ALL_TENANTS) as conn:
            taken = await operations.take(conn, report, self._clock.now())
        if taken.node_id is not None:
            self._lines.ring(taken.node_id)
        if taken.provider is not None:
            self._work.ring(taken.provider)
        return pb.ReportNodeOperationResponse(open=taken.open, lease_seconds=rules.LEASE.seconds)


def _operation(leased: Leased) -> pb.NodeOperation:
    return pb.NodeOperation(
        id=str(leased.id),
        kind=leased.kind,
        node_id=str(leased.node_id),
        cluster_name=leased.spec["cluster_name"],
        provider=leased.provider,
        region=leased.spec["region"],
        instance_type=leased.spec["instance_type"],
        spot=leased.spec["spot"],
        model=leased.spec["model"],
        launch_id=str(leased.launch_id),
        machine_id=leased.machine_id,
        attempt=leased.attempt,
    )
