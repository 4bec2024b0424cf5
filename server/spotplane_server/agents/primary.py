"""Moving an agent to another instance: one guarded change, whoever asks for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server import events
from spotplane_server.agents import store
from spotplane_server.agents.commands import store as store_module
from spotplane_server.agents.commands.store import Command
from spotplane_server.instances import store as instances
from spotplane_server.instances import termination_store
from spotplane_server.instances.rules import Status
from spotplane_server.instances.store import Instance, Machine
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.errors import Conflict
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.switches import recording
from spotplane_server.switches import store as switches
from spotplane_server.switches.rules import NOTHING_TOLD, Side, Told

# A machine needs this long to boot, so a new primary's silence counts only afterwards.
BOOT_GRACE: Final = timedelta(seconds=300)

SUCCESSORS: Final[tuple[Status, ...]] = ("launching", "running_replica", "promoting")
_REGISTRATION: Final = "registration"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a primary changes, and what is known of it.

    Attributes:
        command_id: The switch command that it carries out, if any.
        trigger: That command's trigger; without one the cause says it.
        former_to: What becomes of the former primary.
        spared: Whether only a word about that instance itself may end it.
        consent: Whether somebody agreed that it may be ended.
        told: What the agent says of its switch.
        reported: Whether the agent has said all that it will.
        left: The instance that was left, when no primary is known any more.
        switch_id: What the switch is to be called; a fresh id when None.
        recorded: Whether the switch is recorded already, so that only the primary changes.
    """

    command_id: UUID | None = None
    trigger: str | None = None
    former_to: Status = "zombie"
    spared: bool = False
    consent: bool = False
    told: Told = NOTHING_TOLD
    reported: bool = False
    left: Side | None = None
    switch_id: UUID | None = None
    recorded: bool = False


PLAIN: Final = Reason()


async def move_primary(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    to: str,
    *,
    cause: str,
    now: datetime,
    reason: Reason = PLAIN,
) -> str | None:
    """Make ``to`` the agent's primary and its former primary a zombie.

    Whatever moves an agent is a switch and is recorded as one; only a registration is not, since
    it says where the agent is and not that it went there.

    Call it in a transaction that holds the agent's row, and signal the agent's topic afterwards.

    Returns:
        The former primary, None when there was none.

    Raises:
        Conflict: ``to`` cannot become primary any more.
    """
    former = await instances.find_primary(conn, tenant_id, agent_id)
    if former is not None:
        await _retire(conn, former, cause, reason, now)
    if not await instances.move(conn, tenant_id, to, frm=SUCCESSORS, to="running_primary", now=now):
        raise Conflict("the instance cannot become primary any more")
    registered = cause == _REGISTRATION
    grace = None if registered else BOOT_GRACE  # who registers has booted
    await store.raise_generation(conn, tenant_id, agent_id, now=now, grace=grace)
    await store.set_status(conn, tenant_id, agent_id, "online", now)
    old = former.id if former else None
    if not registered and not reason.recorded:
        new = await instances.find(conn, tenant_id, to)
        await recording.record(
            conn,
            tenant_id,
            agent_id,
            old=side(former) or reason.left,
            new=side(new),
            cause=cause,
            now=now,
            trigger=reason.trigger,
            command_id=reason.command_id,
            told=reason.told,
            reported=reason.reported,
            switch_id=reason.switch_id,
        )
    await events.append(conn, _moved(tenant_id, agent_id, old, to, cause), now)
    return old


async def on_switch(conn: Conn, command: Command, now: datetime) -> None:
    """What a finished switch means, once, whether its report came before or comes later.

    The instance that the agent launched becomes primary. An agent that launched none and goes on
    where it is has switched in place.
    """
    if command.status not in ("completed", "failed"):
        return
    locked = await store.lock(conn, command.agent_id)
    if locked is None or await _recorded(conn, command):
        return
    if command.status == "failed":
        await _record_failure(conn, command, now)
        return
    instance_id = (command.result or {}).get("instance_id")
    if not isinstance(instance_id, str) or instance_id in ("", command.instance_id):
        await switch_in_place(conn, command, now)
        return
    bound = await instances.find(conn, command.tenant_id, command.instance_id)
    machine = machine_of(command, instance_id, bound)
    await instances.insert(conn, command.tenant_id, command.agent_id, machine, "launching", now)
    named = await instances.find(conn, command.tenant_id, instance_id)
    if named is not None and named.agent_id == command.agent_id and named.status == "launching":
        await move_primary(
            conn,
            command.tenant_id,
            command.agent_id,
            named.id,
            cause="switch",
            now=now,
            reason=ordered(command),
        )


def machine_of(command: Command | None, instance_id: str, bound: Instance | None) -> Machine:
    """An instance that a switch has led to, as far as the order says what it is.

    Args:
        command: The switch, if one is known.
        instance_id: The cloud's id.
        bound: The instance that was to carry it out: what the order left out stays as there.
    """
    given = command.parameters if command else {}
    mode = str(given.get("target_mode") or (bound.mode if bound else "unknown"))
    pool_id = given.get("target_pool_id") if mode == "spot" else None
    pool_type, _, pool_az = str(pool_id or "").rpartition(".")
    return Machine(
        instance_id,
        str(
            given.get("instance_type") or pool_type or (bound.instance_type if bound else "unknown")
        ),
        bound.region if bound else "unknown",
        pool_az or (bound.az if bound else "unknown"),
        mode,
        str(pool_id) if pool_id else None,
    )


async def switch_in_place(conn: Conn, command: Command, now: datetime) -> None:
    """Take a finished switch as done where the agent is; call it with the agent's row held.

    Nothing changes when the agent has moved, or when an instance that it may have launched waits.
    """
    primary = await instances.find_primary(conn, command.tenant_id, command.agent_id)
    if primary is None or primary.id != command.instance_id:
        return
    if await termination_store.has_candidate(
        conn, command.tenant_id, command.agent_id, since=command.leased_at or command.created_at
    ):
        return
    mode = str(command.parameters.get("target_mode") or primary.mode)
    target = command.parameters.get("target_pool_id")
    pool_id = (str(target) if target else primary.pool_id) if mode == "spot" else None
    before = side(primary)
    await termination_store.set_place(
        conn, command.tenant_id, primary.id, mode=mode, pool_id=pool_id, now=now
    )
    after = await instances.find_primary(conn, command.tenant_id, command.agent_id)
    await store.raise_generation(conn, command.tenant_id, command.agent_id, now=now)
    await recording.record(
        conn,
        command.tenant_id,
        command.agent_id,
        old=before,
        new=side(after),
        cause="switch",
        now=now,
        trigger=command.trigger,
        command_id=command.id,
        told=Told(initiated_at=command.leased_at, ready_at=now),
    )


def ordered(
    command: Command | None, told: Told = NOTHING_TOLD, *, reported: bool = False
) -> Reason:
    """The reason of a change that a switch command ordered, or that nobody did."""
    if command is None:
        return Reason(told=told, reported=reported)
    told = replace(told, initiated_at=told.initiated_at or command.leased_at)
    wish = command.parameters.get("auto_terminate")
    return Reason(
        command.id,
        command.trigger,
        spared=wish is False,
        consent=wish is True,
        told=told,
        reported=reported,
    )


def side(instance: Instance | None) -> Side | None:
    """An instance as one end of a switch."""
    if instance is None:
        return None
    return Side(
        instance.id,
        instance.mode,
        instance.pool_id,
        instance.az,
        instance.region,
        instance.instance_type,
    )


async def _retire(conn: Conn, former: Instance, cause: str, reason: Reason, now: datetime) -> None:
    displaced = cause == _REGISTRATION
    await termination_store.retire(
        conn,
        former.tenant_id,
        former.id,
        to=reason.former_to,
        now=now,
        spared=reason.spared or displaced,
        consent=reason.consent,
    )
    # What was meant for the old machine must not run on it any more.
    await store_module.cancel(
        conn,
        former.tenant_id,
        former.agent_id,
        instance_id=former.id,
        statuses=("pending",),
        reason="the agent has moved",
        now=now,
    )
    if displaced:
        await events.append(conn, _displaced(former), now)


async def _recorded(conn: Conn, command: Command) -> bool:
    known = await switches.find(conn, command.tenant_id, command.agent_id, command_id=command.id)
    return known is not None


async def _record_failure(conn: Conn, command: Command, now: datetime) -> None:
    if await switches.find(
        conn, command.tenant_id, command.agent_id, command_id=command.id, success=False
    ):
        return
    old = await instances.find(conn, command.tenant_id, command.instance_id)
    await recording.record(
        conn,
        command.tenant_id,
        command.agent_id,
        old=side(old),
        new=None,
        cause="switch",
        now=now,
        trigger=command.trigger,
        command_id=command.id,
        told=Told(initiated_at=command.leased_at),
        error=command.message or "the agent could not switch",
    )


def _moved(
    tenant_id: TenantId, agent_id: UUID, old: str | None, new: str, cause: str
) -> events.Event:
    return events.Event(
        "agent.moved",
        str(agent_id),
        {
            "agent_id": str(agent_id),
            "instance_id": new,
            "old_instance_id": old,
            "new_instance_id": new,
            "cause": cause,
        },
        tenant_id,
    )


def _displaced(former: Instance) -> events.Event:
    return events.Event(
        "instance.displaced",
        str(former.agent_id),
        {
            "agent_id": str(former.agent_id),
            "instance_id": former.id,
            "severity": "warning",
            "message": "another instance registered under the agent's name; this one may still run",
        },
        former.tenant_id,
    )
