"""Which instance a replica is: bound once, to a candidate of its agent's."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias
from uuid import UUID, uuid4

from spotplane_server.agents import store as agents
from spotplane_server.agents.errors import InstanceTaken
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Machine
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.replicas import errors, rules, store
from spotplane_server.replicas.events import announce, warn_of_extra
from spotplane_server.replicas.lifecycle import Replicas
from spotplane_server.replicas.store import Placement, Replica

# It stands by (or has been promoted since); the replica was given up meanwhile; or the replica is
# another instance's, and this one is kept as a zombie.
Outcome: TypeAlias = Literal["bound", "given_up", "extra"]


class Binding:
    """Binds replicas to instances; the caller's transaction holds the agent's row."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    async def bind(
        self,
        conn: Conn,
        tenant_id: TenantId,
        agent_id: UUID,
        replica_id: UUID,
        instance_id: str,
        now: datetime,
    ) -> bool:
        """As `take`; whether the instance stands by now.

        Raises:
            ReplicaNotFound, InstanceTaken: As `take`.
        """
        outcome = await self.take(conn, tenant_id, agent_id, replica_id, instance_id, now)
        return outcome == "bound"

    async def take(
        self,
        conn: Conn,
        tenant_id: TenantId,
        agent_id: UUID,
        replica_id: UUID,
        instance_id: str,
        now: datetime,
    ) -> Outcome:
        """Bind a replica to its real instance; repeating it changes nothing.

        Raises:
            ReplicaNotFound: There is none.
            InstanceTaken: The instance is another agent's, or has another part already.
        """
        replica = await store.lock(conn, tenant_id, agent_id, replica_id)
        if replica is None:
            raise errors.ReplicaNotFound
        if replica.bound:
            if replica.instance_id == instance_id:
                return "bound" if replica.status in {*rules.LIVE, "promoted"} else "given_up"
            await self._keep_extra(conn, replica, instance_id, now)
            return "extra"
        await self._candidate(conn, replica, instance_id, now)
        status = await store.bind(conn, tenant_id, agent_id, replica_id, instance_id, now)
        wanted = status in rules.LIVE
        await instances.move(
            conn,
            tenant_id,
            instance_id,
            frm=("launching",),
            to="running_replica" if wanted else "zombie",
            now=now,
        )
        await agents.raise_generation(conn, tenant_id, agent_id, now=now)
        await self._replicas.settle_launch(conn, replica, instance_id, "", now)
        if not wanted:
            await self._replicas.order_end(conn, replica, instance_id, now)
        return "bound" if wanted else "given_up"

    async def register(
        self,
        conn: Conn,
        tenant_id: TenantId,
        agent_id: UUID,
        instance_id: str,
        place: Placement,
        now: datetime,
    ) -> tuple[Replica, Outcome]:
        """Make an instance that the agent has launched its replica.

        Returns:
            The replica, and ``extra`` when another one stands by: then that one.

        Raises:
            InstanceTaken: The instance is another agent's, or has another part already.
        """
        known = await store.find_by_instance(conn, tenant_id, agent_id, instance_id)
        if known is not None:
            return known, "bound"
        live = await store.find_live(conn, tenant_id, agent_id)
        if live is not None:
            outcome = await self.take(conn, tenant_id, agent_id, live.id, instance_id, now)
            return await self._again(conn, live), outcome
        replica_id = uuid4()
        await store.insert_running(
            conn, tenant_id, replica_id, agent_id, instance_id, place, "syncing", now
        )
        made = await store.find(conn, tenant_id, agent_id, replica_id)
        if made is None:
            raise errors.ReplicaLimit
        await self._candidate(conn, made, instance_id, now)
        await instances.move(
            conn, tenant_id, instance_id, frm=("launching",), to="running_replica", now=now
        )
        await agents.raise_generation(conn, tenant_id, agent_id, now=now)
        await announce(conn, "replica.created", made, now)
        return made, "bound"

    async def _again(self, conn: Conn, replica: Replica) -> Replica:
        found = await store.find(conn, replica.tenant_id, replica.agent_id, replica.id)
        return found or replica

    async def _candidate(
        self, conn: Conn, replica: Replica, instance_id: str, now: datetime
    ) -> None:
        tenant_id, agent_id = replica.tenant_id, replica.agent_id
        machine = _machine(replica, instance_id)
        await instances.insert(conn, tenant_id, agent_id, machine, "launching", now)
        known = await instances.find(conn, tenant_id, instance_id)
        if known is None or known.agent_id != agent_id or known.status != "launching":
            raise InstanceTaken("the instance is another agent's, or has another part already")

    async def _keep_extra(
        self, conn: Conn, replica: Replica, instance_id: str, now: datetime
    ) -> None:
        tenant_id, agent_id = replica.tenant_id, replica.agent_id
        machine = _machine(replica, instance_id)
        await instances.insert(conn, tenant_id, agent_id, machine, "launching", now)
        known = await instances.find(conn, tenant_id, instance_id)
        if known is None or known.agent_id != agent_id:
            raise InstanceTaken("the instance is another agent's")
        # Known with a part of its own, or told before: nothing to do.
        if await instances.move(
            conn, tenant_id, instance_id, frm=("launching",), to="zombie", now=now
        ):
            await warn_of_extra(conn, tenant_id, agent_id, instance_id, now)


def _machine(replica: Replica, instance_id: str) -> Machine:
    return Machine(
        instance_id, replica.instance_type, replica.region, replica.az, "spot", replica.pool_id
    )
