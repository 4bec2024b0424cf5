"""Replicas as messages, and requests as values."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from spotplane.v1 import replica_pb2 as pb

from spotplane_server import audit
from spotplane_server.kernel.api import wire
from spotplane_server.replicas import rules
from spotplane_server.replicas.placement import Wish
from spotplane_server.replicas.queries import TenantView, View
from spotplane_server.replicas.reports import Progress
from spotplane_server.replicas.store import Replica

NANO: Final = Decimal(10**9)
MAX_TAGS_BYTES: Final = 4 * 1024
TYPES: Final = ("manual", "automatic-rebalance", "automatic-termination")
SYNC_STATUSES: Final = ("initializing", "syncing", "synced", "out-of-sync")
# What an agent may say of an instance that it binds: it runs, or it is in step already.
BOUND_STATUSES: Final = ("launching", "syncing", "ready")


def wish(request: pb.CreateReplicaRequest, *, manual_mode: bool) -> Wish:
    """What a user asks of a replica's place.

    Raises:
        Invalid: A bad field.
    """
    most = None
    if request.HasField("max_hourly_cost"):
        most = int(wire.decimal(request.max_hourly_cost, "max_hourly_cost", digits=6) * NANO)
    return Wish(
        created_by=wire.optional_text(request, "created_by", maximum=64) or "user",
        pool_id=wire.optional_text(request, "pool_id", maximum=128) or None,
        exclude_zones=wire.texts(request, "exclude_zones", maximum=64),
        max_nanousd=most,
        for_manual_mode=manual_mode,
        tags=tags(request),
    )


def tags(request: Any) -> dict[str, Any]:
    """Free members kept with a replica.

    Raises:
        Invalid: Too many.
    """
    return wire.json_object(request, "tags", maximum=MAX_TAGS_BYTES) or {}


def progress(request: pb.ReportReplicaSyncRequest) -> Progress:
    """How far a transfer is.

    Raises:
        Invalid: A bad field.
    """
    percent = wire.optional(request, "state_transfer_progress")
    if percent is not None and not 0 <= percent <= 100:
        raise wire.out_of_range("state_transfer_progress", "between 0 and 100")
    return Progress(
        status=wire.optional_one_of(request, "sync_status", SYNC_STATUSES),
        latency_ms=wire.optional_integer(request, "sync_latency_ms", 0, 2**31 - 1),
        percent=percent,
    )


def transfer(request: pb.ReportReplicaStatusRequest) -> Progress:
    """When a transfer began and ended, where it was told.

    Raises:
        Invalid: A time beyond all years.
    """

    def told(field: str) -> datetime | None:
        given = request.HasField(field)  # type: ignore[arg-type]
        return wire.from_timestamp(getattr(request, field)) if given else None

    return Progress(started_at=told("sync_started_at"), completed_at=told("sync_completed_at"))


def change(action: str, replica: Replica | View, **more: Any) -> audit.Change:
    """The audit row of a change of a replica."""
    return audit.Change(
        action,
        "replica",
        str(replica.id),
        replica.tenant_id,
        after={"agent_id": str(replica.agent_id), "pool_id": replica.pool_id, **more},
    )


def tenant_replica(row: TenantView) -> pb.TenantReplica:
    """A live replica with its primary."""
    return pb.TenantReplica(
        agent_id=str(row.agent_id),
        primary_instance_id=row.primary_id or "",
        primary_instance_type=row.primary_type or "",
        primary_region=row.primary_region or "",
        primary_az=row.primary_az or "",
        primary_mode=row.primary_mode or "unknown",
        replica=replica(row),
    )


def replica(row: View) -> pb.Replica:
    """A replica."""
    planned = row.hourly_cost_nanousd
    message = pb.Replica(
        id=str(row.id),
        agent_id=str(row.agent_id),
        instance_id=row.instance_id,
        type=row.type,
        status=row.status,
        sync_status=row.sync_status,
        sync_progress=row.sync_progress,
        pool_id=row.pool_id,
        instance_type=row.instance_type,
        region=row.region,
        az=row.az,
        created_by=row.created_by,
        hourly_cost_usd=None if planned is None else float(Decimal(planned) / NANO),
        message=row.message,
        termination_confirmed=row.termination_confirmed,
        created_at=wire.timestamp(row.created_at),
        launched_at=wire.timestamp(row.launched_at),
        ready_at=wire.timestamp(row.ready_at),
        promoted_at=wire.timestamp(row.promoted_at),
        terminated_at=wire.timestamp(row.terminated_at),
        sync_latency_ms=row.sync_latency_ms,
        price_nanousd_per_hour=row.price_nanousd,
        cost_nanousd=row.cost_nanousd,
        replaced_instance_id=row.replaced_instance_id,
        demoted=row.demoted,
        successor_id=str(row.successor_id) if row.successor_id else None,
        age_seconds=row.age_seconds,
        is_active=row.status in rules.LIVE,
    )
    message.tags.update(row.tags)
    return message
