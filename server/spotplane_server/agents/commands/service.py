"""Commands from issue to effect: at-least-once delivery, exactly one effect by command id."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID, uuid4

import asyncpg
from spotplane.v1 import agent_stream_pb2 as pb

from spotplane_server import events
from spotplane_server.agents import errors, rules, switch_requests
from spotplane_server.agents import store as agents
from spotplane_server.agents.commands import expiry, queries, store
from spotplane_server.agents.commands.store import Command, Order
from spotplane_server.agents.polling import action_dialect, commands
from spotplane_server.agents.polling.commands import Poll
from spotplane_server.agents.rules import Dialect
from spotplane_server.agents.switch_requests import Asked, Queued, Target
from spotplane_server.kernel import metrics
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.db.database import Conn, Database
from spotplane_server.kernel.jobs.notify import Notifier
from spotplane_server.kernel.request_context import TenantId

LEASE: Final = rules.LEASE
EMERGENCY_LEASE: Final = rules.EMERGENCY_LEASE
EXPIRES_IN: Final = rules.EXPIRES_IN
EMERGENCY_EXPIRES_IN: Final = rules.EMERGENCY_EXPIRES_IN
EMERGENCY: Final = rules.EMERGENCY
MAX_CLAIM: Final = 16
MAX_RESULT_BYTES: Final = 64 * 1024

# What a command does here when it succeeds or fails, in the transaction that makes it final.
Effect: TypeAlias = Callable[[Conn, Command, datetime], Awaitable[None]]

COMMANDS_TOPIC: Final = "commands"


def instance_key(tenant_id: TenantId, instance_id: str) -> str:
    """Key of wake-ups that concern one instance."""
    return f"{tenant_id}/{instance_id}"


class Ledger:
    """Issues, delivers and finishes commands.

    Args:
        db: The database.
        wakeups: To have sessions fetch what waits.
    """

    def __init__(self, db: Database, wakeups: Notifier) -> None:
        self._db = db
        self._wakeups = wakeups
        self._effects: dict[str, Effect] = {}

    def on_final(self, effects: Mapping[str, Effect]) -> None:
        """Say what commands of some types do when they become final; the features above know."""
        self._effects.update(effects)

    async def issue(
        self,
        conn: Conn,
        tenant_id: TenantId,
        agent_id: UUID,
        instance_id: str,
        order: Order,
        now: datetime,
    ) -> UUID:
        """Put an order for an instance into the ledger; call `wake` after the commit.

        Returns:
            Its id; of the command that was there, when the request id repeats with equal content.

        Raises:
            RequestIdReused: The request id was used for another content.
            SwitchInProgress: Another switch is open.
        """
        command_id = uuid4()
        try:
            async with conn.transaction():
                fresh = await store.insert(
                    conn, tenant_id, command_id, agent_id, instance_id, order, now
                )
        except asyncpg.UniqueViolationError as err:
            if err.constraint_name != "agent_commands_one_switch":
                raise
            raise errors.SwitchInProgress("another switch of this agent is open") from err
        if fresh:
            metrics.COMMANDS.labels("issued").inc()
            return command_id
        known = await queries.find(conn, tenant_id, agent_id, request_id=order.request_id)
        if known is None or not _same(known, order):
            raise errors.RequestIdReused("this request_id was used for another command")
        return known.id

    async def queue_switch(
        self, conn: Conn, agent: agents.Locked, target: Target, asked: Asked, now: datetime
    ) -> Queued:
        """Queue a switch of an agent's primary; the one way to do so, whoever asks.

        An open switch with the same target is answered as it is. To another target a pending
        automatic one gives way to a manual one, and whatever is pending to an emergency. Announces
        a fresh one: `switch.queued`, and before it `manual_switch.requested` for a manual one.

        Args:
            conn: In a transaction that holds the agent's row: ``agent`` is what `access.lock`
                answered. After the commit call `wake` for ``Queued.command.instance_id``.
            agent: The agent.
            target: Where to.
            asked: Who asks, and how urgently. Emergencies are not held back by `enabled`.
            now: When.

        Raises:
            AgentDisabled: It carries out emergencies only. AgentOffline: No instance serves.
            PoolRequired, UnknownPool: The target cannot be reached.
            SwitchInProgress: Another one is open and does not give way.
        """
        return await switch_requests.queue(conn, agent, target, asked, now, self.issue)

    def wake(self, tenant_id: TenantId, instance_id: str) -> None:
        """Have the instance's session fetch what waits for it."""
        self._wakeups.signal(COMMANDS_TOPIC, instance_key(tenant_id, instance_id))

    async def claim(
        self, tenant_id: TenantId, instance_id: str, session_id: UUID, now: datetime
    ) -> list[Command]:
        """Lease what waits for an instance to its session."""
        async with self._db.connection(tenant_id) as conn:
            claimed = await store.claim(
                conn,
                tenant_id,
                instance_id,
                session_id,
                limit=MAX_CLAIM,
                now=now,
                lease=LEASE,
                emergency_lease=EMERGENCY_LEASE,
            )
        metrics.COMMANDS.labels("delivered").inc(len(claimed))
        for command in claimed:
            if command.type == "switch":
                async with self._db.transaction(tenant_id) as conn:
                    await self.switch_begins(conn, command, now)
        return claimed

    async def lease(
        self, conn: Conn, poll: Poll, instance_id: str | None, dialect: Dialect, now: datetime
    ) -> Command | None:
        """Lease one command to an agent that polls, None when nothing waits for it.

        Args:
            conn: In a transaction that holds the agent's row.
            poll: Who polls.
            instance_id: The instance that polls, if it says so.
            dialect: In which.
            now: When.
        """
        for senseless in await expiry.cancel_senseless(conn, poll.tenant_id, poll.agent_id, now):
            await self.take_effect(conn, senseless, now)
        command = await commands.lease_one(
            conn,
            poll.tenant_id,
            poll.agent_id,
            types=rules.deliverable(dialect, poll.replicas_polled_at, poll.registered_at, now),
            instance_id=instance_id,
            first_only=instance_id is None and poll.candidates,
            dialect=dialect,
            leases=(LEASE, EMERGENCY_LEASE),
            now=now,
        )
        if command is None:
            return None
        metrics.COMMANDS.labels("delivered").inc()
        if command.type == "switch":
            await self.switch_begins(conn, command, now)
        return command

    async def switch_begins(self, conn: Conn, command: Command, now: datetime) -> None:
        """Show that a switch has been delivered."""
        await agents.start_switching(conn, command.tenant_id, command.agent_id, now)
        data = {
            "agent_id": str(command.agent_id),
            "instance_id": command.instance_id,
            "command_id": str(command.id),
            "trigger": command.trigger,
            "target_mode": command.parameters.get("target_mode"),
            "target_pool_id": command.parameters.get("target_pool_id"),
        }
        event = events.Event("switch.in_progress", str(command.agent_id), data, command.tenant_id)
        await events.append(conn, event, now)

    async def progress(
        self, tenant_id: TenantId, agent_id: UUID, progress: pb.CommandProgress, now: datetime
    ) -> None:
        """Note a step before the result; a repeat, or one of a command that is final, does nothing.

        Raises:
            Invalid: No command id, or no stage.
        """
        command_id = wire.uuid(progress.command_id, "command_progress.command_id", "command ID")
        async with self._db.connection(tenant_id) as conn:
            if progress.stage == pb.CommandProgress.STAGE_RECEIVED:
                issued = await store.mark_received(conn, tenant_id, command_id, agent_id, now)
                if issued is not None:
                    metrics.COMMAND_SECONDS.observe((now - issued).total_seconds())
            elif progress.stage == pb.CommandProgress.STAGE_STARTED:
                await store.mark_started(conn, tenant_id, command_id, agent_id, now)
            else:
                raise wire.missing("command_progress.stage")

    async def finish(
        self, tenant_id: TenantId, agent_id: UUID, result: pb.CommandResult, now: datetime
    ) -> None:
        """Make a command final and let it take effect, both in one transaction, once.

        Raises:
            Invalid: No command id, or too large a result.
        """
        command_id = wire.uuid(result.command_id, "command_result.command_id", "command ID")
        message = wire.text(result.message, "command_result.message", maximum=2000)
        value = wire.json_object(result, "result", maximum=MAX_RESULT_BYTES) or {}
        async with self._db.transaction(tenant_id) as conn:
            await agents.lock(conn, agent_id)  # its row first, as everywhere
            await self.complete(
                conn,
                tenant_id,
                agent_id,
                command_id,
                success=result.success,
                message=message,
                result=value,
                now=now,
            )

    async def complete(
        self,
        conn: Conn,
        tenant_id: TenantId,
        agent_id: UUID,
        command_id: UUID,
        *,
        success: bool,
        message: str,
        result: dict[str, Any],
        now: datetime,
    ) -> Command | None:
        """Make a command final and let it take effect, in a transaction that holds the agent's row.

        Whichever path tells of it first has the effect; what comes later changes nothing.

        Returns:
            The command as it is now; None when it was final already, or is not the agent's.
        """
        done = await store.finish(
            conn,
            tenant_id,
            command_id,
            agent_id,
            success=success,
            message=message,
            result=result,
            now=now,
        )
        if done is None:
            outcome = "succeeded" if success else "failed"
            await store.tell_late_result(
                conn, tenant_id, command_id, agent_id, f"{outcome}: {message}", now
            )
            return None
        await self.take_effect(conn, done, now)
        metrics.COMMANDS.labels(done.status).inc()
        return done

    async def tidy(self, conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime) -> bool:
        """End an agent's commands whose time is over or sense is lost, with their effects.

        Call it in a transaction that holds the agent's row.

        Returns:
            Whether some command waits again, so that its session is to be woken.
        """
        waiting = await expiry.return_leases(conn, tenant_id, agent_id, now)
        ended = await expiry.expire(conn, tenant_id, agent_id, now)
        ended += await expiry.cancel_senseless(conn, tenant_id, agent_id, now)
        for command in ended:
            await self.take_effect(conn, command, now)
        if waiting:
            await agents.end_switching(conn, tenant_id, agent_id, now)
        return bool(waiting)

    async def take_effect(self, conn: Conn, done: Command, now: datetime) -> None:
        """Apply what a final command means here, and announce it."""
        effect = self._effects.get(done.type)
        if effect is not None:
            await effect(conn, done, now)
        if done.type == "switch":
            await agents.end_switching(conn, done.tenant_id, done.agent_id, now)
            await action_dialect.follow_up(conn, done, self.issue, now)
        await events.append(
            conn,
            events.Event(
                "command.executed",
                str(done.agent_id),
                {
                    "command_id": str(done.id),
                    "command_type": done.type,
                    "name": done.name,
                    "status": done.status,
                    "instance_id": done.instance_id,
                    "agent_id": str(done.agent_id),
                    "trigger": done.trigger,
                    "deliveries": done.delivery_count,
                    "message": done.message,
                },
                done.tenant_id,
            ),
            now,
        )

    async def hand_over(
        self,
        conn: Conn,
        tenant_id: TenantId,
        instance_id: str,
        session_id: UUID,
        open_ids: Sequence[UUID],
        now: datetime,
    ) -> None:
        """Give a new session what its instance works on; the rest will be sent again."""
        await store.hand_over(conn, tenant_id, instance_id, session_id, open_ids, now)


def emergency(kind: str, parameters: dict[str, object], created_by: str, request_id: str) -> Order:
    """An order that nothing holds back; its request id makes issuing it repeatable."""
    return Order(
        kind, kind, parameters, EMERGENCY, "EMERGENCY", created_by, request_id, EMERGENCY_EXPIRES_IN
    )


def _same(known: Command, order: Order) -> bool:
    return (known.type, known.name, known.parameters) == (order.type, order.name, order.parameters)
