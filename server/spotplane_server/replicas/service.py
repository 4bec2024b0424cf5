"""ReplicaService."""

from __future__ import annotations

from decimal import Decimal
from typing import Final
from uuid import UUID

from spotplane.v1 import replica_pb2 as pb
from spotplane.v1 import replica_pb2_grpc

from spotplane_server import audit
from spotplane_server.agents import access
from spotplane_server.agents import errors as agent_errors
from spotplane_server.agents.ledger import Ledger
from spotplane_server.agents.sessions import Sessions
from spotplane_server.instances import store as instances
from spotplane_server.kernel import calls, paging, wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import Conn, Database
from spotplane_server.kernel.middleware import Context
from spotplane_server.kernel.paging import PageTokens
from spotplane_server.replicas import errors, placement, rules, store
from spotplane_server.replicas.lifecycle import Replicas
from spotplane_server.replicas.store import Replica

NANO: Final = Decimal(10**9)


class ReplicaService(replica_pb2_grpc.ReplicaServiceServicer):
    """Creates, shows, promotes and deletes replicas."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        tokens: PageTokens,
        replicas: Replicas,
        ledger: Ledger,
        sessions: Sessions,
    ) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens
        self._replicas = replicas
        self._ledger = ledger
        self._sessions = sessions

    async def CreateReplica(self, request: pb.CreateReplicaRequest, context: Context) -> pb.Replica:
        call, now = calls.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        most = _nanousd(request)
        async with self._db.transaction(access.scope(call.caller)) as conn:
            agent = await access.lock(conn, agent_id)
            primary = await instances.find_primary(conn, agent.tenant_id, agent_id)
            if primary is None or agent.status == "offline":
                raise agent_errors.AgentOffline("the agent is offline, so nobody could launch")
            place = await placement.for_manual(
                conn,
                primary,
                created_by="user",
                now=now,
                pool_id=wire.optional(request, "pool_id"),
                exclude_zones=list(request.exclude_zones),
                max_nanousd=most,
            )
            replica = await self._replicas.request(conn, primary, place, now)
            await audit.record(conn, call, _change("replica.create", replica), now)
        self._ledger.wake(replica.tenant_id, primary.id)
        calls.created()
        return _replica(replica)

    async def ListReplicas(
        self, request: pb.ListReplicasRequest, context: Context
    ) -> pb.ListReplicasResponse:
        caller = calls.current().caller
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
        async with self._db.read(access.scope(caller)) as conn:
            agent = await access.get(conn, agent_id, self._clock.now())
            found = await store.list_replicas(
                conn,
                agent.tenant_id,
                agent_id,
                statuses=(status,) if status else statuses,
                page=page,
            )
        data, pagination = paging.answer(page, found, self._tokens, lambda r: (r.created_at, r.id))
        return pb.ListReplicasResponse(data=map(_replica, data), pagination=pagination)

    async def GetReplica(self, request: pb.GetReplicaRequest, context: Context) -> pb.Replica:
        caller = calls.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        replica_id = wire.uuid(request.replica_id, "replica_id", "replica ID")
        async with self._db.read(access.scope(caller)) as conn:
            agent = await access.get(conn, agent_id, self._clock.now())
            found = await store.find(conn, agent.tenant_id, agent_id, replica_id)
        if found is None:
            raise errors.ReplicaNotFound
        return _replica(found)

    async def PromoteReplica(
        self, request: pb.PromoteReplicaRequest, context: Context
    ) -> pb.Replica:
        call, now = calls.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        replica_id = wire.uuid(request.replica_id, "replica_id", "replica ID")
        async with self._db.transaction(access.scope(call.caller)) as conn:
            replica = await self._lock_replica(conn, agent_id, replica_id)
            if replica.status != "promoted":
                if request.wait_for_sync and replica.status != "ready":
                    raise errors.ReplicaNotPromotable(
                        f"the replica is {replica.status}, not ready", status=replica.status
                    )
                await self._replicas.promote(conn, replica, cause="user", now=now)
                await audit.record(conn, call, _change("replica.promote", replica), now)
            replica = await self._lock_replica(conn, agent_id, replica_id)
        self._sessions.signal_agent(agent_id)
        return _replica(replica)

    async def DeleteReplica(self, request: pb.DeleteReplicaRequest, context: Context) -> pb.Replica:
        call, now = calls.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        replica_id = wire.uuid(request.replica_id, "replica_id", "replica ID")
        async with self._db.transaction(access.scope(call.caller)) as conn:
            replica = await self._lock_replica(conn, agent_id, replica_id)
            await self._replicas.end(conn, replica, now)
            await audit.record(conn, call, _change("replica.delete", replica), now)
            primary = await instances.find_primary(conn, replica.tenant_id, agent_id)
            replica = await self._lock_replica(conn, agent_id, replica_id)
        self._sessions.signal_agent(agent_id)
        if primary is not None:
            self._ledger.wake(replica.tenant_id, primary.id)
        return _replica(replica)

    async def _lock_replica(self, conn: Conn, agent_id: UUID, replica_id: UUID) -> Replica:
        agent = await access.lock(conn, agent_id)
        replica = await store.lock(conn, agent.tenant_id, agent_id, replica_id)
        if replica is None:
            raise errors.ReplicaNotFound
        return replica


def _nanousd(request: pb.CreateReplicaRequest) -> int | None:
    if not request.HasField("max_hourly_cost"):
        return None
    return int(wire.decimal(request.max_hourly_cost, "max_hourly_cost", digits=6) * NANO)


def _change(action: str, replica: Replica) -> audit.Change:
    return audit.Change(
        action,
        "replica",
        str(replica.id),
        replica.tenant_id,
        after={"agent_id": str(replica.agent_id), "pool_id": replica.pool_id},
    )


def _replica(row: Replica) -> pb.Replica:
    cost = row.hourly_cost_nanousd
    return pb.Replica(
        id=str(row.id),
        agent_id=str(row.agent_id),
        instance_id=row.instance_id,
        type=row.type,
        status=row.status,
        sync_status=row.sync_status,
        sync_progress=row.sync_progress,
        pool_id=row.pool_id,
        instance_type=row.instance_type,
        region=row.region,
        az=row.az,
        created_by=row.created_by,
        hourly_cost_usd=None if cost is None else float(Decimal(cost) / NANO),
        message=row.message,
        termination_confirmed=row.termination_confirmed,
        created_at=wire.timestamp(row.created_at),
        launched_at=wire.timestamp(row.launched_at),
        ready_at=wire.timestamp(row.ready_at),
        promoted_at=wire.timestamp(row.promoted_at),
        terminated_at=wire.timestamp(row.terminated_at),
    )
