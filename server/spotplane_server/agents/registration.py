"""Registration: which agent an instance belongs to, and what it is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID, uuid4

from spotplane_server import events
from spotplane_server.agents import commands_queries, moves, sessions_store, store
from spotplane_server.agents.errors import InstanceTaken
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Machine
from spotplane_server.kernel import auth, secrets
from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.db import Conn

# Binds an instance to the replica that it was launched for; False when that one is past binding.
BindReplica: TypeAlias = Callable[[Conn, TenantId, UUID, UUID, str, datetime], Awaitable[bool]]

# While one of these is open, an unknown instance is likely its outcome, not a move.
LAUNCHING: Final = ("switch", "create_replica")


@dataclass(frozen=True, slots=True)
class Registration:
    """What an instance says when it registers."""

    logical_agent_id: str
    machine: Machine
    agent_version: str | None
    replica_id: UUID | None
    issue_token: bool


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of it."""

    agent_id: UUID
    moved: bool
    message: str | None
    token: str | None


async def register(
    conn: Conn,
    tenant_id: TenantId,
    wanted: Registration,
    *,
    bind_replica: BindReplica,
    offline_after: timedelta,
    now: datetime,
) -> Registered:
    """Make an instance known, in one transaction.

    Raises:
        InstanceTaken: It belongs to another agent.
    """
    machine = wanted.machine
    agent_id, new = await store.lock_or_insert(
        conn,
        tenant_id,
        uuid4(),
        wanted.logical_agent_id,
        hostname=machine.hostname,
        version=wanted.agent_version,
        now=now,
    )
    known = await instances.find(conn, tenant_id, machine.id)
    if known is not None and known.agent_id != agent_id:
        if not await instances.adopt(conn, tenant_id, machine.id, agent_id, now):
            raise InstanceTaken("the instance belongs to another agent")
        known = None
    if known is None:
        moved, message = await _place(conn, tenant_id, agent_id, wanted, bind_replica, now)
    else:
        moved, message = await _again(conn, tenant_id, agent_id, known, offline_after, now)
        await instances.refresh(conn, tenant_id, machine, now)
    await sessions_store.touch(conn, tenant_id, machine.id, agent_id, now)
    if moved:
        await store.touch(
            conn,
            tenant_id,
            agent_id,
            hostname=machine.hostname,
            version=wanted.agent_version,
            now=now,
        )
    token = await _issue_token(conn, tenant_id, agent_id) if wanted.issue_token else None
    if new:
        await _announce(conn, tenant_id, agent_id, wanted, now)
    return Registered(agent_id, moved, message, token)


async def _place(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    wanted: Registration,
    bind_replica: BindReplica,
    now: datetime,
) -> tuple[bool, str | None]:
    machine = wanted.machine
    await instances.insert(conn, tenant_id, agent_id, machine, "launching", now)
    if wanted.replica_id is not None:
        if await bind_replica(conn, tenant_id, agent_id, wanted.replica_id, machine.id, now):
            return False, "bound to its replica"
        await instances.move(conn, tenant_id, machine.id, frm=("launching",), to="zombie", now=now)
        return False, "its replica is not wanted any more"
    if await commands_queries.has_open(conn, tenant_id, agent_id, LAUNCHING):
        return False, "recorded as a candidate: a launch is under way"
    await moves.move_primary(conn, tenant_id, agent_id, machine.id, cause="registration", now=now)
    return True, None


async def _again(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    known: instances.Instance,
    offline_after: timedelta,
    now: datetime,
) -> tuple[bool, str | None]:
    if known.status == "running_primary":
        await store.set_status(conn, tenant_id, agent_id, "online", now)
        return True, None
    if known.status == "launching" and not await commands_queries.has_open(
        conn, tenant_id, agent_id, LAUNCHING
    ):
        silent = await sessions_store.primary_silent(
            conn, tenant_id, agent_id, since=now - offline_after
        )
        if silent:
            await moves.move_primary(
                conn, tenant_id, agent_id, known.id, cause="registration", now=now
            )
            return True, None
    return False, f"known as {known.status}; nothing was changed"


async def _issue_token(conn: Conn, tenant_id: TenantId, agent_id: UUID) -> str:
    issued = secrets.issue(secrets.AGENT_LABEL)
    if await store.set_token(conn, tenant_id, agent_id, issued.hash):
        await auth.bump_epoch(conn)
    return issued.secret


async def _announce(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, wanted: Registration, now: datetime
) -> None:
    await events.append(
        conn,
        events.Event(
            "agent.registered",
            str(agent_id),
            {
                "agent_id": str(agent_id),
                "logical_agent_id": wanted.logical_agent_id,
                "instance_id": wanted.machine.id,
            },
            tenant_id,
        ),
        now,
    )
