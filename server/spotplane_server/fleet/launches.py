"""Launches: what an agent says of an instance that it was told to launch, and what people do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from spotplane_server import audit, events
from spotplane_server.agents import primary as primary_module
from spotplane_server.agents import switch_requests
from spotplane_server.agents.commands import queries, store
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.commands.store import Command
from spotplane_server.agents.errors import InstanceTaken
from spotplane_server.agents.store import Locked
from spotplane_server.fleet import errors, switch_reports
from spotplane_server.fleet.hooks import Standby
from spotplane_server.fleet.rules import End, Prices
from spotplane_server.fleet.switch_effects import Report
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance, Machine
from spotplane_server.kernel.db.database import Conn
from spotplane_server.switches.rules import Told


@dataclass(frozen=True, slots=True)
class Launch:
    """What an agent says that it has launched."""

    instance_id: str
    placeholder: str | None
    instance_type: str | None
    az: str | None
    command_id: UUID | None


async def take(
    conn: Conn, agent: Locked, launch: Launch, standby: Standby, ledger: Ledger, now: datetime
) -> str:
    """Take a launch; a repeat changes nothing. The caller's transaction holds the agent's row.

    Returns:
        The replica's state when one was launched, else the instance's.

    Raises:
        InstanceTaken: The instance is another agent's.
    """
    command = await _command(conn, agent, launch)
    if command is not None and command.type == "switch" and await _is_anothers(conn, agent, launch):
        # Its machine is an agent of its own already: that it was launched is the switch's report.
        await switch_reports.take(conn, agent.id, _report(command, launch), standby, now)
        await _finish(conn, agent, command, launch.instance_id, ledger, now)
        return "running_primary"
    replica_id = None
    if command is not None and command.type == "create_replica":
        replica_id = UUID(str(command.parameters["replica_id"]))
    status = await standby.launched(
        conn,
        agent.tenant_id,
        agent.id,
        launch.placeholder,
        replica_id,
        launch.instance_id,
        now,
    )
    if status is None:
        await _make_known(conn, agent, launch, command, now)
    if command is not None and command.status in store.OPEN:
        # The launch was all that the command asked for: what follows from it follows now.
        await _finish(conn, agent, command, launch.instance_id, ledger, now)
    if status is not None:
        return status
    found = await instances.find(conn, agent.tenant_id, launch.instance_id)
    return found.status if found else "launching"


async def register(
    conn: Conn,
    agent: Locked,
    machine: Machine,
    *,
    primary: bool,
    standby: Standby,
    now: datetime,
) -> Instance:
    """Make an instance known by hand, and the agent's primary if that is wanted.

    Raises:
        InstanceTaken: It is another agent's. SwitchImpossible: It has ended.
    """
    await instances.insert(conn, agent.tenant_id, agent.id, machine, "launching", now)
    known = await _own(conn, agent, machine.id)
    if primary and known.status != "running_primary":
        if known.status not in primary_module.SUCCESSORS:
            raise errors.SwitchImpossible(
                f"the instance is {known.status}, so it cannot serve", status=known.status
            )
        reason = primary_module.Reason(recorded=True)  # somebody says where the agent is: no switch
        await primary_module.move_primary(
            conn, agent.tenant_id, agent.id, machine.id, cause="operator", now=now, reason=reason
        )
        await standby.serves(conn, agent.tenant_id, agent.id, machine.id, now)
    await events.append(conn, _registered(agent, machine, primary=primary), now)
    return await _own(conn, agent, machine.id)


def change(instance: Instance) -> audit.Change:
    """What was made known by hand, for the audit."""
    return audit.Change(
        "instance.register",
        "instance",
        instance.id,
        instance.tenant_id,
        after={"agent_id": str(instance.agent_id), "status": instance.status},
    )


async def _is_anothers(conn: Conn, agent: Locked, launch: Launch) -> bool:
    found = await instances.find(conn, agent.tenant_id, launch.instance_id)
    return found is not None and found.agent_id != agent.id


def _report(command: Command, launch: Launch) -> Report:
    new = End(launch.instance_id, instance_type=launch.instance_type, az=launch.az)
    return Report(command.id, None, new, True, Prices(), Told(), None, None)


async def _command(conn: Conn, agent: Locked, launch: Launch) -> Command | None:
    if launch.command_id is not None:
        found = await queries.find(conn, agent.tenant_id, agent.id, command_id=launch.command_id)
        if found is not None and found.type in ("switch", "create_replica"):
            return found
    command = await switch_requests.find_open(conn, agent)
    # A switch that nobody has begun has launched nothing.
    return command if command is not None and command.status != "pending" else None


async def _make_known(
    conn: Conn, agent: Locked, launch: Launch, command: Command | None, now: datetime
) -> None:
    primary = await instances.find_primary(conn, agent.tenant_id, agent.id)
    machine = primary_module.machine_of(command, launch.instance_id, primary)
    machine = Machine(
        machine.id,
        launch.instance_type or machine.instance_type,
        machine.region,
        launch.az or machine.az,
        machine.mode,
        machine.pool_id,
    )
    await instances.insert(conn, agent.tenant_id, agent.id, machine, "launching", now)
    await _own(conn, agent, launch.instance_id)


async def _own(conn: Conn, agent: Locked, instance_id: str) -> Instance:
    found = await instances.find(conn, agent.tenant_id, instance_id)
    if found is None or found.agent_id != agent.id:
        raise InstanceTaken("the instance belongs to another agent")
    return found


async def _finish(
    conn: Conn, agent: Locked, command: Command, instance_id: str, ledger: Ledger, now: datetime
) -> None:
    done = await store.finish(
        conn,
        agent.tenant_id,
        command.id,
        agent.id,
        success=True,
        message="",
        result={"instance_id": instance_id},
        now=now,
    )
    if done is not None:
        await ledger.take_effect(conn, done, now)


def _registered(agent: Locked, machine: Machine, *, primary: bool) -> events.Event:
    return events.Event(
        "instance.registered",
        str(agent.id),
        {
            "agent_id": str(agent.id),
            "agent_name": agent.logical_agent_id,
            "instance_id": machine.id,
            "instance_type": machine.instance_type,
            "region": machine.region,
            "az": machine.az,
            "mode": machine.mode,
            "pool_id": machine.pool_id,
            "is_primary": primary,
        },
        agent.tenant_id,
    )
