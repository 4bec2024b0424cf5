"""FailoverService, and the notices that come by stream."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from spotplane.v1 import agent_stream_pb2, failover_pb2_grpc
from spotplane.v1 import failover_pb2 as pb

from spotplane_server import audit
from spotplane_server.agents import access
from spotplane_server.agents.stream import Origin
from spotplane_server.failover import store
from spotplane_server.failover.reconciler import Reconciler
from spotplane_server.failover.rules import Kind
from spotplane_server.failover.store import Failover, Step
from spotplane_server.instances import store as instances
from spotplane_server.kernel import calls, paging, wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import Database
from spotplane_server.kernel.errors import NotFound
from spotplane_server.kernel.middleware import Context
from spotplane_server.kernel.paging import PageTokens
from spotplane_server.replicas.lifecycle import Replicas

_KINDS: Final[dict[str, Kind]] = {
    "rebalance": "rebalance",
    "termination": "termination",
    "drain": "drain",
}
_STREAM_KINDS: Final[dict[int, Kind]] = {
    agent_stream_pb2.Notice.KIND_REBALANCE: "rebalance",
    agent_stream_pb2.Notice.KIND_TERMINATION: "termination",
}


class FailoverNotFound(NotFound):
    """No such failover."""

    reason = "FAILOVER_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("no such failover of this agent")


class FailoverService(failover_pb2_grpc.FailoverServiceServicer):
    """Takes signals and shows what became of them."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        tokens: PageTokens,
        reconciler: Reconciler,
        replicas: Replicas,
    ) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens
        self._reconciler = reconciler
        self._replicas = replicas

    async def ReportNotice(self, request: pb.ReportNoticeRequest, context: Context) -> pb.Failover:
        call, now = calls.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        kind = _KINDS[wire.one_of(request.kind, "kind", _KINDS)]
        deadline = wire.optional_instant(request, "deadline")
        async with self._db.transaction(access.scope(call.caller)) as conn:
            agent = await access.get(conn, agent_id, now)
            change = audit.Change(
                "failover.report", "agent", str(agent_id), agent.tenant_id, after={"kind": kind}
            )
            await audit.record(conn, call, change, now)
        failover_id = await self._reconciler.signal(
            agent.tenant_id,
            agent_id,
            wire.optional_text(request, "instance_id", maximum=128),
            kind,
            deadline=deadline,
            now=now,
        )
        async with self._db.read(agent.tenant_id) as conn:
            found = await store.find(conn, agent.tenant_id, agent_id, failover_id)
            steps = await store.list_steps(conn, agent.tenant_id, failover_id)
        if found is None:
            raise FailoverNotFound
        calls.created()
        return _failover(found, steps)

    async def ListFailovers(
        self, request: pb.ListFailoversRequest, context: Context
    ) -> pb.ListFailoversResponse:
        caller = calls.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        status = wire.optional_one_of(request, "status", store.STATUSES)
        page = paging.read(
            request,
            self._tokens,
            default=50,
            maximum=100,
            filters={"agent": agent_id, "status": status},
        )
        async with self._db.read(access.scope(caller)) as conn:
            agent = await access.get(conn, agent_id, self._clock.now())
            found = await store.list_failovers(
                conn, agent.tenant_id, agent_id, status=status, page=page
            )
        data, pagination = paging.answer(page, found, self._tokens, lambda f: (f.detected_at, f.id))
        return pb.ListFailoversResponse(data=map(_failover, data), pagination=pagination)

    async def GetFailover(self, request: pb.GetFailoverRequest, context: Context) -> pb.Failover:
        caller = calls.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        failover_id = wire.uuid(request.failover_id, "failover_id", "failover ID")
        async with self._db.read(access.scope(caller)) as conn:
            agent = await access.get(conn, agent_id, self._clock.now())
            found = await store.find(conn, agent.tenant_id, agent_id, failover_id)
            steps = await store.list_steps(conn, agent.tenant_id, failover_id)
        if found is None:
            raise FailoverNotFound
        return _failover(found, steps)

    async def on_notice(
        self, origin: Origin, notice: agent_stream_pb2.Notice, now: datetime
    ) -> None:
        """Take a notice from a stream; it is committed, and decided if possible, on return.

        Raises:
            Invalid: No kind. AgentOffline: No instance serves.
        """
        kind = _STREAM_KINDS.get(notice.kind)
        if kind is None:
            raise wire.missing("notice.kind")
        instance_id = wire.text(notice.instance_id, "notice.instance_id", maximum=128)
        deadline = None
        if kind == "termination" and notice.HasField("deadline"):
            deadline = wire.from_timestamp(notice.deadline)
        await self._reconciler.signal(
            origin.tenant_id,
            origin.agent_id,
            instance_id or origin.instance_id,
            kind,
            deadline=deadline,
            now=now,
        )

    async def on_termination(
        self, origin: Origin, report: agent_stream_pb2.TerminationReport, now: datetime
    ) -> None:
        """Note that an instance is gone; of the one that serves, that is a notice come true.

        Raises:
            Invalid: No instance.
        """
        async with self._db.read(origin.tenant_id) as conn:
            primary = await instances.find_primary(conn, origin.tenant_id, origin.agent_id)
        if primary is not None and primary.id == report.instance_id:
            await self._reconciler.signal(
                origin.tenant_id, origin.agent_id, primary.id, "termination", deadline=now, now=now
            )
        await self._replicas.on_termination(origin, report, now)


def _failover(row: Failover, steps: Sequence[Step] = ()) -> pb.Failover:
    response = row.promoted_at - row.detected_at if row.promoted_at else None
    return pb.Failover(
        id=str(row.id),
        agent_id=str(row.agent_id),
        instance_id=row.instance_id,
        kind=row.kind,
        status=row.status,
        action=row.action,
        replica_id=str(row.replica_id) if row.replica_id else None,
        new_instance_id=row.new_instance_id,
        pool_id=row.pool_id,
        message=row.message,
        detected_at=wire.timestamp(row.detected_at),
        deadline=wire.timestamp(row.deadline),
        promoted_at=wire.timestamp(row.promoted_at),
        resolved_at=wire.timestamp(row.resolved_at),
        response_ms=None if response is None else response.total_seconds() * 1000,
        steps=[
            pb.FailoverStep(
                kind=step.kind, occurred_at=wire.timestamp(step.occurred_at), detail=step.detail
            )
            for step in steps
        ],
    )
