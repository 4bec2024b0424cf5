"""ReplicaService."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from spotplane.v1 import replica_pb2 as pb
from spotplane.v1 import replica_pb2_grpc

from spotplane_server import audit
from spotplane_server.agents import access
from spotplane_server.agents import errors as agent_errors
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.polling import replica_polls
from spotplane_server.agents.sessions.registry import Sessions
from spotplane_server.instances import store as instances
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import paging, tenant_scope, wire
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Conn, Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.replicas import access as access_module
from spotplane_server.replicas import convert, errors, placement, queries, rules, store
from spotplane_server.replicas.binding import Binding
from spotplane_server.replicas.lifecycle import MAX_MESSAGE, Replicas
from spotplane_server.replicas.operations import Operations, Promotion
from spotplane_server.replicas.placement import Wish
from spotplane_server.replicas.reports import Progress, ReplicaReports
from spotplane_server.replicas.store import Replica
from spotplane_server.tenants import store as tenants

# Asked by every polling agent in its own rhythm; a person who looks at the list does not make it
# an agent that polls.
_AGENTS_LISTS: Final = frozenset({"launching", "terminated"})


class ReplicaService(replica_pb2_grpc.ReplicaServiceServicer):
    """Creates, shows, promotes and deletes replicas, and takes what polling agents say of them."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        tokens: PageTokens,
        replicas: Replicas,
        binding: Binding,
        reports: ReplicaReports,
        ledger: Ledger,
        sessions: Sessions,
    ) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens
        self._replicas = replicas
        self._binding = binding
        self._reports = reports
        self._operations = Operations(replicas)
        self._ledger = ledger
        self._sessions = sessions

    async def CreateReplica(self, request: pb.CreateReplicaRequest, context: Context) -> pb.Replica:
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        async with self._db.transaction(access.scope(call.caller)) as conn:
            agent = await access.lock(conn, agent_id)
            manual_mode = agent.config.manual_replica_enabled
            if request.require_manual_mode and not manual_mode:
                raise errors.ManualReplicaDisabled
            primary = await instances.find_primary(conn, agent.tenant_id, agent_id)
            if primary is None or agent.status == "offline":
                raise agent_errors.AgentOffline("the agent is offline, so nobody could launch")
            if await store.find_live(conn, agent.tenant_id, agent_id) is not None:
                raise errors.ReplicaLimit
            wish = convert.wish(request, manual_mode=manual_mode)
            place = await placement.for_manual(conn, primary, wish, now)
            replica = await self._replicas.request(conn, primary, place, now)
            await audit.record(conn, call, convert.change("replica.create", replica), now)
        self._ledger.wake(replica.tenant_id, primary.id)
        request_context.created()
        return await self._answer(replica)

    async def ListReplicas(
        self, request: pb.ListReplicasRequest, context: Context
    ) -> pb.ListReplicasResponse:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = access.agent_id(caller, request.agent_id)
        status = wire.optional_one_of(request, "status", rules.STATUSES)
        statuses = rules.STATUSES if request.include_terminated else rules.LIVE
        page = paging.read(
            request,
            self._tokens,
            default=50,
            maximum=100,
            filters={"agent": agent_id, "status": status, "all": request.include_terminated},
        )
        wanted = queries.Wanted((status,) if status else statuses)
        async with self._db.connection(access.scope(caller)) as conn:
            agent = await access.get(conn, agent_id, now)
            found = await queries.list_replicas(
                conn, agent.tenant_id, agent_id, wanted=wanted, page=page, now=now
            )
        data, pagination = paging.answer(page, found, self._tokens, lambda r: (r.created_at, r.id))
        return pb.ListReplicasResponse(data=map(convert.replica, data), pagination=pagination)

    async def GetReplica(self, request: pb.GetReplicaRequest, context: Context) -> pb.Replica:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = access.agent_id(caller, request.agent_id)
        replica_id = wire.uuid(request.replica_id, "replica_id", "replica ID")
        async with self._db.connection(access.scope(caller)) as conn:
            tenant_id = await access_module.find(conn, agent_id, now)
            found = await queries.find(conn, tenant_id, agent_id, replica_id, now)
        if found is None:
            raise errors.ReplicaNotFound
        return convert.replica(found)

    async def PromoteReplica(
        self, request: pb.PromoteReplicaRequest, context: Context
    ) -> pb.Replica:
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        replica_id = wire.uuid(request.replica_id, "replica_id", "replica ID")
        promotion = Promotion(
            wait_for_sync=request.wait_for_sync,
            demote=request.demote_old_primary,
            consent=request.auto_terminate_old_primary,
            renew=wire.optional(request, "create_new_replica"),
        )
        async with self._db.transaction(access.scope(call.caller)) as conn:
            agent = await access.lock(conn, agent_id)
            replica = await self._locked(conn, agent.tenant_id, agent_id, replica_id)
            if replica.status != "promoted":
                await self._operations.promote(conn, agent, replica, promotion, now)
                change = convert.change("replica.promote", replica, consent=promotion.consent)
                await audit.record(conn, call, change, now)
        await self._tell(agent.tenant_id, agent_id)
        return await self._answer(replica)

    async def DeleteReplica(self, request: pb.DeleteReplicaRequest, context: Context) -> pb.Replica:
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        replica_id = wire.uuid(request.replica_id, "replica_id", "replica ID")
        async with self._db.transaction(access.scope(call.caller)) as conn:
            agent = await access.lock(conn, agent_id)
            replica = await self._locked(conn, agent.tenant_id, agent_id, replica_id)
            await self._operations.end(conn, agent, replica, now)
            await audit.record(conn, call, convert.change("replica.delete", replica), now)
        await self._tell(agent.tenant_id, agent_id)
        return await self._answer(replica)

    async def PollReplicas(
        self, request: pb.PollReplicasRequest, context: Context
    ) -> pb.PollReplicasResponse:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = access.agent_id(caller, request.agent_id)
        status = wire.optional_one_of(request, "status", rules.STATUSES)
        wanted = queries.polled(status, all_of_them=request.include_terminated)
        async with self._db.write(access.scope(caller)) as conn:
            tenant_id = await access_module.find(conn, agent_id, now)
            if status in _AGENTS_LISTS and caller.kind != "admin":
                await replica_polls.note(conn, tenant_id, agent_id, now)
            found = await queries.list_newest(conn, tenant_id, agent_id, wanted=wanted, now=now)
        data = [convert.replica(row) for row in found.items]
        return pb.PollReplicasResponse(replicas=data, total=found.total)

    async def ListTenantReplicas(
        self, request: pb.ListTenantReplicasRequest, context: Context
    ) -> pb.ListTenantReplicasResponse:
        now = self._clock.now()
        tenant_id = tenant_scope.required_tenant(request_context.current().caller, request)
        async with self._db.connection(tenant_id) as conn:
            await tenants.get_tenant(conn, tenant_id)
            found = await queries.list_live_of_tenant(conn, tenant_id, now)
        return pb.ListTenantReplicasResponse(replicas=map(convert.tenant_replica, found))

    async def GetReplicaConfig(
        self, request: pb.GetReplicaConfigRequest, context: Context
    ) -> pb.GetReplicaConfigResponse:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = access.agent_id(caller, request.agent_id)
        async with self._db.connection(access.scope(caller)) as conn:
            agent = await access.get(conn, agent_id, now)
            primary = await instances.find_primary(conn, agent.tenant_id, agent_id)
            best = await placement.list_preferred(conn, primary, now) if primary else []
        return pb.GetReplicaConfigResponse(
            enabled=agent.replica_enabled,
            count=agent.replica_count,
            manual_replica_enabled=agent.manual_replica_enabled,
            preferred_replica_pools=best,
            min_sync_percentage=rules.READY_AT_PERCENT,
        )

    async def RegisterReplicaInstance(
        self, request: pb.RegisterReplicaInstanceRequest, context: Context
    ) -> pb.Replica:
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        instance_id = wire.text(request.instance_id, "instance_id", maximum=128, required=True)
        status = wire.optional_one_of(request, "status", convert.BOUND_STATUSES)
        kind = wire.optional_one_of(request, "replica_type", convert.TYPES) or "manual"
        wish = Wish(
            "agent",
            pool_id=wire.optional_text(request, "pool_id", maximum=128) or None,
            for_manual_mode=kind == "manual",
            tags=convert.tags(request),
        )
        async with self._db.transaction(access.scope(call.caller)) as conn:
            agent = await access.lock(conn, agent_id)
            primary = await instances.find_primary(conn, agent.tenant_id, agent_id)
            if primary is None:
                raise agent_errors.AgentOffline("no instance serves this agent at present")
            place = placement.of_instance(primary, kind, wish)
            replica, outcome = await self._binding.register(
                conn, agent.tenant_id, agent_id, instance_id, place, now
            )
            if outcome == "bound" and status == "ready":
                await self._reports.follow(conn, replica, status, now)
        self._sessions.signal_agent(agent_id)
        if outcome == "extra":
            raise errors.ReplicaLimit
        request_context.created()
        return await self._answer(replica)

    async def BindReplicaInstance(
        self, request: pb.BindReplicaInstanceRequest, context: Context
    ) -> pb.Replica:
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        replica_id = wire.uuid(request.replica_id, "replica_id", "replica ID")
        instance_id = wire.text(request.instance_id, "instance_id", maximum=128, required=True)
        status = wire.optional_one_of(request, "status", convert.BOUND_STATUSES)
        async with self._db.transaction(access.scope(call.caller)) as conn:
            tenant_id = await access_module.lock(conn, agent_id, now)
            outcome = await self._binding.take(
                conn, tenant_id, agent_id, replica_id, instance_id, now
            )
            replica = await self._locked(conn, tenant_id, agent_id, replica_id)
            if outcome == "bound" and status == "ready":
                await self._reports.follow(conn, replica, status, now)
        # A failover may wait for it; and only after the commit is the extra instance known.
        self._sessions.signal_agent(agent_id)
        if outcome == "extra":
            raise errors.ReplicaAlreadyBound(replica.instance_id)
        return await self._answer(replica)

    async def ReportReplicaStatus(
        self, request: pb.ReportReplicaStatusRequest, context: Context
    ) -> pb.Replica:
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        replica_id = wire.uuid(request.replica_id, "replica_id", "replica ID")
        status = wire.one_of(request.status, "status", rules.SOURCES)
        message = wire.optional_text(request, "error_message", maximum=MAX_MESSAGE)
        progress = convert.transfer(request)
        async with self._db.transaction(access.scope(call.caller)) as conn:
            tenant_id = await access_module.lock(conn, agent_id, now)
            replica = await self._locked(conn, tenant_id, agent_id, replica_id)
            if progress != Progress():
                await self._reports.note_progress(conn, replica, progress, now)
            await self._reports.follow(conn, replica, status, now, message=message)
        self._sessions.signal_agent(agent_id)
        return await self._answer(replica)

    async def ReportReplicaSync(
        self, request: pb.ReportReplicaSyncRequest, context: Context
    ) -> pb.Replica:
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        replica_id = wire.uuid(request.replica_id, "replica_id", "replica ID")
        status = wire.optional_one_of(request, "status", rules.SOURCES)
        progress = convert.progress(request)
        async with self._db.transaction(access.scope(call.caller)) as conn:
            agent = await access.lock(conn, agent_id)
            replica = await self._locked(conn, agent.tenant_id, agent_id, replica_id)
            if status is not None and replica.status in rules.LIVE:
                await self._reports.follow(conn, replica, status, now)
                replica = await self._locked(conn, agent.tenant_id, agent_id, replica_id)
            await self._reports.note_progress(conn, replica, progress, now)
        self._sessions.signal_agent(agent_id)
        return await self._answer(replica)

    async def _locked(
        self, conn: Conn, tenant_id: TenantId, agent_id: UUID, replica_id: UUID
    ) -> Replica:
        replica = await store.lock(conn, tenant_id, agent_id, replica_id)
        if replica is None:
            raise errors.ReplicaNotFound
        return replica

    async def _answer(self, replica: Replica) -> pb.Replica:
        """What was committed."""
        async with self._db.connection(replica.tenant_id) as conn:
            found = await queries.find(
                conn, replica.tenant_id, replica.agent_id, replica.id, self._clock.now()
            )
        if found is None:
            raise errors.ReplicaNotFound
        return convert.replica(found)

    async def _tell(self, tenant_id: TenantId, agent_id: UUID) -> None:
        """Have the agent's instances look at their parts and orders again."""
        self._sessions.signal_agent(agent_id)
        async with self._db.connection(tenant_id) as conn:
            primary = await instances.find_primary(conn, tenant_id, agent_id)
        if primary is not None:
            self._ledger.wake(tenant_id, primary.id)
