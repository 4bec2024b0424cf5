"""What agents removed of their images and snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from spotplane.v1 import fleet_pb2 as pb

from spotplane_server import events
from spotplane_server.agents.queries import AgentView
from spotplane_server.fleet import rules
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

INSERT_CLEANUP: Final = """
    INSERT INTO cleanup_reports (tenant_id, id, agent_id, reported_at, deleted_snapshots,
                                 deleted_images, failed, details, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (tenant_id, agent_id, reported_at) DO NOTHING
"""

MAX_DETAILS: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What a report comes to."""

    reported_at: datetime
    deleted_snapshots: int
    deleted_images: int
    failed: int
    details: dict[str, Any]


def read(request: pb.ReportCleanupRequest, now: datetime) -> Cleanup:
    """Count what was removed, by lists where there are any and by numbers otherwise.

    Raises:
        Invalid: A negative number, or too much of it all.
    """
    snapshots, images = request.snapshots, request.amis
    failed = (
        len(snapshots.failed.values)
        + len(images.failed.values)
        + len(request.errors.values)
        + bool(snapshots.error)
        + bool(images.error)
    )
    details: dict[str, Any] = {
        name: wire.plain(getattr(request, name), name)
        for name in ("snapshots", "amis", "errors")
        if request.HasField(name)
    }
    if request.ByteSize() > MAX_DETAILS:
        raise wire.out_of_range("snapshots", f"at most {MAX_DETAILS} bytes with all the rest")
    told = rules.believable(
        wire.from_timestamp(request.timestamp) if request.HasField("timestamp") else None, now
    )
    return Cleanup(
        told or now,
        len(snapshots.deleted.values)
        + len(images.deleted_snapshots.values)
        + (wire.optional_integer(request, "snapshots_deleted", 0, 10**6) or 0),
        len(images.deleted_amis.values)
        + (wire.optional_integer(request, "amis_deleted", 0, 10**6) or 0),
        failed,
        details,
    )


async def insert(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, cleanup: Cleanup, now: datetime
) -> bool:
    """Keep a report; False when it was kept before."""
    done = await conn.execute(
        INSERT_CLEANUP,
        tenant_id,
        uuid4(),
        agent_id,
        cleanup.reported_at,
        cleanup.deleted_snapshots,
        cleanup.deleted_images,
        cleanup.failed,
        cleanup.details,
        now,
    )
    return bool(done == "INSERT 0 1")


def event(agent: AgentView, cleanup: Cleanup) -> events.Event:
    """What an agent removed."""
    return events.Event(
        "cleanup.completed",
        str(agent.id),
        {
            "agent_id": str(agent.id),
            "agent_name": agent.logical_agent_id,
            "instance_id": agent.instance_id,
            "deleted_snapshots": cleanup.deleted_snapshots,
            "deleted_amis": cleanup.deleted_images,
            "failed_count": cleanup.failed,
            "severity": "warning" if cleanup.failed else "info",
        },
        agent.tenant_id,
    )
