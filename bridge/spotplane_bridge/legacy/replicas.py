"""Routes of replicas: polls and reports of agents, reads of dashboards (contract, 4.5)."""

from __future__ import annotations

from typing import Any, Final

from spotplane_bridge.legacy.requests import parameter
from spotplane_bridge.legacy.response_shapes import (
    Array,
    Shape,
    const,
    default,
    each,
    made,
    nested,
    number,
    optional,
    usd,
)
from spotplane_bridge.legacy.routes import call, route

_INSTANCE: Final = parameter("instance_id", max_length=128)


def _pool(prefix: str = "") -> Shape:
    return Shape(
        id=f"{prefix}pool_id",
        name=made(_pool_name, type="string"),
        instance_type=f"{prefix}instance_type",
        region=f"{prefix}region",
        az=f"{prefix}az",
    )


def _pool_name(replica: Any) -> str:
    return f"{replica.instance_type} ({replica.az})"


_COST: Final = Shape(
    hourly=usd("price_nanousd_per_hour", absent=None), total=usd("cost_nanousd", absent=0)
)
_TAGS: Final = default("tags", {})

REPLICA: Final = Shape(
    id="id",
    instance_id="instance_id",
    type="type",
    status="status",
    sync_status="sync_status",
    sync_latency_ms="sync_latency_ms",
    state_transfer_progress=number("sync_progress", decimals=2),
    pool_id="pool_id",
    az="az",
    pool=_pool(),
    cost=_COST,
    created_by="created_by",
    created_at="created_at",
    ready_at="ready_at",
    terminated_at="terminated_at",
    termination_confirmed="termination_confirmed",
    age_seconds="age_seconds",
    is_active="is_active",
    tags=_TAGS,
)

TENANTS: Final = Shape(
    agentId="agent_id",
    primary=Shape(
        instanceId="primary_instance_id",
        instanceType="primary_instance_type",
        region="primary_region",
        az="primary_az",
        mode="primary_mode",
    ),
    replica=nested(
        "replica",
        Shape(
            id="id",
            instanceId="instance_id",
            type="type",
            status="status",
            sync_status="sync_status",
            sync_latency_ms="sync_latency_ms",
            state_transfer_progress=number("sync_progress", decimals=2),
            pool=_pool(),
            cost=_COST,
            created_by="created_by",
            created_at="created_at",
            ready_at="ready_at",
            terminated_at="terminated_at",
            is_active="is_active",
        ),
        always=True,
    ),
)

CREATED: Final = Shape(
    success=True,
    replica_id="id",
    instance_id="instance_id",
    pool=_pool(),
    hourly_cost=number("hourly_cost_usd", decimals=6),
    status="status",
    message=made(lambda r: f"replica is {r.status}", type="string"),
)
STATE: Final = Shape(success=True, replica_id="id", instance_id="instance_id", status="status")

_AT: Final = "/api/agents/{agent_id}/replicas"
_ONE: Final = _AT + "/{replica_id}"
_STATUS_REPORT: Final = (
    "status",
    "sync_started_at",
    "sync_completed_at",
    parameter("error_message", max_length=2000),
)

ROUTES: Final = (
    route(
        "31",
        "GET /api/client/{client_id}/replicas",
        "ReplicaService.ListTenantReplicas",
        Array("replicas", TENANTS),
    ),
    route(
        "32",
        f"GET {_AT}",
        "ReplicaService.PollReplicas",
        Shape(replicas=each("replicas", REPLICA), total="total"),
        query=("status", "include_terminated"),
    ),
    route(
        "33",
        "GET /api/agents/{agent_id}/replica-config",
        "ReplicaService.GetReplicaConfig",
        Shape(
            enabled="enabled",
            count="count",
            manual_replica_enabled="manual_replica_enabled",
            preferred_replica_pools="preferred_replica_pools",
            min_sync_percentage="min_sync_percentage",
        ),
    ),
    route(
        "34",
        f"POST {_AT}",
        "ReplicaService.CreateReplica",
        CREATED,
        status=201,
        body=(
            parameter("pool_id", "target_pool_id", max_length=128),
            "exclude_zones",
            "max_hourly_cost",
            "tags",
            parameter("created_by", max_length=64),
        ),
        # Users create replicas in manual mode only.
        fill=lambda _request, message: setattr(message, "require_manual_mode", True),
        errors={"REPLICA_LIMIT": {"current_count": int, "max_allowed": int}},
        instead=(
            call(
                "ReplicaService.RegisterReplicaInstance",
                CREATED,
                when=lambda request: bool(request.body.get("instance_id")),
                status=201,
                body=(
                    _INSTANCE,
                    "replica_type",
                    parameter("parent_instance_id", max_length=128),
                    parameter("pool_id", "target_pool_id", max_length=128),
                    "status",
                    "tags",
                ),
                errors={"REPLICA_LIMIT": {"current_count": int, "max_allowed": int}},
            ),
        ),
    ),
    route(
        "35",
        f"POST {_ONE}/promote",
        "ReplicaService.PromoteReplica",
        Shape(
            success=True,
            message=made(lambda r: f"{r.instance_id} is the primary now", type="string"),
            new_instance_id="instance_id",
            old_instance_id="replaced_instance_id",
            demoted="demoted",
            switch_time="promoted_at",
            new_replica_id=optional("successor_id"),
        ),
        body=(
            "demote_old_primary",
            "wait_for_sync",
            "auto_terminate_old_primary",
            "create_new_replica",
        ),
    ),
    route(
        "36",
        f"DELETE {_ONE}",
        "ReplicaService.DeleteReplica",
        Shape(
            success=True,
            message=const("the replica is marked terminated"),
            replica_id="id",
            terminated_at="terminated_at",
            new_replica_id=optional("successor_id"),
        ),
    ),
    route(
        "37",
        f"PUT {_ONE}",
        "ReplicaService.BindReplicaInstance",
        STATE,
        body=(_INSTANCE, "status"),
    ),
    route(
        "38",
        f"POST {_ONE}/status",
        "ReplicaService.ReportReplicaStatus",
        Shape(success=True, replica_id="id", status="status"),
        body=_STATUS_REPORT,
    ),
    route(
        "39",
        f"POST {_ONE}/sync-status",
        "ReplicaService.ReportReplicaSync",
        Shape(
            success=True,
            message=made(lambda r: f"replica is {r.status}", type="string"),
        ),
        body=("sync_status", "sync_latency_ms", "state_transfer_progress", "status"),
    ),
    route("X9", f"GET {_ONE}", "ReplicaService.GetReplica", REPLICA),
)
