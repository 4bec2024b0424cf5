"""What replicas tell the world: events in the transaction of their cause."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from spotplane_server import events
from spotplane_server.instances.store import Instance
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.replicas.store import Replica


async def announce(
    conn: Conn, kind: str, replica: Replica, now: datetime, **more: str | None
) -> None:
    """Say what became of a replica."""
    data = {
        "agent_id": str(replica.agent_id),
        "replica_id": str(replica.id),
        "instance_id": replica.instance_id,
        "pool_id": replica.pool_id,
        "replica_type": replica.type,
        "created_by": replica.created_by,
        "hourly_cost_nanousd": replica.hourly_cost_nanousd,
        **more,
    }
    event = events.Event(kind, str(replica.agent_id), data, replica.tenant_id)
    await events.append(conn, event, now)


async def warn_of_extra(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, instance_id: str, now: datetime
) -> None:
    """Say that an agent has launched an instance that nobody needs; it is kept as a zombie."""
    data = {
        "agent_id": str(agent_id),
        "instance_id": instance_id,
        "severity": "warning",
        "message": "an instance was launched that no replica needs; it may still run",
    }
    await events.append(conn, events.Event("instance.extra", str(agent_id), data, tenant_id), now)


async def tell_gone(
    conn: Conn, instance: Instance, now: datetime, reason: str | None = None
) -> None:
    """Say that an instance has ended; with a reason when nobody had asked for that."""
    data = {
        "agent_id": str(instance.agent_id),
        "instance_id": instance.id,
        "instance_type": instance.instance_type,
        "region": instance.region,
        "az": instance.az,
        "pool_id": instance.pool_id,
        "severity": "warning" if reason else "info",
        "reason": reason,
    }
    event = events.Event("instance.terminated", str(instance.agent_id), data, instance.tenant_id)
    await events.append(conn, event, now)
