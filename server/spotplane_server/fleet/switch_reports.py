"""Taking an agent's report of a switch: once for each command, and for each pair of instances."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.agents import store, switch_requests
from spotplane_server.agents.commands import queries
from spotplane_server.agents.commands.store import Command
from spotplane_server.agents.errors import AgentNotFound
from spotplane_server.agents.store import Locked
from spotplane_server.fleet import rules, switch_effects
from spotplane_server.fleet.hooks import Standby
from spotplane_server.fleet.switch_effects import Case, Report
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance
from spotplane_server.kernel.db.database import Conn
from spotplane_server.switches import store as switches
from spotplane_server.switches.store import Known

# What an agent says again within this time is a repeat, where nothing else tells.
RECENT: Final = timedelta(minutes=15)


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
        case = Case(conn, agent, report, None, primary, standby, now)
        return await switch_effects.fill(case, known)
    command = await _command(conn, agent, report)
    case = Case(conn, agent, report, command, primary, standby, now)
    if not report.success or report.new is None:
        return await _failed(case)
    return await _succeeded(case)


async def _succeeded(case: Case) -> UUID:
    conn, tenant_id = case.conn, case.agent.tenant_id
    old = await _old(case)
    new = case.new(old)
    told = rules.priced(
        rules.told_at(case.report.told, case.now),
        case.report.prices,
        old.mode if old else None,
        new.mode,
    )
    owner = await instances.find(conn, tenant_id, new.instance_id)
    if (
        owner is not None
        and owner.agent_id != case.agent.id
        and not await instances.adopt(conn, tenant_id, owner.id, case.agent.id, case.now)
    ):
        return await switch_effects.superseded(case, old, owner, told)
    here = await switch_effects.make_known(case, new)
    if case.primary is not None and case.primary.id not in {here.id, old and old.id}:
        return await switch_effects.too_late(case, here, told)
    if old is not None and old.id == here.id:
        return await switch_effects.in_place(case, old, new, told)
    return await switch_effects.moved(case, old, here, told)


async def _failed(case: Case) -> UUID:
    """Record a switch that did not come to pass, once for each command and for each attempt."""
    report = case.report
    new_id = report.new.instance_id if report.new else None
    known = await switches.find(
        case.conn,
        case.agent.tenant_id,
        case.agent.id,
        command_id=case.command.id if case.command else None,
        pair=(case.old_id, new_id),
        success=False,
    )
    if known is not None and (case.command or known.created_at > case.now - RECENT):
        return known.id
    return await switch_effects.failed(case, "the agent could not switch")


async def _known(
    conn: Conn, agent: Locked, report: Report, primary: Instance | None, now: datetime
) -> Known | None:
    """The switch that the report is of, when that is recorded already."""
    if not report.success or report.new is None:
        return None
    tenant_id, new_id = agent.tenant_id, report.new.instance_id
    if report.command_id is not None:
        found = await switches.find(conn, tenant_id, agent.id, command_id=report.command_id)
        if found is not None:
            return found if _still(found, primary, new_id) else None
    if report.old is None:
        # Nothing was left that it could leave again.
        if primary is None or primary.id != new_id:
            return None
        return await switches.find_led_to(conn, tenant_id, agent.id, new_id)
    old_id = report.old.instance_id
    found = await switches.find(conn, tenant_id, agent.id, pair=(old_id, new_id))
    if found is not None and found.in_place:
        return found if found.created_at > now - RECENT else None
    # An agent that came back to where it was may leave again.
    if found is not None:
        return None if primary is not None and primary.id == old_id else found
    found = await switches.find_in_place(conn, tenant_id, agent.id, old_id, since=now - RECENT)
    return found if found is not None and _still(found, primary, new_id) else None


def _still(found: Known, primary: Instance | None, new_id: str) -> bool:
    """Whether a switch that seemed to be in place may turn out to have led to an instance."""
    if not found.in_place or new_id == found.new_instance_id or primary is None:
        return True
    return primary.id in {found.old_instance_id, new_id}


async def _command(conn: Conn, agent: Locked, report: Report) -> Command | None:
    """The switch command that the agent carries out; None when it carries out none."""
    if report.command_id is not None:
        found = await queries.find(conn, agent.tenant_id, agent.id, command_id=report.command_id)
        return found if found is not None and found.type == "switch" else None
    command = await switch_requests.find_open(conn, agent)
    return command if command is not None and command.status != "pending" else None


async def _old(case: Case) -> Instance | None:
    """The instance that was left: the named one if it is the agent's, else the primary."""
    if case.report.old is None:
        return case.primary
    named = case.report.old.instance_id
    found = await instances.find(case.conn, case.agent.tenant_id, named)
    return found if found is not None and found.agent_id == case.agent.id else case.primary
