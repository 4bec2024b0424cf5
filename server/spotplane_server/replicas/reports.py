"""What agents say of replicas, on whatever way it comes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane.v1 import agent_stream_pb2 as pb

from spotplane_server.agents import store as agents
from spotplane_server.agents.commands.store import Command
from spotplane_server.agents.sessions.stream import Origin
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.db.database import Conn, Database
from spotplane_server.kernel.errors import Invalid, NotFound, Precondition
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.replicas import errors, queries, rules, store
from spotplane_server.replicas.binding import Binding
from spotplane_server.replicas.events import announce, tell_gone
from spotplane_server.replicas.lifecycle import MAX_MESSAGE, Replicas
from spotplane_server.replicas.store import Replica

# A command that ended without the agent's word; an agent that polls may launch all the same.
_UNTOLD: Final = frozenset({"cancelled", "expired"})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is, where it was told."""

    status: str | None = None
    latency_ms: int | None = None
    percent: float | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None


class ReplicaReports:
    """Takes reports, results and states; repeats change nothing."""

    def __init__(self, db: Database, replicas: Replicas, binding: Binding) -> None:
        self._db = db
        self._replicas = replicas
        self._binding = binding

    async def on_create_command(self, conn: Conn, command: Command, now: datetime) -> None:
        """What a finished launch means: bound when it succeeded, failed when it did not."""
        replica_id = UUID(str(command.parameters["replica_id"]))
        instance_id = (command.result or {}).get("instance_id")
        message = command.message or f"launch {command.status}"
        tenant_id, agent_id = command.tenant_id, command.agent_id
        # The agent's row first, as everywhere, so that no two transactions wait for each other.
        await agents.lock(conn, agent_id)
        if command.status == "completed" and isinstance(instance_id, str) and instance_id:
            try:
                await self._binding.take(conn, tenant_id, agent_id, replica_id, instance_id, now)
            except (Invalid, Precondition, NotFound) as err:
                message = err.message
            else:
                return
        if command.status in _UNTOLD and await queries.polls(conn, tenant_id, agent_id, now):
            return
        replica = await store.lock(conn, tenant_id, agent_id, replica_id)
        if replica is not None and not replica.bound:
            await self._replicas.fail(conn, replica, message, now)

    async def on_report(self, origin: Origin, report: pb.ReplicaReport, now: datetime) -> None:
        """Take what an agent says of a replica by stream.

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
        bound_to = None
        async with self._db.transaction(origin.tenant_id) as conn:
            # The agent's row first, as everywhere, so that no two transactions wait for each other.
            await agents.lock(conn, origin.agent_id)
            if instance_id and status != "launching":
                outcome = await self._binding.take(
                    conn, origin.tenant_id, origin.agent_id, replica_id, instance_id, now
                )
                bound_to = "another" if outcome == "extra" else None
            replica = await store.lock(conn, origin.tenant_id, origin.agent_id, replica_id)
            if replica is None:
                raise errors.ReplicaNotFound
            if bound_to is None:
                # The launcher's word that the instance runs may be overtaken by the instance's own
                # that it is ready.
                overtaken = replica.status == "ready" and status == "syncing" and progress is None
                if not overtaken:
                    await self.follow(conn, replica, status, now, message=message, percent=progress)
        # Only after the commit: the extra instance is known by then.
        if bound_to is not None:
            raise errors.ReplicaAlreadyBound(replica.instance_id)

    async def on_termination(
        self,
        origin: Origin,
        report: pb.TerminationReport,
        now: datetime,
        reason: str | None = None,
    ) -> None:
        """Note that an instance of the agent is gone; with a reason when nobody wanted that."""
        instance_id = wire.text(
            report.instance_id, "termination.instance_id", maximum=128, required=True
        )
        async with self._db.transaction(origin.tenant_id) as conn:
            await agents.lock(conn, origin.agent_id)
            gone = await self._bury(conn, origin.tenant_id, origin.agent_id, instance_id, now)
            if gone is not None:
                await tell_gone(conn, gone, now, reason)

    async def confirm_gone(
        self, conn: Conn, tenant_id: TenantId, agent_id: UUID, instance_id: str, now: datetime
    ) -> None:
        """Note that an instance that is not the primary is gone, and the replica that it was.

        The caller, who knows why, says so.
        """
        await self._bury(conn, tenant_id, agent_id, instance_id, now)

    async def follow(
        self,
        conn: Conn,
        replica: Replica,
        status: str,
        now: datetime,
        *,
        message: str | None = None,
        percent: float | None = None,
    ) -> None:
        """Move a replica to the state that its agent tells.

        Raises:
            InvalidTransition: Its state does not lead there.
        """
        # Agents say so right after binding, perhaps after the plane has promoted already.
        if replica.status == "promoted" and status in {"syncing", "ready"}:
            return
        if status == "failed" and replica.status in rules.LIVE:
            message = message or "the agent reported a failure"
            await self._replicas.fail(conn, replica, message, now)
            return
        moved = await store.move(
            conn,
            replica.tenant_id,
            replica.agent_id,
            replica.id,
            frm=rules.SOURCES[status],
            to=status,
            now=now,
            progress=percent,
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
            await announce(conn, "replica.ready", replica, now)
        if status == "terminated":
            await self._gone(conn, replica, now)

    async def note_progress(
        self, conn: Conn, replica: Replica, progress: Progress, now: datetime
    ) -> None:
        """Note how far the transfer is; done, it makes a live replica ready."""
        await store.note_sync(
            conn,
            replica,
            now=now,
            status=progress.status,
            latency_ms=progress.latency_ms,
            progress=progress.percent,
            started_at=progress.started_at,
            completed_at=progress.completed_at,
        )
        done = progress.percent is not None and progress.percent >= rules.READY_AT_PERCENT
        if done and replica.status in rules.LIVE and replica.status != "ready":
            await self.follow(conn, replica, "ready", now)

    async def _gone(self, conn: Conn, replica: Replica, now: datetime) -> None:
        """The agent says `terminated`: that is the cloud's confirmation, of a real instance."""
        if replica.bound:
            gone = await self._bury(
                conn, replica.tenant_id, replica.agent_id, replica.instance_id, now
            )
            if gone is not None:
                await tell_gone(conn, gone, now)
        else:
            await self._replicas.settle_launch(conn, replica, None, "it was terminated", now)
        if replica.status in {*rules.LIVE, "failed"}:
            await announce(conn, "replica.terminated", replica, now)

    async def _bury(
        self, conn: Conn, tenant_id: TenantId, agent_id: UUID, instance_id: str, now: datetime
    ) -> Instance | None:
        """The instance, if it was not known to be gone before."""
        known = await instances.find(conn, tenant_id, instance_id)
        if known is None or known.agent_id != agent_id:
            return None
        moved = await instances.move(
            conn,
            tenant_id,
            instance_id,
            frm=("launching", "running_replica", "promoting", "zombie", "terminating"),
            to="terminated",
            now=now,
        )
        await store.confirm_termination(conn, tenant_id, instance_id, now)
        await agents.raise_generation(conn, tenant_id, agent_id, now=now)
        return known if moved else None
