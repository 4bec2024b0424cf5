"""Routes of emergencies: signals of agents, and their outcomes (contract, sections 4.6 and 11)."""

from __future__ import annotations

from typing import Any, Final

from spotplane_bridge.legacy.requests import Incoming, parameter
from spotplane_bridge.legacy.response_shapes import (
    Shape,
    const,
    each,
    made,
    nested,
    number,
    optional,
    usd,
)
from spotplane_bridge.legacy.routes import Call, call, route

_AT: Final = "/api/agents/{agent_id}"
_INSTANCE: Final = parameter("instance_id", "cloud_instance_id", max_length=128)
_TIME: Final = parameter("termination_time", "time", max_length=128)

_POOL: Final = Shape(
    id=optional("pool_id"),
    name=made(
        lambda m: f"{m.instance_type} ({m.az})" if m.pool_id else None, type=["string", "null"]
    ),
    az=optional("az"),
)

CREATED: Final = Shape(
    success=True,
    replica_id=optional("replica_id"),
    instance_id=optional("instance_id"),
    replica_instance_id=optional("instance_id"),
    # Always an object, however little is known about it.
    pool=_POOL,
    hourly_cost=usd("hourly_cost_nanousd"),
    message="message",
    urgency="urgency",
    existing="existing",
    action="action",
    command_id=optional("command_id"),
    error=optional("error"),
)

TERMINATION: Final = Shape(
    success="success",
    message="message",
    new_instance_id=optional("new_instance_id"),
    new_primary_id=optional("new_instance_id"),
    old_instance_id=optional("old_instance_id"),
    replica_id=optional("replica_id"),
    failover_time_ms="failover_time_ms",
    action="action",
)

REBALANCE: Final = Shape(
    success=True,
    action="action",
    risk_score=number("risk_score", decimals=4),
    reason="reason",
    target_mode=optional("target_mode"),
    target_pool_id=optional("target_pool_id"),
    target_pool_name=made(
        lambda m: _name_of(m.target_pool_id) if m.target_pool_id else None,
        type=["string", "null"],
    ),
    replica_id=optional("replica_id"),
    command_id=optional("command_id"),
)

# Additional members of the response to notices of the operations dashboard.
_ACKNOWLEDGED: Final = Shape(
    status=const("acknowledged"), emergency_replica_id=optional("replica_id")
)

EVENT: Final = Shape(
    id="id",
    client_id="tenant_id",
    agent_id="agent_id",
    instance_id="instance_id",
    signal_type="signal_type",
    detected_at="detected_at",
    status="status",
    response_action="response_action",
    replica_id=optional("replica_id"),
    new_instance_id=optional("new_instance_id"),
    response_time_ms="response_time_ms",
    bypassed="bypassed",
)


def _name_of(pool_id: str) -> str:
    instance_type, _, az = pool_id.rpartition(".")
    return f"{instance_type} ({az})"


def _immediate(request: Incoming) -> bool:
    return str(request.body.get("immediate")).lower() in {"true", "1"}


def termination(when: Any = None, shape: Shape = TERMINATION) -> Call:
    """Return the call of route 41, for routes that make it under a condition."""
    return call(
        "FailoverService.HandleTerminationNotice", shape, when=when, body=(_INSTANCE, _TIME)
    )


ROUTES: Final = (
    route(
        "40",
        f"POST {_AT}/create-emergency-replica",
        "FailoverService.CreateEmergencyReplica",
        CREATED,
        status=201,
        body=(
            "signal_type",
            _INSTANCE,
            _TIME,
            parameter("pool_id", max_length=128),
            "preferred_zones",
            "exclude_zones",
        ),
    ),
    route(
        "41",
        f"POST {_AT}/termination-imminent",
        "FailoverService.HandleTerminationNotice",
        TERMINATION,
        body=(_INSTANCE, _TIME),
    ),
    route(
        "42",
        f"POST {_AT}/rebalance-recommendation",
        "FailoverService.HandleRebalance",
        REBALANCE,
        body=(_INSTANCE,),
        instead=(termination(_immediate),),
    ),
    route(
        "75",
        f"GET {_AT}/emergency-status",
        "FailoverService.GetEmergencyStatus",
        Shape(
            agent_id="agent_id",
            emergency_mode_active="emergency_mode_active",
            rebalance_only_mode="rebalance_only_mode",
            ml_models_loaded="ml_models_loaded",
            decision_engine_active="decision_engine_active",
            last_emergency_event=nested(
                "last_event",
                Shape(
                    timestamp="detected_at",
                    type="signal_type",
                    action_taken="response_action",
                    outcome="status",
                ),
            ),
            emergency_replicas_count="emergency_replicas_count",
            termination_notices_24h="termination_notices_24h",
            notice_status="notice_status",
            notice_received_at="notice_received_at",
            notice_deadline="notice_deadline",
            emergency_replica=nested(
                "emergency_replica",
                Shape(
                    id="id",
                    status="status",
                    pool_id=optional("pool_id"),
                    sync_progress=number("sync_progress", decimals=2),
                ),
            ),
            actions=each(
                "actions",
                Shape(
                    description=made(
                        lambda m: f"{m.kind}: {m.detail}" if m.detail else m.kind, type="string"
                    ),
                    time="occurred_at",
                ),
            ),
        ),
    ),
    route(
        "X16",
        f"POST {_AT}/rebalance-notice",
        "FailoverService.HandleRebalance",
        Shape(REBALANCE, _ACKNOWLEDGED),
        body=(_INSTANCE,),
        instead=(termination(_immediate, Shape(TERMINATION, _ACKNOWLEDGED)),),
    ),
    route(
        "X17",
        f"POST {_AT}/termination-notice",
        "FailoverService.HandleTerminationNotice",
        Shape(TERMINATION, _ACKNOWLEDGED),
        body=(_INSTANCE, _TIME),
    ),
    route(
        "X25",
        "GET /api/admin/emergency-events",
        "FailoverService.ListEmergencyEvents",
        Shape(
            events=each("events", EVENT),
            summary=nested(
                "summary",
                Shape(
                    total="total",
                    rebalance="rebalance",
                    termination="termination",
                    promoted="promoted",
                    failed="failed",
                ),
                always=True,
            ),
            total="total_count",
            days="days",
        ),
        query=("days",),
    ),
)
