"""A replica from request to promotion or end; every step is one guarded transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from spotplane.v1 import agent_stream_pb2 as pb

from spotplane_server import events
from spotplane_server.agents import ledger as ledger_rules
from spotplane_server.agents import moves
from spotplane_server.agents import store as agents
from spotplane_server.agents.commands_store import Command
from spotplane_server.agents.errors import InstanceTaken
from spotplane_server.agents.ledger import Ledger
from spotplane_server.agents.stream import Origin
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance, Machine
from spotplane_server.kernel import wire
from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.db import Conn, Database
from spotplane_server.kernel.errors import NotFound, Precondition
from spotplane_server.replicas import errors, rules, store
from spotplane_server.replicas.store import Placement, Replica

MAX_MESSAGE: Final = 2000


class Replicas:
    """What may be done with replicas, for the service, the coordinator and the failover alike."""

    def __init__(self, db: Database, ledger: Ledger) -> None:
        self._db = db
        self._ledger = ledger

    async def request(
        self, conn: Conn, primary: Instance, place: Placement, now: datetime
    ) -> Replica:
        """Ask for a replica and order the primary to launch it; wake the primary afterwards.

        Raises:
            ReplicaLimit: One is live already.
        """
        replica_id = uuid4()
        prefix = {"user": "manual", "emergency": "emergency"}.get(place.created_by, "replica")
        made = await store.insert(
            conn,
            primary.tenant_id,
            replica_id,
            primary.agent_id,
            f"{prefix}-{replica_id.hex[:8]}",
            place,
            now,
        )
        if not made:
            raise errors.ReplicaLimit
        order = ledger_rules.emergency(
            "create_replica",
            {
                "replica_id": str(replica_id),
                "pool_id": place.pool_id,
                "instance_type": place.instance_type,
                "region": place.region,
                "az": place.az,
                "mode": "spot",
            },
            place.created_by,
            f"create-replica-{replica_id}",
        )
        await self._ledger.issue(conn, primary.tenant_id, primary.agent_id, primary.id, order, now)
        replica = await store.find(conn, primary.tenant_id, primary.agent_id, replica_id)
        if replica is None:
            raise errors.ReplicaNotFound
        await _announce(conn, "replica.created", replica, now)
        return replica

    async def bind(
        self,
        conn: Conn,
        tenant_id: TenantId,
        agent_id: UUID,
        replica_id: UUID,
        instance_id: str,
        now: datetime,
    ) -> bool:
        """Bind a replica to its real instance; repeating it changes nothing.

        Returns:
            Whether the instance stands by now; False when the replica was given up meanwhile.

        Raises:
            ReplicaNotFound: There is none. ReplicaAlreadyBound: To another instance.
            InstanceTaken: The instance is no candidate of this agent's.
        """
        replica = await store.lock(conn, tenant_id, agent_id, replica_id)
        if replica is None:
            raise errors.ReplicaNotFound
        if replica.bound:
            if replica.instance_id != instance_id:
                raise errors.ReplicaAlreadyBound(
                    "the replica is bound to another instance", instance_id=replica.instance_id
                )
            return replica.status in {*rules.LIVE, "promoted"}
        await instances.insert(
            conn, tenant_id, agent_id, _machine(replica, instance_id), "launching", now
        )
        known = await instances.find(conn, tenant_id, instance_id)
        if known is None or known.agent_id != agent_id or known.status != "launching":
            raise InstanceTaken("the instance is another agent's, or has another part already")
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
        if not wanted:
            await self.order_end(conn, replica, instance_id, now)
        return wanted

    async def promote(
        self, conn: Conn, replica: Replica, *, cause: str, now: datetime
    ) -> str | None:
        """Make a replica's instance the primary; the caller holds the agent's row.

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
        former = await moves.move_primary(
            conn, replica.tenant_id, replica.agent_id, replica.instance_id, cause=cause, now=now
        )
        await _announce(conn, "replica.promoted", replica, now, old_instance_id=former)
        return former

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
        await agents.raise_generation(conn, replica.tenant_id, replica.agent_id, now=now)
        await _announce(conn, "replica.terminated", replica, now)

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
        if moved:
            if replica.bound:
                await instances.move(
                    conn,
                    replica.tenant_id,
                    replica.instance_id,
                    frm=("running_replica", "launching"),
                    to="zombie",
                    now=now,
                )
            await _announce(conn, "replica.failed", replica, now, message=message)

    async def on_create_command(self, conn: Conn, command: Command, now: datetime) -> None:
        """What a finished launch means: bound when it succeeded, failed when it did not."""
        replica_id = UUID(str(command.parameters["replica_id"]))
        instance_id = (command.result or {}).get("instance_id")
        message = command.message or f"launch {command.status}"
        # The agent's row first, as everywhere, so that no two transactions wait for each other.
        await agents.lock(conn, command.agent_id)
        if command.status == "completed" and isinstance(instance_id, str) and instance_id:
            try:
                await self.bind(
                    conn, command.tenant_id, command.agent_id, replica_id, instance_id, now
                )
            except (Precondition, NotFound) as err:
                message = err.message
            else:
                return
        replica = await store.lock(conn, command.tenant_id, command.agent_id, replica_id)
        if replica is not None and not replica.bound:
            await self.fail(conn, replica, message, now)

    async def on_report(self, origin: Origin, report: pb.ReplicaReport, now: datetime) -> None:
        """Take what an agent says of a replica; a repeat changes nothing.

        Raises:
            Invalid: A bad field. ReplicaNotFound, ReplicaAlreadyBound, InvalidTransition.
        """
        replica_id = wire.uuid(report.replica_id, "replica.replica_id", "replica ID")
        status = wire.one_of(report.status, "replica.status", rules.SOURCES)
        message = wire.text(report.message, "replica.message", maximum=MAX_MESSAGE) or None
        instance_id = wire.text(report.instance_id, "replica.instance_id", maximum=128)
        progress = wire.optional(report, "sync_progress")
        if progress is not None and not 0 <= progress <= 100:
            raise wire.out_of_range("replica.sync_progress", "between 0 and 100")
        async with self._db.transaction(origin.tenant_id) as conn:
            # The agent's row first, as everywhere, so that no two transactions wait for each other.
            await agents.lock(conn, origin.agent_id)
            if instance_id and status != "launching":
                await self.bind(
                    conn, origin.tenant_id, origin.agent_id, replica_id, instance_id, now
                )
            replica = await store.lock(conn, origin.tenant_id, origin.agent_id, replica_id)
            if replica is None:
                raise errors.ReplicaNotFound
            await self._follow(conn, replica, status, progress, message, now)

    async def on_termination(
        self, origin: Origin, report: pb.TerminationReport, now: datetime
    ) -> None:
        """Note that an instance of the agent is gone; a repeat changes nothing."""
        instance_id = wire.text(
            report.instance_id, "termination.instance_id", maximum=128, required=True
        )
        async with self._db.transaction(origin.tenant_id) as conn:
            await agents.lock(conn, origin.agent_id)
            known = await instances.find(conn, origin.tenant_id, instance_id)
            if known is None or known.agent_id != origin.agent_id:
                return
            await instances.move(
                conn,
                origin.tenant_id,
                instance_id,
                frm=("launching", "running_replica", "promoting", "zombie", "terminating"),
                to="terminated",
                now=now,
            )
            await store.confirm_termination(conn, origin.tenant_id, instance_id, now)
            await agents.raise_generation(conn, origin.tenant_id, origin.agent_id, now=now)

    async def _follow(
        self,
        conn: Conn,
        replica: Replica,
        status: str,
        progress: float | None,
        message: str | None,
        now: datetime,
    ) -> None:
        # Agents say so right after binding, perhaps after the plane has promoted already.
        if replica.status == "promoted" and status in {"syncing", "ready"}:
            return
        # The launcher's word that the instance runs, overtaken by the instance's own that it is
        # ready.
        if replica.status == "ready" and status == "syncing" and progress is None:
            return
        if status == "failed" and replica.status in rules.LIVE:
            await self.fail(conn, replica, message or "the agent reported a failure", now)
            return
        moved = await store.move(
            conn,
            replica.tenant_id,
            replica.agent_id,
            replica.id,
            frm=rules.SOURCES[status],
            to=status,
            now=now,
            progress=progress,
            message=message,
        )
        if not moved:
            if replica.status == status:
                return
            raise errors.InvalidTransition(
                f"a replica does not go from {replica.status} to {status}",
                metadata={"from": replica.status, "to": status},
            )
        if status == "ready" and replica.status != "ready":
            await _announce(conn, "replica.ready", replica, now)

    async def order_end(
        self, conn: Conn, replica: Replica, instance_id: str, now: datetime
    ) -> None:
        """Order the primary to end a replica's instance; wake it afterwards.

        Without a primary nothing is ordered: the coordinator does, once there is one.
        """
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


def _machine(replica: Replica, instance_id: str) -> Machine:
    return Machine(
        instance_id, replica.instance_type, replica.region, replica.az, "spot", replica.pool_id
    )


async def _announce(
    conn: Conn, kind: str, replica: Replica, now: datetime, **more: str | None
) -> None:
    await events.append(
        conn,
        events.Event(
            kind,
            str(replica.agent_id),
            {
                "agent_id": str(replica.agent_id),
                "replica_id": str(replica.id),
                "instance_id": replica.instance_id,
                "pool_id": replica.pool_id,
                **more,
            },
            replica.tenant_id,
        ),
        now,
    )
