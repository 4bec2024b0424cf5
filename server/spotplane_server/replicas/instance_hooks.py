"""What others learn of an instance, said to the replica that it is."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.replicas import rules, store
from spotplane_server.replicas.binding import Binding
from spotplane_server.replicas.events import announce

BY_PLACEHOLDER: Final = """
    SELECT id
      FROM replicas
     WHERE tenant_id = $1 AND agent_id = $2 AND NOT bound AND instance_id = $3
"""


async def serves(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, instance_id: str, now: datetime
) -> None:
    """A switch has led to the instance: if it stood by, it is promoted."""
    replica = await store.find_by_instance(conn, tenant_id, agent_id, instance_id)
    if replica is not None:
        await store.move(
            conn, tenant_id, agent_id, replica.id, frm=rules.LIVE, to="promoted", now=now
        )


async def launched(
    binding: Binding,
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    placeholder: str | None,
    replica_id: UUID | None,
    instance_id: str,
    now: datetime,
) -> str | None:
    """A launch was confirmed: bind the replica that it was for, which is ready then.

    Returns:
        The replica's state, None when no replica was meant.

    Raises:
        InstanceTaken: The instance is another agent's, or has another part already.
    """
    if replica_id is None and placeholder:
        replica_id = await conn.fetchval(BY_PLACEHOLDER, tenant_id, agent_id, placeholder)
    known = await store.find_by_instance(conn, tenant_id, agent_id, instance_id)
    if known is not None:
        replica_id = known.id
    if replica_id is None or await store.find(conn, tenant_id, agent_id, replica_id) is None:
        return None
    outcome = await binding.take(conn, tenant_id, agent_id, replica_id, instance_id, now)
    if outcome == "extra":
        return "zombie"  # the instance; the replica is another one's
    if outcome == "bound" and await store.move(
        conn, tenant_id, agent_id, replica_id, frm=("launching", "syncing"), to="ready", now=now
    ):
        ready = await store.find(conn, tenant_id, agent_id, replica_id)
        if ready is not None:
            await announce(conn, "replica.ready", ready, now)
    found = await store.find(conn, tenant_id, agent_id, replica_id)
    return found.status if found else None
