"""Ending instances: what an agent is told to end, and what it says came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server import events
from spotplane_server.agents import access
from spotplane_server.agents import store as agents
from spotplane_server.agents.errors import InstanceNotFound
from spotplane_server.agents.store import Locked
from spotplane_server.fleet import termination_queries as store
from spotplane_server.fleet.hooks import Standby
from spotplane_server.fleet.termination_queries import Doomed
from spotplane_server.instances import store as instances
from spotplane_server.instances import termination_store
from spotplane_server.instances.rules import Status
from spotplane_server.instances.store import Instance
from spotplane_server.kernel.db.database import Conn

# Everything but what serves: losing that is a failover, not an end.
ENDABLE: Final[tuple[Status, ...]] = (
    "launching",
    "running_replica",
    "promoting",
    "zombie",
    "terminating",
)


@dataclass(frozen=True, slots=True)
class EndReport:
    """What an agent says of ending an instance."""

    instance_id: str
    success: bool
    error: str | None


@dataclass(frozen=True, slots=True)
class Ends:
    """What an agent is to end, and by which settings of its own."""

    doomed: Sequence[Doomed]
    auto_terminate_enabled: bool
    terminate_wait_seconds: int


async def list_doomed(conn: Conn, agent_id: UUID, *, acting: bool, now: datetime) -> Ends:
    """What an agent is to end now.

    Args:
        conn: In a transaction.
        agent_id: The agent, which may have been deleted within a day with replicas left to end.
        acting: Whether who asks is going to end them; a mere look changes nothing.
        now: When.

    Raises:
        AgentNotFound: There is none in the connection's scope.
    """
    view = await access.get_even_deleted(conn, agent_id, now)
    if acting:
        await agents.lock_any(conn, view.tenant_id, agent_id)
    doomed = await store.list_doomed(conn, view.tenant_id, agent_id, now)
    if acting and doomed:
        await termination_store.ask(conn, view.tenant_id, [d.instance_id for d in doomed], now)
    # Agents ignore the list otherwise, and each of its items has somebody's consent.
    act = view.auto_terminate_enabled or bool(doomed)
    return Ends(doomed, act, view.terminate_wait_seconds)


async def take(
    conn: Conn, agent_id: UUID, report: EndReport, standby: Standby, now: datetime
) -> Instance:
    """Take what came of ending an instance; a repeat changes nothing.

    Returns:
        The instance as it was before.

    Raises:
        AgentNotFound: There is none in the connection's scope.
        InstanceNotFound: The instance is not the agent's.
    """
    agent = await access.lock_even_deleted(conn, agent_id, now)
    found = await instances.find(conn, agent.tenant_id, report.instance_id)
    if found is None or found.agent_id != agent_id:
        raise InstanceNotFound
    if not report.success:
        await termination_store.ask(conn, agent.tenant_id, [found.id], now)
        await events.append(conn, _not_ended(found, agent, report.error), now)
        return found
    if await instances.move(conn, agent.tenant_id, found.id, frm=ENDABLE, to="terminated", now=now):
        await standby.agents.confirm_gone(conn, agent.tenant_id, agent_id, found.id, now)
        await agents.raise_generation(conn, agent.tenant_id, agent_id, now=now)
        await events.append(conn, event(found, agent.logical_agent_id), now)
    return found


def event(instance: Instance, name: str | None, *, consent: bool = True) -> events.Event:
    """An instance has ended; with a reason to warn when nobody had agreed to that."""
    return events.Event(
        "instance.terminated",
        str(instance.agent_id),
        {
            "agent_id": str(instance.agent_id),
            "agent_name": name,
            "instance_id": instance.id,
            "instance_type": instance.instance_type,
            "region": instance.region,
            "az": instance.az,
            "pool_id": instance.pool_id,
            "severity": "info" if consent else "warning",
            "reason": None if consent else "its agent ended it, though nobody had agreed to that",
        },
        instance.tenant_id,
    )


def _not_ended(instance: Instance, agent: Locked, error: str | None) -> events.Event:
    return events.Event(
        "instance.termination_failed",
        str(agent.id),
        {
            "agent_id": str(agent.id),
            "agent_name": agent.logical_agent_id,
            "instance_id": instance.id,
            "instance_type": instance.instance_type,
            "az": instance.az,
            "severity": "warning",
            "message": f"It could not be ended: {error}" if error else "It could not be ended",
            "reason": error,
        },
        agent.tenant_id,
    )
