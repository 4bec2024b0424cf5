"""What a reported switch does: to roles, to its row, and to what others learn of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID, uuid4

from spotplane_server import events
from spotplane_server.agents import merge, store
from spotplane_server.agents import primary as primary_module
from spotplane_server.agents.commands.store import Command
from spotplane_server.agents.errors import InstanceTaken
from spotplane_server.agents.store import Locked
from spotplane_server.fleet import errors, rules, terminations
from spotplane_server.fleet.hooks import Standby
from spotplane_server.fleet.rules import End, Prices
from spotplane_server.instances import store as instances
from spotplane_server.instances import termination_store
from spotplane_server.instances.store import Instance, Machine
from spotplane_server.kernel.db.database import Conn
from spotplane_server.switches import recording
from spotplane_server.switches import store as switches
from spotplane_server.switches.rules import Side, Told
from spotplane_server.switches.store import Known


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


@dataclass(frozen=True, slots=True)
class Case:
    """A report and what is known of its agent, whose row the transaction holds.

    Attributes:
        conn: In the transaction.
        agent: Who reports.
        report: What it says.
        command: The switch command that it has carried out, if any.
        primary: What serves until now.
        standby: What others do about it.
        now: When.
    """

    conn: Conn
    agent: Locked
    report: Report
    command: Command | None
    primary: Instance | None
    standby: Standby
    now: datetime

    @property
    def trigger(self) -> str:
        """The command's trigger; the agent's own word counts only without a command."""
        if self.command is not None:
            return self.command.trigger
        return rules.trigger_reported(self.report.trigger)

    @property
    def old_id(self) -> str | None:
        """The instance that was left, or was to be."""
        if self.report.old is not None:
            return self.report.old.instance_id
        return self.primary.id if self.primary else None

    def new(self, old: Instance | None) -> End:
        """The new end, with what the agent left out as its command had it."""
        assert self.report.new is not None
        given = self.command.parameters if self.command else {}
        return rules.completed(
            self.report.new, old, given.get("target_mode"), given.get("target_pool_id")
        )

    def reason(self, old: Instance | None, told: Told) -> primary_module.Reason:
        """Why the primary changes."""
        return replace(
            primary_module.ordered(self.command, told, reported=True),
            trigger=self.trigger,
            left=primary_module.side(old) or _side(self.report.old),
            switch_id=uuid4(),
        )


async def make_known(case: Case, new: End) -> Instance:
    """The new instance, made known if it is not.

    Raises:
        InstanceTaken: It is another agent's.
    """
    conn, agent = case.conn, case.agent
    machine = Machine(
        new.instance_id,
        new.instance_type or "unknown",
        new.region or "unknown",
        new.az or "unknown",
        new.mode or "unknown",
        new.pool_id,
        image_id=new.image_id,
    )
    await instances.insert(conn, agent.tenant_id, agent.id, machine, "launching", case.now)
    found = await instances.find(conn, agent.tenant_id, new.instance_id)
    if found is not None and found.mode == "unknown" and machine.mode != "unknown":
        await _set_place(case, found.id, machine.mode, machine.pool_id)
        found = await instances.find(conn, agent.tenant_id, new.instance_id)
    if found is None or found.agent_id != agent.id:
        raise InstanceTaken("the new instance belongs to another agent")
    return found


async def fill(case: Case, known: Known) -> UUID:
    """Add to a recorded switch what only its agent knows, once."""
    report, tenant_id = case.report, case.agent.tenant_id
    new_mode = known.new_mode
    if known.in_place and report.new and report.new.instance_id != known.new_instance_id:
        new_mode = await _redirect(case, known)
    told = rules.priced(
        rules.told_at(report.told, case.now), report.prices, known.old_mode, new_mode
    )
    fresh = await switches.fill_report(case.conn, tenant_id, known.id, told)
    if fresh and told.old_terminated_at is not None and known.old_instance_id is not None:
        old = await instances.find(case.conn, tenant_id, known.old_instance_id)
        if old is not None and old.agent_id == case.agent.id:
            await _ended(case, old)
    return known.id


async def moved(case: Case, old: Instance | None, here: Instance, told: Told) -> UUID:
    """The agent serves on the new instance now, or did so already by its own registration.

    Raises:
        SwitchImpossible: The new instance has ended.
    """
    agent, reason = case.agent, case.reason(old, told)
    if case.primary is not None and case.primary.id == here.id:
        await _explain(case, reason, old, here)
    else:
        if here.status not in primary_module.SUCCESSORS:
            raise errors.SwitchImpossible(
                f"the new instance is {here.status}, so it cannot serve", status=here.status
            )
        await primary_module.move_primary(
            case.conn,
            agent.tenant_id,
            agent.id,
            here.id,
            cause="switch",
            now=case.now,
            reason=reason,
        )
        await case.standby.serves(case.conn, agent.tenant_id, agent.id, here.id, case.now)
    if told.old_terminated_at is not None and old is not None:
        await _ended(case, old)
    assert reason.switch_id is not None
    return reason.switch_id


async def superseded(case: Case, old: Instance | None, here: Instance, told: Told) -> UUID:
    """The new instance serves an agent of its own, which takes this one's place.

    Raises:
        InstanceTaken: It serves none.
    """
    if here.status != "running_primary":
        raise InstanceTaken("the new instance belongs to another agent")
    reason = case.reason(old, told)
    await merge.supersede(
        case.conn,
        case.agent.tenant_id,
        case.agent.id,
        here.agent_id,
        inherit=case.standby.inherit,
        consent=reason.consent,
        now=case.now,
    )
    # The old process says goodbye in the older agent's name, so none is owed to the younger one.
    switch_id = await _record(case, here.agent_id, reason, primary_module.side(here), owed=False)
    if told.old_terminated_at is not None and old is not None:
        await _ended(case, old)
    return switch_id


async def in_place(case: Case, old: Instance, new: End, told: Told) -> UUID:
    """The agent stayed on its instance, which is paid for otherwise now."""
    conn, agent = case.conn, case.agent
    await _set_place(case, old.id, new.mode or old.mode, new.pool_id)
    after = await instances.find(conn, agent.tenant_id, old.id)
    await store.raise_generation(conn, agent.tenant_id, agent.id, now=case.now)
    return await _record(case, agent.id, case.reason(old, told), primary_module.side(after))


async def too_late(case: Case, here: Instance, told: Told) -> UUID:
    """Another instance serves by now, which neither end of the switch is: that one stays."""
    agent = case.agent
    await instances.move(
        case.conn, agent.tenant_id, here.id, frm=("launching",), to="zombie", now=case.now
    )
    data = {
        "agent_id": str(agent.id),
        "agent_name": agent.logical_agent_id,
        "instance_id": here.id,
        "severity": "warning",
        "message": "its agent had moved elsewhere before its switch was reported",
    }
    event = events.Event("instance.extra", str(agent.id), data, agent.tenant_id)
    await events.append(case.conn, event, case.now)
    return await failed(case, "the agent had moved meanwhile", told=told, new=here)


async def failed(
    case: Case, why: str, *, told: Told | None = None, new: Instance | None = None
) -> UUID:
    """Record a switch that did not come to pass; no role changes by it."""
    old = await instances.find(case.conn, case.agent.tenant_id, case.old_id or "")
    reason = case.reason(old, told or rules.told_at(case.report.told, case.now))
    side = primary_module.side(new) or _side(case.report.new)
    return await _record(case, case.agent.id, reason, side, error=case.report.error or why)


async def _record(
    case: Case,
    agent_id: UUID,
    reason: primary_module.Reason,
    new: Side | None,
    *,
    owed: bool = True,
    error: str | None = None,
) -> UUID:
    return await recording.record(
        case.conn,
        case.agent.tenant_id,
        agent_id,
        old=reason.left,
        new=new,
        cause="switch",
        now=case.now,
        trigger=reason.trigger,
        command_id=reason.command_id,
        told=reason.told,
        reported=True,
        error=error,
        switch_id=reason.switch_id,
        owed=owed,
    )


async def _explain(
    case: Case, reason: primary_module.Reason, old: Instance | None, here: Instance
) -> None:
    """What is new of an agent that has moved by its own registration: that this was a switch."""
    await _record(case, case.agent.id, reason, primary_module.side(here))
    if old is not None:
        await termination_store.explain(
            case.conn,
            case.agent.tenant_id,
            old.id,
            spared=reason.spared,
            consent=reason.consent,
            now=case.now,
        )


async def _redirect(case: Case, known: Known) -> str:
    """Move the agent after all: its command was taken for one that was carried out in place."""
    assert case.report.new is not None
    conn, agent, now = case.conn, case.agent, case.now
    old = await instances.find(conn, agent.tenant_id, known.old_instance_id or "")
    new = rules.completed(case.report.new, old, known.new_mode, known.new_pool_id)
    here = await make_known(case, new)
    if old is not None:
        await _set_place(case, old.id, known.old_mode or old.mode, known.old_pool_id)
    if here.status != "running_primary":
        reason = primary_module.Reason(recorded=True)
        await primary_module.move_primary(
            conn, agent.tenant_id, agent.id, here.id, cause="switch", now=now, reason=reason
        )
    side = primary_module.side(here)
    assert side is not None
    price = await switches.price_at(conn, side, now)
    await switches.redirect(conn, agent.tenant_id, known.id, side, price, now)
    return here.mode


async def _ended(case: Case, old: Instance) -> None:
    """The agent has ended the instance that it left, with or without consent."""
    agent, consent = case.agent, case.agent.config.auto_terminate_enabled
    if case.command is not None and "auto_terminate" in case.command.parameters:
        consent = bool(case.command.parameters["auto_terminate"])
    if await instances.move(
        case.conn,
        agent.tenant_id,
        old.id,
        frm=("zombie", "terminating"),
        to="terminated",
        now=case.now,
    ):
        event = terminations.event(old, agent.logical_agent_id, consent=consent)
        await events.append(case.conn, event, case.now)


async def _set_place(case: Case, instance_id: str, mode: str, pool_id: str | None) -> None:
    await termination_store.set_place(
        case.conn, case.agent.tenant_id, instance_id, mode=mode, pool_id=pool_id, now=case.now
    )


def _side(end: End | None) -> Side | None:
    if end is None:
        return None
    mode = rules.mode_of(end.mode) or "unknown"
    return Side(end.instance_id, mode, end.pool_id, end.az, end.region, end.instance_type)
