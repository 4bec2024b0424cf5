"""Queueing switches: at most one open for each agent, and whose order beats whose.

Every switch is queued here, whoever asks for it: a person, the decision loop, or an emergency.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from spotplane_server import events
from spotplane_server.agents import errors, rules
from spotplane_server.agents.commands import queries, store
from spotplane_server.agents.commands.store import Command, Order
from spotplane_server.agents.store import Locked
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

Trigger: TypeAlias = Literal["MANUAL", "AUTOMATIC", "EMERGENCY"]
Mode: TypeAlias = Literal["spot", "ondemand"]

# Puts an order for an instance into the ledger: `Ledger.issue`.
Issue: TypeAlias = Callable[[Conn, TenantId, UUID, str, Order, datetime], Awaitable[UUID]]

FIND_OPEN_SWITCH: Final = """
    SELECT id
      FROM agent_commands
     WHERE tenant_id = $1 AND agent_id = $2 AND type = 'switch'
       AND status IN ('pending', 'leased', 'executing')
"""

POOL_SERVES: Final = """
    SELECT EXISTS (SELECT FROM pools
                    WHERE id = $1 AND region = $2 AND price_nanousd IS NOT NULL)
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a switch is to lead.

    Attributes:
        mode: How the new instance is to be paid for.
        pool_id: Required for spot; None for on-demand.
        instance_type: Another type, if one was asked for. Agents in the field ignore it.
    """

    mode: Mode
    pool_id: str | None = None
    instance_type: str | None = None

    def is_where(self, primary: Instance) -> bool:
        """Whether an instance is there already."""
        if self.instance_type not in {None, primary.instance_type} or self.mode != primary.mode:
            return False
        return self.mode == "ondemand" or self.pool_id == primary.pool_id


@dataclass(frozen=True, slots=True)
class Asked:
    """Who wants a switch, and how much.

    Attributes:
        trigger: What kind of will it is; an emergency beats whatever is pending.
        priority: 1..100, higher first; emergencies 100, automatic ones below 50.
        created_by: A credential's name, or a job's.
        auto_terminate: Whether the old instance may be ended; None for the agent's own setting.
        reason: For a person; kept with the command.
        request_id: Makes queueing repeatable within the agent; None for none.
    """

    trigger: Trigger
    priority: int
    created_by: str
    auto_terminate: bool | None = None
    reason: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Queued:
    """The switch that is open now; ``fresh`` unless it was open before."""

    command: Command
    fresh: bool


async def check_target(conn: Conn, target: Target, region: str) -> None:
    """Refuse a target that no agent could reach.

    Raises:
        PoolRequired: Spot without a pool. UnknownPool: Not in the region, or without a price.
    """
    if target.mode == "ondemand":
        return
    if target.pool_id is None:
        raise errors.PoolRequired("a switch to spot needs a pool", field="pool_id")
    if not await conn.fetchval(POOL_SERVES, target.pool_id, region):
        raise errors.UnknownPool(
            "no such pool with a known price in the agent's region",
            field="pool_id",
            pool_id=target.pool_id[:128],
        )


async def queue(
    conn: Conn, agent: Locked, target: Target, asked: Asked, now: datetime, issue: Issue
) -> Queued:
    """Put a switch of an agent into the ledger; see `Ledger.queue_switch`."""
    if not agent.config.enabled and asked.trigger != "EMERGENCY":
        raise errors.AgentDisabled("the agent is disabled")
    primary = await instances.find_primary(conn, agent.tenant_id, agent.id)
    if primary is None:
        raise errors.AgentOffline("no instance serves this agent at present")
    await check_target(conn, target, primary.region)
    known = await find_open(conn, agent)
    if known is not None:
        if leads_to(known, target) and not _outranked(known, asked):
            return Queued(known, fresh=False)
        await _displace(conn, agent, known, asked, now)
    command_id = await issue(
        conn, agent.tenant_id, agent.id, primary.id, _order(agent, target, asked), now
    )
    command = await queries.find(conn, agent.tenant_id, agent.id, command_id=command_id)
    if command is None:
        raise errors.CommandNotFound
    await _announce(conn, agent, primary, command, now)
    return Queued(command, fresh=True)


async def find_open(conn: Conn, agent: Locked) -> Command | None:
    """The agent's open switch, None when there is none."""
    found = await conn.fetchval(FIND_OPEN_SWITCH, agent.tenant_id, agent.id)
    if found is None:
        return None
    return await queries.find(conn, agent.tenant_id, agent.id, command_id=found)


def leads_to(command: Command, target: Target) -> bool:
    """Whether a switch command has this target."""
    given = command.parameters
    return (given.get("target_mode"), given.get("target_pool_id"), given.get("instance_type")) == (
        target.mode,
        target.pool_id,
        target.instance_type,
    )


def _outranked(known: Command, asked: Asked) -> bool:
    # A disabled agent carries out emergencies only: what is pending there must become one.
    return asked.trigger == "EMERGENCY" != known.trigger and known.status == "pending"


async def _displace(conn: Conn, agent: Locked, known: Command, asked: Asked, now: datetime) -> None:
    stronger = asked.trigger == "EMERGENCY" or (
        asked.trigger == "MANUAL" and known.trigger == "AUTOMATIC"
    )
    if known.status != "pending" or not stronger:
        raise errors.SwitchInProgress("another switch of this agent is open")
    await store.cancel(
        conn,
        agent.tenant_id,
        agent.id,
        command_id=known.id,
        reason=f"in favour of another switch, {asked.trigger.lower()}",
        now=now,
    )


def _order(agent: Locked, target: Target, asked: Asked) -> Order:
    emergency = asked.trigger == "EMERGENCY"
    parameters: dict[str, Any] = {
        "target_mode": target.mode,
        "target_pool_id": target.pool_id,
        "terminate_wait_seconds": wait_seconds(agent, asked),
    }
    if target.instance_type is not None:
        parameters["instance_type"] = target.instance_type
    if asked.auto_terminate is not None:
        parameters["auto_terminate"] = asked.auto_terminate
    if asked.reason is not None:
        parameters["reason"] = asked.reason
    return Order(
        "switch",
        "switch",
        parameters,
        asked.priority,
        asked.trigger,
        asked.created_by,
        asked.request_id,
        rules.EMERGENCY_EXPIRES_IN if emergency else rules.EXPIRES_IN,
    )


def wait_seconds(agent: Locked, asked: Asked) -> int:
    """How long the old instance stays before the agent ends it; 0 when it must not end it."""
    consent = agent.config.auto_terminate_enabled
    if asked.auto_terminate is not None:
        consent = asked.auto_terminate
    if asked.trigger == "EMERGENCY" or not consent:
        return 0
    return agent.config.terminate_wait_seconds


async def _announce(
    conn: Conn, agent: Locked, primary: Instance, command: Command, now: datetime
) -> None:
    kinds = ["switch.queued"]
    if command.trigger == "MANUAL":
        kinds.insert(0, "manual_switch.requested")
    data = {
        "agent_id": str(agent.id),
        "agent_name": agent.logical_agent_id,
        "instance_id": primary.id,
        "command_id": str(command.id),
        "trigger": command.trigger,
        "priority": command.priority,
        "created_by": command.created_by,
        "target_mode": command.parameters["target_mode"],
        "target_pool_id": command.parameters["target_pool_id"],
        "reason": command.parameters.get("reason"),
    }
    for kind in kinds:
        await events.append(conn, events.Event(kind, str(agent.id), data, agent.tenant_id), now)
