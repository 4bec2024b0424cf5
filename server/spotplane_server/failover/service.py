"""FailoverService, and the notices that come by stream."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from spotplane.v1 import agent_stream_pb2, failover_pb2_grpc
from spotplane.v1 import failover_pb2 as pb

from spotplane_server import audit
from spotplane_server.agents import access
from spotplane_server.agents.sessions.stream import Origin
from spotplane_server.decisions import engine_uploads_store as engines
from spotplane_server.failover import convert as convert_module
from spotplane_server.failover import queries
from spotplane_server.failover.queries import Outcome
from spotplane_server.failover.reconciler import Reconciler
from spotplane_server.failover.rules import Kind
from spotplane_server.failover.signals import Signal
from spotplane_server.failover.store import ANYWHERE, Wanted
from spotplane_server.instances import store as instances
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import paging, wire
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.errors import NotFound
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.prices import risk
from spotplane_server.replicas import convert
from spotplane_server.replicas import queries as replicas
from spotplane_server.replicas import store as replicas_store
from spotplane_server.replicas.reports import ReplicaReports

_KINDS: Final[dict[str, Kind]] = {
    "rebalance": "rebalance",
    "termination": "termination",
    "drain": "drain",
}
_SIGNALS: Final[dict[str, Kind]] = {
    "rebalance-recommendation": "rebalance",
    "termination-notice": "termination",
}
_Emergency: TypeAlias = (
    pb.CreateEmergencyReplicaRequest | pb.HandleTerminationNoticeRequest | pb.HandleRebalanceRequest
)
DEFAULT_DAYS: Final = 30
_TAKEN: Final = "it was taken or stopped while it served"

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
        reports: ReplicaReports,
    ) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens
        self._reconciler = reconciler
        self._reports = reports

    async def ReportNotice(self, request: pb.ReportNoticeRequest, context: Context) -> pb.Failover:
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        kind = _KINDS[wire.one_of(request.kind, "kind", _KINDS)]
        deadline = wire.optional_instant(request, "deadline")
        async with self._db.transaction(access.scope(call.caller)) as conn:
            agent = await access.get(conn, agent_id, now)
            change = audit.Change(
                "failover.report", "agent", str(agent_id), agent.tenant_id, after={"kind": kind}
            )
            await audit.record(conn, call, change, now)
        instance_id = wire.optional_text(request, "instance_id", maximum=128)
        signal = Signal(agent.tenant_id, agent_id, instance_id, kind, deadline)
        failover_id = await self._reconciler.signal(signal, now)
        async with self._db.connection(agent.tenant_id) as conn:
            found = await queries.find(conn, agent.tenant_id, agent_id, failover_id)
            steps = await queries.list_steps(conn, agent.tenant_id, failover_id)
        if found is None:
            raise FailoverNotFound
        request_context.created()
        return convert_module.failover(found, steps)

    async def ListFailovers(
        self, request: pb.ListFailoversRequest, context: Context
    ) -> pb.ListFailoversResponse:
        caller = request_context.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        status = wire.optional_one_of(request, "status", queries.STATUSES)
        page = paging.read(
            request,
            self._tokens,
            default=50,
            maximum=100,
            filters={"agent": agent_id, "status": status},
        )
        async with self._db.connection(access.scope(caller)) as conn:
            agent = await access.get(conn, agent_id, self._clock.now())
            found = await queries.list_failovers(
                conn, agent.tenant_id, agent_id, status=status, page=page
            )
        data, pagination = paging.answer(page, found, self._tokens, lambda f: (f.detected_at, f.id))
        return pb.ListFailoversResponse(
            data=map(convert_module.failover, data), pagination=pagination
        )

    async def GetFailover(self, request: pb.GetFailoverRequest, context: Context) -> pb.Failover:
        caller = request_context.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        failover_id = wire.uuid(request.failover_id, "failover_id", "failover ID")
        async with self._db.connection(access.scope(caller)) as conn:
            agent = await access.get(conn, agent_id, self._clock.now())
            found = await queries.find(conn, agent.tenant_id, agent_id, failover_id)
            steps = await queries.list_steps(conn, agent.tenant_id, failover_id)
        if found is None:
            raise FailoverNotFound
        return convert_module.failover(found, steps)

    async def CreateEmergencyReplica(
        self, request: pb.CreateEmergencyReplicaRequest, context: Context
    ) -> pb.CreateEmergencyReplicaResponse:
        deadline = _deadline(request)
        kind = _SIGNALS[
            wire.optional_one_of(request, "signal_type", _SIGNALS)
            or ("termination-notice" if deadline else "rebalance-recommendation")
        ]
        wanted = Wanted(
            wire.optional_text(request, "pool_id", maximum=128),
            wire.texts(request, "preferred_zones", maximum=64),
            wire.texts(request, "exclude_zones", maximum=64),
        )
        now = self._clock.now()
        found = await self._rescue(request, kind, deadline, wanted)
        request_context.created()
        return convert_module.emergency_replica(found, now)

    async def HandleTerminationNotice(
        self, request: pb.HandleTerminationNoticeRequest, context: Context
    ) -> pb.HandleTerminationNoticeResponse:
        found = await self._rescue(request, "termination", _deadline(request))
        return convert_module.termination(found)

    async def HandleRebalance(
        self, request: pb.HandleRebalanceRequest, context: Context
    ) -> pb.HandleRebalanceResponse:
        found = await self._rescue(request, "rebalance", None)
        weighed = 0.0
        if found.pool_id and found.mode != "ondemand":
            now = self._clock.now()
            async with self._db.connection(ALL_TENANTS) as conn:
                weighed = (await risk.assess(conn, [found.pool_id], now=now))[found.pool_id].value
        return convert_module.rebalance(found, weighed)

    async def GetEmergencyStatus(
        self, request: pb.GetEmergencyStatusRequest, context: Context
    ) -> pb.GetEmergencyStatusResponse:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = access.agent_id(caller, request.agent_id)
        async with self._db.connection(access.scope(caller)) as conn:
            tenant_id = (await access.get(conn, agent_id, now)).tenant_id
            last = await queries.find_newest(conn, tenant_id, agent_id)
            around = await queries.count_around(conn, tenant_id, agent_id, now)
            steps = await queries.list_steps(conn, tenant_id, last.id) if last else []
            live = await replicas_store.find_live(conn, tenant_id, agent_id)
            replica = await replicas.find(conn, tenant_id, agent_id, live.id, now) if live else None
            model = await engines.find_role(conn, "live")
        answer = convert_module.status(last, around, steps, now, model_loaded=model is not None)
        answer.agent_id = str(agent_id)
        if replica is not None and (answer.emergency_mode_active or around.replicas):
            answer.emergency_replica.CopyFrom(convert.replica(replica))
        return answer

    async def ListEmergencyEvents(
        self, request: pb.ListEmergencyEventsRequest, context: Context
    ) -> pb.ListEmergencyEventsResponse:
        days = wire.optional_integer(request, "days", 1, 365) or DEFAULT_DAYS
        since = self._clock.now() - timedelta(days=days)
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await queries.list_emergencies(conn, since)
            summed = await queries.sum_emergencies(conn, since)
        return pb.ListEmergencyEventsResponse(
            events=map(convert_module.emergency, found),
            summary=convert_module.summary(summed),
            days=days,
            total_count=summed.total + summed.silence,
        )

    async def _rescue(
        self,
        request: _Emergency,
        kind: Kind,
        deadline: datetime | None,
        wanted: Wanted = ANYWHERE,
    ) -> Outcome:
        """Take an agent's signal; what was committed."""
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        instance_id = wire.optional_text(request, "instance_id", maximum=128)
        async with self._db.connection(access.scope(call.caller)) as conn:
            tenant_id = (await access.get(conn, agent_id, now)).tenant_id
        failover_id = await self._reconciler.signal(
            Signal(tenant_id, agent_id, instance_id, kind, deadline, by_agent=True, wanted=wanted),
            now,
        )
        async with self._db.connection(tenant_id) as conn:
            return await queries.get_outcome(conn, tenant_id, failover_id)

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
        signal = Signal(
            origin.tenant_id,
            origin.agent_id,
            instance_id or origin.instance_id,
            kind,
            deadline,
            by_agent=True,
        )
        await self._reconciler.signal(signal, now)

    async def on_termination(
        self, origin: Origin, report: agent_stream_pb2.TerminationReport, now: datetime
    ) -> None:
        """Note that an instance is gone; of the one that serves, that is a notice come true.

        Raises:
            Invalid: No instance.
        """
        async with self._db.connection(origin.tenant_id) as conn:
            primary = await instances.find_primary(conn, origin.tenant_id, origin.agent_id)
        if primary is not None and primary.id == report.instance_id:
            signal = Signal(origin.tenant_id, origin.agent_id, primary.id, "termination", now)
            await self._reconciler.signal(signal, now)
            await self._reports.on_termination(origin, report, now, _TAKEN)
            return
        await self._reports.on_termination(origin, report, now)


def _deadline(
    request: pb.CreateEmergencyReplicaRequest | pb.HandleTerminationNoticeRequest,
) -> datetime | None:
    """When the instance goes; None when that was not told, or so that nobody can read it.

    A rescue is never refused for the sake of a time, and one without an offset is UTC.
    """
    try:
        at = datetime.fromisoformat(request.termination_time)
        at = at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return at if wire.is_storable(at) else None
