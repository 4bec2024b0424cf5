"""Between rows and messages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from google.protobuf import duration_pb2
from spotplane.v1 import agent_pb2, agent_stream_pb2

from spotplane_server.agents.commands.queries import Step
from spotplane_server.agents.commands.store import Command
from spotplane_server.agents.queries import AgentView, Desired
from spotplane_server.events import Event
from spotplane_server.instances import rules as instance_rules
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.request_context import TenantId


def agent(view: AgentView) -> agent_pb2.Agent:
    """An agent for an answer."""
    return agent_pb2.Agent(
        id=str(view.id),
        tenant_id=str(view.tenant_id),
        logical_agent_id=view.logical_agent_id,
        hostname=view.hostname,
        status=view.status,
        instance_id=view.instance_id,
        instance_type=view.instance_type,
        region=view.region,
        az=view.az,
        mode=view.mode or "unknown",
        pool_id=view.pool_id,
        agent_version=view.agent_version,
        connected=view.connected,
        config=config(view, view.id),
        last_heartbeat_at=wire.timestamp(view.last_heartbeat_at),
        created_at=wire.timestamp(view.created_at),
        updated_at=wire.timestamp(view.updated_at),
    )


def config(source: AgentView | Desired, agent_id: UUID) -> agent_stream_pb2.AgentConfig:
    """An agent's configuration for an answer."""
    return agent_stream_pb2.AgentConfig(
        agent_id=str(agent_id),
        enabled=source.enabled,
        auto_switch_enabled=source.auto_switch_enabled,
        auto_terminate_enabled=source.auto_terminate_enabled,
        terminate_wait_seconds=source.terminate_wait_seconds,
        replica_enabled=source.replica_enabled,
        replica_count=source.replica_count,
        manual_replica_enabled=source.manual_replica_enabled,
        min_savings_percent=float(source.min_savings_percent),
        risk_threshold=float(source.risk_threshold),
        max_switches_per_week=source.max_switches_per_week,
        max_switches_per_day=source.max_switches_per_day,
        min_pool_duration_hours=source.min_pool_duration_hours,
        config_version=source.config_version,
    )


def desired_state(desired: Desired) -> agent_stream_pb2.DesiredState:
    """What an instance is to be, for its stream."""
    return agent_stream_pb2.DesiredState(
        generation=desired.generation,
        config=config(desired, desired.agent_id),
        role=instance_rules.role(desired.instance_status),
        primary_instance_id=desired.primary_instance_id or "",
        replica_id=str(desired.replica_id) if desired.replica_id else "",
    )


def delivery(command: Command) -> agent_stream_pb2.CommandDelivery:
    """A command for the instance's stream."""
    return agent_stream_pb2.CommandDelivery(
        command_id=str(command.id),
        type=command.type,
        name=command.name,
        parameters=wire.struct(command.parameters),
        priority=command.priority,
        delivery=command.delivery_count,
        created_at=wire.timestamp(command.created_at),
        expires_at=wire.timestamp(command.expires_at),
    )


def command(row: Command, steps: Sequence[Step] = ()) -> agent_pb2.Command:
    """A command for an answer, with its story when it is given."""
    return agent_pb2.Command(
        id=str(row.id),
        request_id=row.request_id,
        agent_id=str(row.agent_id),
        instance_id=row.instance_id,
        type=row.type,
        name=row.name,
        parameters=wire.struct(row.parameters),
        priority=row.priority,
        trigger=row.trigger,
        created_by=row.created_by,
        status=row.status,
        delivery_count=row.delivery_count,
        success=row.success,
        message=row.message,
        result=None if row.result is None else wire.struct(row.result),
        created_at=wire.timestamp(row.created_at),
        leased_at=wire.timestamp(row.leased_at),
        received_at=wire.timestamp(row.received_at),
        started_at=wire.timestamp(row.started_at),
        done_at=wire.timestamp(row.done_at),
        expires_at=wire.timestamp(row.expires_at),
        history=[
            agent_pb2.CommandEvent(
                kind=step.kind, occurred_at=wire.timestamp(step.occurred_at), detail=step.detail
            )
            for step in steps
        ],
    )


def reconnect(delay_seconds: float, reason: str) -> agent_stream_pb2.ConnectResponse:
    """A request to come back later."""
    return agent_stream_pb2.ConnectResponse(
        reconnect=agent_stream_pb2.Reconnect(
            delay=duration(timedelta(seconds=delay_seconds)), reason=reason
        )
    )


def duration(span: timedelta) -> duration_pb2.Duration:
    """A span for an answer."""
    result = duration_pb2.Duration()
    result.FromTimedelta(span)
    return result


def command_id(text: str) -> UUID:
    """Read the id of a command that an agent holds."""
    return wire.uuid(text, "hello.open_command_ids", "command ID")


def marked_offline(tenant_id: TenantId, agent_id: UUID, instance_id: str, why: str) -> Event:
    """An agent counts as offline; the change of its state is an event of its own."""
    return Event(
        "agent.marked_offline",
        str(agent_id),
        {"agent_id": str(agent_id), "instance_id": instance_id, "reason": why},
        tenant_id,
    )


def config_off(agent_id: UUID) -> agent_stream_pb2.AgentConfig:
    """What an instance without a part is to follow: every flag false, every number 0."""
    return agent_stream_pb2.AgentConfig(agent_id=str(agent_id))
