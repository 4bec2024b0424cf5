"""Nodes as messages."""

from __future__ import annotations

from datetime import datetime

from spotplane.v1 import node_pb2 as pb

from spotplane_server.kernel.api import wire
from spotplane_server.nodes import rules
from spotplane_server.nodes.queries import Listed


def node(row: Listed, now: datetime) -> pb.Node:
    """Say a node."""
    return pb.Node(
        id=str(row.id),
        provider=row.provider,
        status=row.status,
        endpoint_url=row.endpoint_url,
        health_score=_score(row, now),
        last_heartbeat_at=wire.timestamp(row.last_heartbeat_at),
        cluster_name=row.cluster_name,
        instance_type=row.instance_type,
        region=row.region,
        model=row.model,
        created_at=wire.timestamp(row.created_at),
        kind=row.kind,
        tenant_id=None if row.tenant_id is None else str(row.tenant_id),
        internal_ip=row.internal_ip,
        gpu_type=row.gpu_type,
        vram_total_gb=wire.price(row.vram_total_gb),
        spot_instance=row.spot_instance,
        spot_price=wire.price(row.spot_price),
        termination_deadline=wire.timestamp(row.termination_at),
        launched_at=wire.timestamp(row.launched_at),
        active_at=wire.timestamp(row.active_at),
        terminated_at=wire.timestamp(row.terminated_at),
        status_message=row.status_message,
    )


def _score(row: Listed, now: datetime) -> float:
    if row.kind == "node":
        return float(row.health_score)
    heard = row.last_heartbeat_at is not None and now - row.last_heartbeat_at <= rules.SUSPECT_AFTER
    return 100.0 if heard and row.status != "dead" else 0.0
