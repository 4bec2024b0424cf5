"""Taking an agent's report of a switch: once for each command, and for each pair of instances."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from spotplane_server import events
from spotplane_server.agents import commands_queries, moves, store, succession, switch_orders
from spotplane_server.agents.commands_store import Command
from spotplane_server.agents.errors import AgentNotFound, InstanceTaken
from spotplane_server.agents.store import Locked
from spotplane_server.fleet import ends, errors, rules
from spotplane_server.fleet.ports import Standby
from spotplane_server.fleet.rules import End, Prices
from spotplane_server.instances import endings
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance, Machine
from spotplane_server.kernel.db import Conn
from spotplane_server.switches import recording
from spotplane_server.switches import store as switches
from spotplane_server.switches.rules import Side, Told
from spotplane_server.switches.store import Known

# What an agent says again within this time is a repeat, where nothing else tells.
RECENT: Final = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent says of a switch.

    Attributes:
        command_id: The command that it carried out, if it knows.
        old: Where it was; None for its primary.
        new: Where it is; None only for a failure.
        success: Whether it came to pass.
        prices: As far as it knows them.
        told: Instants and durations.
        trigger: What it takes for the cause.
        error: Why it failed.
    """

    command_id: UUID | None
    old: End | None
    new: End | None
    success: bool
    prices: Prices
    told: Told
    trigger: str | None
    error: str | None


async def take(conn: Conn, agent_id: UUID, report: Report, standby: Standby, now: datetime) -> UUID:
    """Take a report, in one transaction.

    Returns:
        The switch's id, the same for every repeat.

    Raises:
        AgentNotFound: There is none in the connection's scope.
        InstanceTaken: The new instance is another agent's.
        SwitchImpossible: The new instance has ended.
    """
    agent = await store.lock(conn, agent_id)
    if agent is not None:
        return await _take(conn, agent, report, standby, now)
    # One that another agent took the place of by this very report may repeat it.
    pair = (
        report.old.instance_id if report.old else None,
        report.new.instance_id if report.new else None,
    )
    found = await switches.find_inherited(conn, agent_id, pair)
    if found is None:
        raise AgentNotFound
    return found


async def _take(conn: Conn, agent: Locked, report: Report, standby: Standby, now: datetime) -> UUID:
    primary = await instances.find_primary(conn, agent.tenant_id, agent.id)
    known = await _known(conn, agent, report, primary, now)
    if known is not None:
        return await _fill(conn, agent, known, report, now)
    command = await _command(conn, agent, report)
    if not report.success or report.new is None:
        return await _failed(conn, agent, report, command, primary, now)
    old = await _old(conn, agent, report, primary)
    new = rules.completed(
        report.new,
        old,
        command.parameters.get("target_mode") if command else None,
        command.parameters.get("target_pool_id") if command else None,
    )
    told = rules.priced(
        rules.told_at(report.told, now), report.prices, old.mode if old else None, new.mode
    )
    owner = await instances.find(conn, agent.tenant_id, new.instance_id)
    if (
        owner is not None
        and owner.agent_id != agent.id
        and not await instances.adopt(conn, agent.tenant_id, owner.id, agent.id, now)
    ):
        return await _superseded(conn, agent, report, command, (old, owner), told, standby, now)
    here = await _make_known(conn, agent, new, old, now)
    if primary is not None and primary.id not in {here.id, old.id if old else primary.id}:
        return await _too_late(conn, agent, report, command, here, told, now)
    if old is not None and old.id == here.id:
        return await _in_place(conn, agent, report, command, old, new, told, now)
    return await _moved(conn, agent, report, command, (old, here, primary), told, standby, now)


async def _known(
    conn: Conn, agent: Locked, report: Report, primary: Instance | None, now: datetime
) -> Known | None:
    """The switch that the report is of, when that is recorded already."""
    if not report.success or report.new is None:
        return None
    if report.command_id is not None:
        found = await switches.find(conn, agent.tenant_id, agent.id, command_id=report.command_id)
        if found is not None:
            return found
    new_id = report.new.instance_id
    if report.old is None:
        # Nothing was left that it could leave again.
        there = primary is not None and primary.id == new_id
        return (
            await switches.find_led_to(conn, agent.tenant_id, agent.id, new_id) if there else None
        )
    old_id = report.old.instance_id
    if old_id == new_id:
        return await switches.find_in_place(
            conn, agent.tenant_id, agent.id, old_id, since=now - RECENT
        )
    pair = (old_id, new_id)
    found = await switches.find(conn, agent.tenant_id, agent.id, pair=pair)
    # An agent that came back to where it was may leave again.
    if found is not None and primary is not None and primary.id == old_id:
        return None
    return found or await switches.find_in_place(
        conn, agent.tenant_id, agent.id, old_id, since=now - RECENT
    )


async def _command(conn: Conn, agent: Locked, report: Report) -> Command | None:
    """The switch command that the agent carries out; None when it carries out none."""
    if report.command_id is not None:
        found = await commands_queries.find(
            conn, agent.tenant_id, agent.id, command_id=report.command_id
        )
        return found if found is not None and found.type == "switch" else None
    command = await switch_orders.find_open(conn, agent)
    return command if command is not None and command.status != "pending" else None


async def _fill(conn: Conn, agent: Locked, known: Known, report: Report, now: datetime) -> UUID:
    """Add to a recorded switch what only its agent knows, once."""
    new_mode = known.new_mode
    if known.in_place and report.new and report.new.instance_id != known.new_instance_id:
        new_mode = await _redirect(conn, agent, known, report, now)
    told = rules.priced(rules.told_at(report.told, now), report.prices, known.old_mode, new_mode)
    fresh = await switches.fill_report(conn, agent.tenant_id, known.id, told)
    if fresh and told.old_terminated_at is not None and known.old_instance_id is not None:
        old = await instances.find(conn, agent.tenant_id, known.old_instance_id)
        if old is not None and old.agent_id == agent.id:
            await _ended(conn, agent, old, None, now)
    return known.id


async def _redirect(conn: Conn, agent: Locked, known: Known, report: Report, now: datetime) -> str:
    """Move the agent after all: its command was taken for one that was carried out in place."""
    assert report.new is not None
    old = await instances.find(conn, agent.tenant_id, known.old_instance_id or "")
    new = rules.completed(report.new, old, known.new_mode, known.new_pool_id)
    here = await _make_known(conn, agent, new, old, now)
    if old is not None:
        await endings.set_place(
            conn,
            agent.tenant_id,
            old.id,
            mode=known.old_mode or old.mode,
            pool_id=known.old_pool_id,
            now=now,
        )
    if here.status != "running_primary":
        reason = moves.Reason(recorded=True)
        await moves.move_primary(
            conn, agent.tenant_id, agent.id, here.id, cause="switch", now=now, reason=reason
        )
    side = moves.side(here)
    assert side is not None
    await switches.redirect(
        conn, agent.tenant_id, known.id, side, await switches.price_at(conn, side, now), now
    )
    return here.mode


async def _old(
    conn: Conn, agent: Locked, report: Report, primary: Instance | None
) -> Instance | None:
    """The instance that was left: the named one if it is the agent's, else the primary."""
    if report.old is None:
        return primary
    found = await instances.find(conn, agent.tenant_id, report.old.instance_id)
    return found if found is not None and found.agent_id == agent.id else primary


async def _make_known(
    conn: Conn, agent: Locked, new: End, old: Instance | None, now: datetime
) -> Instance:
    """The new instance, made known if it is not."""
    machine = Machine(
        new.instance_id,
        new.instance_type or "unknown",
        new.region or "unknown",
        new.az or "unknown",
        new.mode or "unknown",
        new.pool_id,
        image_id=new.image_id,
    )
    await instances.insert(conn, agent.tenant_id, agent.id, machine, "launching", now)
    found = await instances.find(conn, agent.tenant_id, new.instance_id)
    if found is None or found.agent_id != agent.id:
        raise InstanceTaken("the new instance belongs to another agent")
    if found.mode == "unknown" and machine.mode != "unknown":
        await endings.set_place(
            conn, agent.tenant_id, found.id, mode=machine.mode, pool_id=machine.pool_id, now=now
        )
        found = await instances.find(conn, agent.tenant_id, new.instance_id)
        assert found is not None
    return found


async def _moved(
    conn: Conn,
    agent: Locked,
    report: Report,
    command: Command | None,
    places: tuple[Instance | None, Instance, Instance | None],
    told: Told,
    standby: Standby,
    now: datetime,
) -> UUID:
    old, here, primary = places
    reason = replace(
        moves.ordered(command, told, reported=True),
        trigger=command.trigger if command else rules.trigger_reported(report.trigger),
        left=moves.side(old) or _side(report.old),
        switch_id=uuid4(),
    )
    if primary is not None and primary.id == here.id:
        # It is there already, by its own registration: what is new is that this was a switch.
        await recording.record(
            conn,
            agent.tenant_id,
            agent.id,
            old=reason.left,
            new=moves.side(here),
            cause="switch",
            now=now,
            trigger=reason.trigger,
            command_id=reason.command_id,
            told=reason.told,
            reported=True,
            switch_id=reason.switch_id,
        )
        if old is not None:
            await endings.explain(
                conn,
                agent.tenant_id,
                old.id,
                spared=reason.spared,
                consent=reason.consent,
                now=now,
            )
    else:
        if here.status not in moves.SUCCESSORS:
            raise errors.SwitchImpossible(
                f"the new instance is {here.status}, so it cannot serve", status=here.status
            )
        await moves.move_primary(
            conn,
            agent.tenant_id,
            agent.id,
            here.id,
            cause="switch",
            now=now,
            reason=reason,
        )
        await standby.serves(conn, agent.tenant_id, agent.id, here.id, now)
    if told.old_terminated_at is not None and old is not None:
        await _ended(conn, agent, old, command, now)
    assert reason.switch_id is not None
    return reason.switch_id


async def _superseded(
    conn: Conn,
    agent: Locked,
    report: Report,
    command: Command | None,
    places: tuple[Instance | None, Instance],
    told: Told,
    standby: Standby,
    now: datetime,
) -> UUID:
    """The new instance serves an agent of its own, which takes this one's place."""
    old, here = places
    if here.status != "running_primary":
        raise InstanceTaken("the new instance belongs to another agent")
    reason = moves.ordered(command, told, reported=True)
    await succession.supersede(
        conn,
        agent.tenant_id,
        agent.id,
        here.agent_id,
        inherit=standby.inherit,
        consent=reason.consent,
        now=now,
    )
    # The old process says goodbye in the older agent's name, so none is owed to the younger one.
    switch_id = await recording.record(
        conn,
        agent.tenant_id,
        here.agent_id,
        old=moves.side(old) or _side(report.old),
        new=moves.side(here),
        cause="switch",
        now=now,
        trigger=command.trigger if command else rules.trigger_reported(report.trigger),
        command_id=reason.command_id,
        told=reason.told,
        reported=True,
        owed=False,
    )
    if told.old_terminated_at is not None and old is not None:
        await _ended(conn, agent, old, command, now)
    return switch_id


async def _in_place(
    conn: Conn,
    agent: Locked,
    report: Report,
    command: Command | None,
    old: Instance,
    new: End,
    told: Told,
    now: datetime,
) -> UUID:
    await endings.set_place(
        conn,
        agent.tenant_id,
        old.id,
        mode=new.mode or old.mode,
        pool_id=new.pool_id,
        now=now,
    )
    after = await instances.find(conn, agent.tenant_id, old.id)
    await store.raise_generation(conn, agent.tenant_id, agent.id, now=now)
    return await recording.record(
        conn,
        agent.tenant_id,
        agent.id,
        old=moves.side(old),
        new=moves.side(after),
        cause="switch",
        now=now,
        trigger=command.trigger if command else rules.trigger_reported(report.trigger),
        command_id=command.id if command else None,
        told=told,
        reported=True,
    )


async def _too_late(
    conn: Conn,
    agent: Locked,
    report: Report,
    command: Command | None,
    here: Instance,
    told: Told,
    now: datetime,
) -> UUID:
    """Another instance serves by now, which neither end of the switch is: that one stays."""
    await instances.move(conn, agent.tenant_id, here.id, frm=("launching",), to="zombie", now=now)
    await events.append(
        conn,
        events.Event(
            "instance.extra",
            str(agent.id),
            {
                "agent_id": str(agent.id),
                "agent_name": agent.logical_agent_id,
                "instance_id": here.id,
                "severity": "warning",
                "message": "the agent had moved elsewhere before its switch was reported",
            },
            agent.tenant_id,
        ),
        now,
    )
    return await _failed(conn, agent, report, command, None, now, told=told, new=here)


async def _failed(
    conn: Conn,
    agent: Locked,
    report: Report,
    command: Command | None,
    primary: Instance | None,
    now: datetime,
    *,
    told: Told | None = None,
    new: Instance | None = None,
) -> UUID:
    """Record a switch that did not come to pass, once for each command and for each attempt."""
    old_id = report.old.instance_id if report.old else (primary.id if primary else None)
    known = await switches.find(
        conn,
        agent.tenant_id,
        agent.id,
        command_id=command.id if command else report.command_id,
        pair=(old_id, report.new.instance_id if report.new else None),
        success=False,
    )
    if known is not None and (command or known.created_at > now - RECENT):
        return known.id
    old = await instances.find(conn, agent.tenant_id, old_id or "")
    return await recording.record(
        conn,
        agent.tenant_id,
        agent.id,
        old=moves.side(old),
        new=moves.side(new) or _side(report.new),
        cause="switch",
        now=now,
        trigger=command.trigger if command else rules.trigger_reported(report.trigger),
        command_id=command.id if command else None,
        told=told or rules.told_at(report.told, now),
        reported=True,
        error=report.error
        or ("the agent had moved meanwhile" if report.success else "the agent could not switch"),
    )


async def _ended(
    conn: Conn, agent: Locked, old: Instance, command: Command | None, now: datetime
) -> None:
    """The agent has ended the instance that it left, with or without consent."""
    consent = agent.config.auto_terminate_enabled
    if command is not None and "auto_terminate" in command.parameters:
        consent = bool(command.parameters["auto_terminate"])
    if not await instances.move(
        conn, agent.tenant_id, old.id, frm=("zombie", "terminating"), to="terminated", now=now
    ):
        return
    await events.append(conn, ends.event(old, agent.logical_agent_id, consent=consent), now)


def _side(end: End | None) -> Side | None:
    if end is None:
        return None
    mode = rules.mode_of(end.mode) or "unknown"
    return Side(end.instance_id, mode, end.pool_id, end.az, end.region, end.instance_type)
