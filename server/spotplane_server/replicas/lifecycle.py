"""A replica from request to promotion or end; every step is one guarded transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import uuid4

from spotplane_server.agents import primary as primary_module
from spotplane_server.agents import store as agents
from spotplane_server.agents.commands import queries as queries_module
from spotplane_server.agents.commands import service as ledger_rules
from spotplane_server.agents.commands import store as store_module
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance
from spotplane_server.kernel.db.database import Conn
from spotplane_server.replicas import errors, queries, rules, store
from spotplane_server.replicas.events import announce
from spotplane_server.replicas.store import Placement, Replica

MAX_MESSAGE: Final = 2000


class Replicas:
    """What may be done with replicas, for the service, the coordinator and the failover alike.

    Every method wants the agent's row held by the caller's transaction, as everywhere, so that no
    two transactions wait for each other.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def request(
        self, conn: Conn, primary: Instance, place: Placement, now: datetime
    ) -> Replica:
        """Ask for a replica and have the primary launch it; wake the primary afterwards.

        An agent that polls for its replicas finds it there; any other gets an order.

        Raises:
            ReplicaLimit: One is live already.
        """
        replica_id = uuid4()
        made = await store.insert(
            conn,
            primary.tenant_id,
            replica_id,
            primary.agent_id,
            f"{_prefix(place)}-{replica_id.hex[:8]}",
            place,
            now,
        )
        if not made:
            raise errors.ReplicaLimit
        replica = await store.find(conn, primary.tenant_id, primary.agent_id, replica_id)
        if replica is None:
            raise errors.ReplicaNotFound
        if not await queries.polls(conn, replica.tenant_id, replica.agent_id, now):
            await self._order_launch(conn, primary, replica, now)
        await announce(conn, "replica.created", replica, now)
        return replica

    async def promote(
        self,
        conn: Conn,
        replica: Replica,
        *,
        cause: str,
        now: datetime,
        reason: primary_module.Reason = primary_module.PLAIN,
    ) -> str | None:
        """Make a replica's instance the primary.

        Returns:
            The former primary, None when there was none.

        Raises:
            ReplicaNotPromotable: It has no instance, or its state forbids it.
            Conflict: Its instance is gone.
        """
        moved = await store.move(
            conn,
            replica.tenant_id,
            replica.agent_id,
            replica.id,
            frm=("ready", "syncing"),
            to="promoted",
            now=now,
        )
        if not moved:
            raise errors.ReplicaNotPromotable(
                f"the replica is {replica.status}"
                + ("" if replica.bound else " and has no instance yet"),
                status=replica.status,
            )
        former = await primary_module.move_primary(
            conn,
            replica.tenant_id,
            replica.agent_id,
            replica.instance_id,
            cause=cause,
            now=now,
            reason=reason,
        )
        await announce(conn, "replica.promoted", replica, now, old_instance_id=former, cause=cause)
        return former

    async def demote(self, conn: Conn, former: Instance, place: Placement, now: datetime) -> None:
        """Keep a former primary, which stands by already, as the agent's replica.

        Raises:
            ReplicaLimit: Another one is live.
        """
        replica_id = uuid4()
        made = await store.insert_running(
            conn, former.tenant_id, replica_id, former.agent_id, former.id, place, "ready", now
        )
        if not made:
            raise errors.ReplicaLimit
        replica = await store.find(conn, former.tenant_id, former.agent_id, replica_id)
        if replica is not None:
            await announce(conn, "replica.created", replica, now)

    async def end(self, conn: Conn, replica: Replica, now: datetime) -> None:
        """Mark a replica terminated and order its instance's end; wake the primary afterwards.

        Raises:
            ReplicaAlreadyFinal: It is terminated or promoted already.
        """
        moved = await store.move(
            conn,
            replica.tenant_id,
            replica.agent_id,
            replica.id,
            frm=(*rules.LIVE, "failed"),
            to="terminated",
            now=now,
        )
        if not moved:
            raise errors.ReplicaAlreadyFinal(f"the replica is {replica.status} already")
        if replica.bound:
            await instances.move(
                conn,
                replica.tenant_id,
                replica.instance_id,
                frm=("running_replica", "launching", "zombie"),
                to="terminating",
                now=now,
            )
            await self.order_end(conn, replica, replica.instance_id, now)
        else:
            await self._call_off_launch(conn, replica, now)
        await agents.raise_generation(conn, replica.tenant_id, replica.agent_id, now=now)
        await announce(conn, "replica.terminated", replica, now)

    async def fail(self, conn: Conn, replica: Replica, message: str, now: datetime) -> None:
        """Mark a live replica failed; a final one stays as it is."""
        moved = await store.move(
            conn,
            replica.tenant_id,
            replica.agent_id,
            replica.id,
            frm=rules.LIVE,
            to="failed",
            now=now,
            message=message[:MAX_MESSAGE],
        )
        if not moved:
            return
        if replica.bound:
            await instances.move(
                conn,
                replica.tenant_id,
                replica.instance_id,
                frm=("running_replica", "launching"),
                to="zombie",
                now=now,
            )
            await agents.raise_generation(conn, replica.tenant_id, replica.agent_id, now=now)
        else:
            await self.settle_launch(conn, replica, None, message[:MAX_MESSAGE], now)
        await announce(conn, "replica.failed", replica, now, message=message, severity="warning")

    async def settle_launch(
        self, conn: Conn, replica: Replica, instance_id: str | None, message: str, now: datetime
    ) -> None:
        """Finish the open order to launch, if any: its outcome is known, whoever told it."""
        command = await queries_module.find(
            conn, replica.tenant_id, replica.agent_id, request_id=_launch_id(replica)
        )
        if command is None or command.status not in store_module.OPEN:
            return
        done = await store_module.finish(
            conn,
            replica.tenant_id,
            command.id,
            replica.agent_id,
            success=instance_id is not None,
            message=message,
            result={"instance_id": instance_id} if instance_id else {},
            now=now,
        )
        if done is not None:
            await self._ledger.take_effect(conn, done, now)

    async def order_end(
        self, conn: Conn, replica: Replica, instance_id: str, now: datetime
    ) -> None:
        """Order the primary to end a replica's instance; wake it afterwards.

        Without a primary nothing is ordered: the coordinator does, once there is one. An agent
        that polls finds what is to be ended by polling.
        """
        if await queries.polls(conn, replica.tenant_id, replica.agent_id, now):
            return
        primary = await instances.find_primary(conn, replica.tenant_id, replica.agent_id)
        if primary is None:
            return
        order = ledger_rules.emergency(
            "terminate_replica",
            {"replica_id": str(replica.id), "instance_id": instance_id},
            "coordinator",
            f"terminate-replica-{replica.id}-{int(now.timestamp())}",
        )
        await self._ledger.issue(conn, replica.tenant_id, replica.agent_id, primary.id, order, now)

    async def _order_launch(
        self, conn: Conn, primary: Instance, replica: Replica, now: datetime
    ) -> None:
        order = ledger_rules.emergency(
            "create_replica",
            {
                "replica_id": str(replica.id),
                "pool_id": replica.pool_id,
                "instance_type": replica.instance_type,
                "region": replica.region,
                "az": replica.az,
                "mode": "spot",
            },
            replica.created_by,
            _launch_id(replica),
        )
        await self._ledger.issue(conn, primary.tenant_id, primary.agent_id, primary.id, order, now)

    async def _call_off_launch(self, conn: Conn, replica: Replica, now: datetime) -> None:
        # One that was delivered may be under way: what it launches is ended when it is bound.
        command = await queries_module.find(
            conn, replica.tenant_id, replica.agent_id, request_id=_launch_id(replica)
        )
        if command is not None:
            await store_module.cancel(
                conn,
                replica.tenant_id,
                replica.agent_id,
                command_id=command.id,
                statuses=("pending",),
                reason="the replica is not wanted any more",
                now=now,
            )


def _launch_id(replica: Replica) -> str:
    """The order's request id: the same launch is never ordered twice."""
    return f"create-replica-{replica.id}"


def _prefix(place: Placement) -> str:
    by_creator = {"emergency": "emergency", "coordinator": "replica"}
    return by_creator.get(place.created_by, "manual")
