"""Registration: which agent an instance belongs to, and what it is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID, uuid4

from spotplane_server import events
from spotplane_server.agents import primary, quotas, store
from spotplane_server.agents.commands import pending_launches
from spotplane_server.agents.errors import InstanceTaken
from spotplane_server.agents.polling import commands
from spotplane_server.agents.sessions import store as store_module
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Machine, Said
from spotplane_server.kernel.api import tenant_scope
from spotplane_server.kernel.auth import authenticator, secrets
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# Binds an instance to the replica that it was launched for; False when that one is past binding.
BindReplica: TypeAlias = Callable[[Conn, TenantId, UUID, UUID, str, datetime], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Registration:
    """What an instance says when it registers."""

    logical_agent_id: str
    machine: Machine
    agent_version: str | None
    replica_id: UUID | None
    issue_token: bool
    cloud_account: str | None = None
    project_id: str | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of it; ``serves`` when the instance is the agent's primary now."""

    agent_id: UUID
    serves: bool
    message: str | None
    token: str | None


@dataclass(frozen=True, slots=True)
class _Placed:
    serves: bool
    message: str | None = None
    displaced: str | None = None


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
        TenantNotFound: There is no such tenant, or it is deleted.
        InstanceTaken: It belongs to another agent.
        QuotaExceeded: It would be one too many.
    """
    machine = wanted.machine
    await tenant_scope.hold_tenant(conn, tenant_id)
    agent_id, new = await _agent(conn, tenant_id, wanted, now)
    known = await instances.find(conn, tenant_id, machine.id)
    if known is not None and known.agent_id != agent_id:
        if not await instances.adopt(conn, tenant_id, machine.id, agent_id, now):
            raise InstanceTaken("the instance belongs to another agent")
        known = None
    if known is None:
        placed = await _place(conn, tenant_id, agent_id, wanted, bind_replica, now)
    else:
        placed = await _again(conn, tenant_id, agent_id, known, offline_after, now)
    await store_module.touch(conn, tenant_id, machine.id, agent_id, now)
    if placed.serves:
        await _take_down(conn, tenant_id, agent_id, wanted, now)
    elif known is not None:
        await _note_addresses(conn, tenant_id, machine, now)
    # A replica may have a credential of the agent's; who was retired must not take it away.
    entitled = placed.serves or known is None or known.status == "running_replica"
    token = None
    if wanted.issue_token and entitled:
        token = await _issue_token(conn, tenant_id, agent_id)
    if known is None:
        await _announce(conn, tenant_id, agent_id, wanted, placed, now, new=new)
    return Registered(agent_id, placed.serves, placed.message, token)


async def _agent(
    conn: Conn, tenant_id: TenantId, wanted: Registration, now: datetime
) -> tuple[UUID, bool]:
    # An instance without a name for its agent that another agent launched is that one's, whatever
    # it is there: in an order of events in which it is not yet known it makes an agent of its own,
    # which then takes the other's place (`succession`).
    if wanted.logical_agent_id == wanted.machine.id:
        owner = await store.find_owner(conn, tenant_id, wanted.machine.id)
        if owner is not None and await store.lock(conn, owner) is not None:
            return owner, False
    if not await store.exists(conn, tenant_id, wanted.logical_agent_id):
        await quotas.admit(conn, tenant_id)
    return await store.lock_or_insert(
        conn,
        tenant_id,
        uuid4(),
        wanted.logical_agent_id,
        hostname=wanted.machine.hostname,
        version=wanted.agent_version,
        now=now,
    )


async def _place(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    wanted: Registration,
    bind_replica: BindReplica,
    now: datetime,
) -> _Placed:
    machine = wanted.machine
    await instances.insert(conn, tenant_id, agent_id, machine, "launching", now)
    if wanted.replica_id is not None:
        if await bind_replica(conn, tenant_id, agent_id, wanted.replica_id, machine.id, now):
            return _Placed(False, "bound to its replica")
        await instances.move(conn, tenant_id, machine.id, frm=("launching",), to="zombie", now=now)
        return _Placed(False, "its replica is not wanted any more")
    if await pending_launches.launches(conn, tenant_id, agent_id):
        return _Placed(False, "recorded as a candidate: a launch is under way")
    displaced = await primary.move_primary(
        conn, tenant_id, agent_id, machine.id, cause="registration", now=now
    )
    return _Placed(True, displaced=displaced)


async def _again(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    known: instances.Instance,
    offline_after: timedelta,
    now: datetime,
) -> _Placed:
    if known.status == "running_primary":
        await store.set_status(conn, tenant_id, agent_id, "online", now)
        await commands.return_emergencies(conn, tenant_id, known.id, now)
        return _Placed(True)
    if known.status == "launching" and await pending_launches.may_serve(
        conn, tenant_id, agent_id, silent_since=now - offline_after
    ):
        displaced = await primary.move_primary(
            conn, tenant_id, agent_id, known.id, cause="registration", now=now
        )
        return _Placed(True, displaced=displaced)
    return _Placed(False, f"known as {known.status}; nothing was changed")


async def _take_down(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, wanted: Registration, now: datetime
) -> None:
    machine = wanted.machine
    said = Said(
        machine.id,
        machine.instance_type,
        machine.az,
        None if machine.mode == "unknown" else machine.mode,
        machine.pool_id,
        machine.hostname,
        machine.private_ip,
        machine.public_ip,
    )
    await instances.refresh(conn, tenant_id, said, now)
    named = store.Named(
        machine.hostname, wanted.agent_version, wanted.cloud_account, wanted.project_id
    )
    await store.touch(conn, tenant_id, agent_id, said=named, now=now)


async def _note_addresses(conn: Conn, tenant_id: TenantId, machine: Machine, now: datetime) -> None:
    # Polls that do not name their instance are told from the primary's by where they come from.
    said = Said(machine.id, None, None, None, None, None, machine.private_ip, machine.public_ip)
    await instances.refresh(conn, tenant_id, said, now)


async def _issue_token(conn: Conn, tenant_id: TenantId, agent_id: UUID) -> str:
    issued = secrets.issue(secrets.AGENT_LABEL)
    if await store.set_token(conn, tenant_id, agent_id, issued.hash):
        await authenticator.bump_epoch(conn)
    return issued.secret


async def _announce(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    wanted: Registration,
    placed: _Placed,
    now: datetime,
    *,
    new: bool,
) -> None:
    machine = wanted.machine
    data: dict[str, Any] = {
        "agent_id": str(agent_id),
        "agent_name": wanted.logical_agent_id,
        "logical_agent_id": wanted.logical_agent_id,
        "instance_id": machine.id,
        "instance_type": machine.instance_type,
        "region": machine.region,
        "az": machine.az,
        "mode": machine.mode,
    }
    about = str(agent_id)
    if new or placed.serves:
        # A displaced primary may be a second process under the same name: a warning.
        told = data | {"new": new, "displaced_instance_id": placed.displaced}
        await events.append(conn, events.Event("agent.registered", about, told, tenant_id), now)
    told = data | {"is_primary": placed.serves, "message": placed.message}
    await events.append(conn, events.Event("instance.registered", about, told, tenant_id), now)
