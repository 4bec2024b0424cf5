"""Opening failovers: which instance a signal means, and whether it says anything new."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server import audit, events
from spotplane_server.agents import access
from spotplane_server.agents import errors as agent_errors
from spotplane_server.agents.store import Locked
from spotplane_server.events import Event
from spotplane_server.failover import rules, store
from spotplane_server.failover.rules import Kind
from spotplane_server.failover.store import ANYWHERE, Opened, Wanted
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance
from spotplane_server.kernel import request_context
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.prices import store as market

# What a cloud gives when it names no deadline (AWS: two minutes).
DEFAULT_NOTICE: Final = timedelta(seconds=120)

# Signals of the cloud: they count as interruptions and override every setting.
_EVENTS: Final[dict[str, str]] = {
    "rebalance": "rebalance.recommendation",
    "termination": "termination.notice",
}


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that says that an instance goes.

    Attributes:
        tenant_id: Whose agent it is.
        agent_id: The agent.
        instance_id: The instance that goes; None, or one that is not the agent's, means the
            primary: a wrong id must not stop a rescue.
        kind: What is known of its going.
        deadline: When it goes; default in 120 seconds for a termination.
        by_agent: Whether the agent itself speaks, so that somebody is there to launch.
        wanted: What is asked of the replacement's place.
    """

    tenant_id: TenantId
    agent_id: UUID
    instance_id: str | None
    kind: Kind
    deadline: datetime | None = None
    by_agent: bool = False
    wanted: Wanted = ANYWHERE


async def take(conn: Conn, signal: Signal, now: datetime) -> tuple[UUID, bool]:
    """Open or join a failover, in a transaction of its own.

    Returns:
        Its id, and whether it is open; a repeat answers the closed one that it had opened before.

    Raises:
        AgentNotFound: There is none. AgentOffline: No instance serves or ever did.
    """
    agent = await access.lock(conn, signal.agent_id)
    instance = await _named(conn, signal)
    if instance is None:
        repeat = await store.find_repeat(
            conn, agent.tenant_id, agent.id, signal.kind, signal.deadline, now
        )
        if repeat is not None:
            return repeat, False
        instance = await _serving(conn, agent)
    closed = await store.find_closed(conn, instance, signal.kind, signal.deadline, now)
    if closed is not None:
        return closed, False
    opened = await _join(conn, agent, instance, signal, now)
    return opened.id, True


async def _join(
    conn: Conn, agent: Locked, instance: Instance, signal: Signal, now: datetime
) -> Opened:
    deadline = signal.deadline
    if signal.kind == "termination" and deadline is None:
        deadline = now + DEFAULT_NOTICE
    emergency = signal.kind in _EVENTS and instance.status == "running_primary"
    known = await store.find_open(conn, agent.tenant_id, instance.id)
    opened = await store.open_failover(
        conn,
        instance,
        signal.kind,
        deadline=deadline,
        bypassed=rules.bypassed(agent.config) if emergency else (),
        wanted=signal.wanted,
        now=now,
    )
    if known is not None and opened.kind == known.kind:
        return opened
    step = "detected" if known is None else "upgraded"
    await store.add_step(conn, agent.tenant_id, opened.id, step, signal.kind, now)
    if instance.pool_id and signal.kind in _EVENTS:
        await market.record_interruption(conn, instance.pool_id, instance.id, now)
    told = _told(agent, instance, signal, opened, deadline, fresh=known is None)
    if emergency and known is None:
        bypassed = list(rules.bypassed(agent.config))
        told.append(_event(agent, instance, opened, "emergency.bypass", bypassed=bypassed))
        change = audit.Change(
            "emergency_bypass",
            "agent",
            str(agent.id),
            agent.tenant_id,
            after={"failover_id": str(opened.id), "kind": signal.kind, "bypassed": bypassed},
        )
        await audit.record(conn, request_context.current(), change, now)
    await events.append_many(conn, told, now)
    return opened


async def _named(conn: Conn, signal: Signal) -> Instance | None:
    if not signal.instance_id:
        return None
    named = await instances.find(conn, signal.tenant_id, signal.instance_id)
    return named if named is not None and named.agent_id == signal.agent_id else None


async def _serving(conn: Conn, agent: Locked) -> Instance:
    primary = await instances.find_primary(conn, agent.tenant_id, agent.id)
    if primary is not None:
        return primary
    last = await store.find_last_served(conn, agent.tenant_id, agent.id)
    instance = await instances.find(conn, agent.tenant_id, last) if last else None
    if instance is None:
        raise agent_errors.AgentOffline("no instance serves this agent at present")
    return instance


def _told(
    agent: Locked,
    instance: Instance,
    signal: Signal,
    opened: Opened,
    deadline: datetime | None,
    *,
    fresh: bool,
) -> list[Event]:
    told = []
    if fresh:
        told.append(_event(agent, instance, opened, "failover.detected", kind=signal.kind))
    if signal.kind in _EVENTS:
        when = deadline.isoformat() if deadline else None
        told.append(_event(agent, instance, opened, _EVENTS[signal.kind], deadline=when))
    return told


def _event(agent: Locked, instance: Instance, opened: Opened, name: str, **more: object) -> Event:
    data = {
        "failover_id": str(opened.id),
        "agent_id": str(agent.id),
        "agent_name": agent.logical_agent_id,
        "instance_id": instance.id,
        "pool_id": instance.pool_id,
        "severity": "warning",
        **more,
    }
    return Event(name, str(agent.id), data, agent.tenant_id)
