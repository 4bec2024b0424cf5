"""Moving an agent to another instance: one guarded change, whoever asks for it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server import events
from spotplane_server.agents import commands_store, store
from spotplane_server.agents.commands_store import Command
from spotplane_server.instances import store as instances
from spotplane_server.instances.rules import Status
from spotplane_server.kernel.calls import TenantId
from spotplane_server.kernel.db import Conn
from spotplane_server.kernel.errors import Conflict

# A machine needs this long to boot, so a new primary's silence counts only afterwards.
BOOT_GRACE: Final = timedelta(seconds=300)

_SUCCESSORS: Final[tuple[Status, ...]] = ("launching", "running_replica", "promoting")


async def move_primary(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, to: str, *, cause: str, now: datetime
) -> str | None:
    """Make ``to`` the agent's primary and its former primary a zombie.

    Call it in a transaction that holds the agent's row, and signal the agent's topic afterwards.

    Returns:
        The former primary, None when there was none.

    Raises:
        Conflict: ``to`` cannot become primary any more.
    """
    former = await instances.find_primary(conn, tenant_id, agent_id)
    if former is not None:
        await instances.move(
            conn, tenant_id, former.id, frm=("running_primary",), to="zombie", now=now
        )
        # What was meant for the old machine must not run on it any more.
        await commands_store.cancel(
            conn,
            tenant_id,
            agent_id,
            instance_id=former.id,
            statuses=("pending",),
            reason="the agent has moved",
            now=now,
        )
    if not await instances.move(
        conn, tenant_id, to, frm=_SUCCESSORS, to="running_primary", now=now
    ):
        raise Conflict("the instance cannot become primary any more")
    grace = BOOT_GRACE if cause != "registration" else None  # who registers has booted
    await store.raise_generation(conn, tenant_id, agent_id, now=now, grace=grace)
    await store.set_status(conn, tenant_id, agent_id, "online", now)
    old = former.id if former else None
    await events.append(
        conn,
        events.Event(
            "agent.moved",
            str(agent_id),
            {
                "agent_id": str(agent_id),
                "old_instance_id": old,
                "new_instance_id": to,
                "cause": cause,
            },
            tenant_id,
        ),
        now,
    )
    return old


async def on_switch(conn: Conn, command: Command, now: datetime) -> None:
    """What a finished switch means: the instance that the agent launched becomes primary."""
    instance_id = (command.result or {}).get("instance_id")
    if command.status != "completed" or not isinstance(instance_id, str):
        return
    await store.lock(conn, command.agent_id)
    instance = await instances.find(conn, command.tenant_id, instance_id)
    if (
        instance is not None
        and instance.agent_id == command.agent_id
        and instance.status == "launching"
    ):
        await move_primary(
            conn, command.tenant_id, command.agent_id, instance_id, cause="switch", now=now
        )
