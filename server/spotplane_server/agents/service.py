"""AgentService."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from spotplane.v1 import agent_pb2 as pb
from spotplane.v1 import agent_pb2_grpc, agent_stream_pb2

from spotplane_server import audit, events
from spotplane_server.agents import (
    access,
    commands_store,
    convert,
    errors,
    ledger,
    registration,
    store,
)
from spotplane_server.agents.ledger import Ledger
from spotplane_server.agents.sessions import Sessions
from spotplane_server.agents.stream import AgentStream
from spotplane_server.instances import rules as instance_rules
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Machine
from spotplane_server.kernel import auth, calls, paging, wire
from spotplane_server.kernel.calls import Caller, TenantId
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import Conn, Database
from spotplane_server.kernel.errors import Forbidden, Invalid
from spotplane_server.kernel.middleware import Context
from spotplane_server.kernel.paging import PageTokens

_NAME: Final = re.compile(r"[a-z0-9._-]{1,64}")
_ISSUABLE: Final = ("switch", "terminate", "update_config", "custom")
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{8,128}")
MAX_PARAMETERS: Final = 64 * 1024


class TenantMismatch(Forbidden):
    """The request claims a tenant other than the caller's."""

    reason = "TENANT_MISMATCH"


class AgentService(agent_pb2_grpc.AgentServiceServicer):
    """Registration, streams, configuration and commands of agents."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        tokens: PageTokens,
        sessions: Sessions,
        commands: Ledger,
        stream: AgentStream,
        *,
        bind_replica: registration.BindReplica,
        offline_after: timedelta,
    ) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens
        self._sessions = sessions
        self._ledger = commands
        self._stream = stream
        self._bind_replica = bind_replica
        self._offline_after = offline_after

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        caller, now = calls.current().caller, self._clock.now()
        tenant_id = _tenant(caller, request)
        wanted = _registration(request)
        async with self._db.transaction(tenant_id) as conn:
            if caller.kind == "agent":
                await _own_name(conn, caller, wanted.logical_agent_id, now)
            done = await registration.register(
                conn,
                tenant_id,
                wanted,
                bind_replica=self._bind_replica,
                offline_after=self._offline_after,
                now=now,
            )
            desired = await store.load_desired(conn, tenant_id, done.agent_id, wanted.machine.id)
        self._sessions.signal_agent(done.agent_id)
        return pb.RegisterResponse(
            agent_id=str(done.agent_id),
            tenant_id=str(tenant_id),
            desired_state=convert.desired_state(desired) if desired else None,
            agent_token=done.token,
            message=done.message,
        )

    async def Connect(
        self,
        request_iterator: AsyncIterator[agent_stream_pb2.ConnectRequest],
        context: Context,
    ) -> AsyncIterator[agent_stream_pb2.ConnectResponse]:
        async for response in self._stream.connect(request_iterator):
            yield response

    async def ListAgents(
        self, request: pb.ListAgentsRequest, context: Context
    ) -> pb.ListAgentsResponse:
        caller = calls.current().caller
        tenant_id = _claimed(caller, request) or caller.tenant_id
        status = wire.optional_one_of(request, "status", store.STATUSES)
        search = wire.optional_text(request, "search", maximum=255) or None
        page = paging.read(
            request,
            self._tokens,
            default=50,
            maximum=100,
            filters={"tenant": tenant_id, "status": status, "search": search},
        )
        async with self._db.read(access.scope(caller)) as conn:
            found = await store.list_agents(
                conn,
                tenant_id,
                statuses=(status,) if status else store.LIVE_STATUSES,
                search=search,
                page=page,
                now=self._clock.now(),
            )
        data, pagination = paging.answer(page, found, self._tokens, lambda a: (a.created_at, a.id))
        return pb.ListAgentsResponse(data=map(convert.agent, data), pagination=pagination)

    async def GetAgent(self, request: pb.GetAgentRequest, context: Context) -> pb.Agent:
        caller = calls.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        async with self._db.read(access.scope(caller)) as conn:
            found = await access.get(conn, agent_id, self._clock.now())
        return convert.agent(found)

    async def UpdateAgentConfig(
        self, request: pb.UpdateAgentConfigRequest, context: Context
    ) -> agent_stream_pb2.AgentConfig:
        call, now = calls.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        wanted = _config_changes(request)
        async with self._db.transaction(access.scope(call.caller)) as conn:
            locked = await access.lock(conn, agent_id)
            config = replace(locked.config, **wanted)
            if config != locked.config:
                await store.update_config(conn, locked.tenant_id, agent_id, config, now)
                await audit.record(conn, call, _config_change(locked, config), now)
                await events.append(
                    conn,
                    events.Event(
                        "agent.config_changed",
                        str(agent_id),
                        {"agent_id": str(agent_id)},
                        locked.tenant_id,
                    ),
                    now,
                )
            view = await access.get(conn, agent_id, now)
        self._sessions.signal_agent(agent_id)
        if view.instance_id and view.enabled:
            self._ledger.wake(view.tenant_id, view.instance_id)
        return convert.config(view, agent_id)

    async def DeleteAgent(
        self, request: pb.DeleteAgentRequest, context: Context
    ) -> pb.DeleteAgentResponse:
        call, now = calls.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        async with self._db.transaction(access.scope(call.caller)) as conn:
            locked = await access.lock(conn, agent_id)
            await commands_store.cancel(
                conn, locked.tenant_id, agent_id, reason="the agent was deleted", now=now
            )
            primary = await instances.find_primary(conn, locked.tenant_id, agent_id)
            if primary is not None:
                await instances.move(
                    conn,
                    locked.tenant_id,
                    primary.id,
                    frm=("running_primary",),
                    to="zombie",
                    now=now,
                )
            await store.delete(conn, locked.tenant_id, agent_id, now)
            await auth.bump_epoch(conn)
            change = audit.Change("agent.delete", "agent", str(agent_id), locked.tenant_id)
            await audit.record(conn, call, change, now)
            await events.append(
                conn,
                events.Event(
                    "agent.deleted", str(agent_id), {"agent_id": str(agent_id)}, locked.tenant_id
                ),
                now,
            )
        self._sessions.signal_agent(agent_id)
        return pb.DeleteAgentResponse(status="deleted", message="the agent was deleted")

    async def IssueCommand(self, request: pb.IssueCommandRequest, context: Context) -> pb.Command:
        call, now = calls.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        order = _order(request, call.caller)
        async with self._db.transaction(access.scope(call.caller)) as conn:
            await access.lock(conn, agent_id)  # or it might move, and the old primary get the order
            view = await access.get(conn, agent_id, now)
            if view.instance_id is None:
                raise errors.AgentOffline("no instance serves this agent at present")
            if not view.enabled and order.priority < ledger.EMERGENCY:
                raise errors.AgentDisabled("the agent is disabled")
            command_id = await self._ledger.issue(
                conn, view.tenant_id, agent_id, view.instance_id, order, now
            )
            issued = await self._command(conn, view.tenant_id, agent_id, command_id)
        self._ledger.wake(issued.tenant_id, issued.instance_id)
        calls.created()
        return convert.command(issued)

    async def ListCommands(
        self, request: pb.ListCommandsRequest, context: Context
    ) -> pb.ListCommandsResponse:
        caller = calls.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        status = wire.optional_one_of(request, "status", commands_store.STATUSES)
        page = paging.read(
            request,
            self._tokens,
            default=50,
            maximum=100,
            filters={"agent": agent_id, "status": status},
        )
        async with self._db.read(access.scope(caller)) as conn:
            view = await access.get(conn, agent_id, self._clock.now())
            found = await commands_store.list_commands(
                conn, view.tenant_id, agent_id, status=status, page=page
            )
        data, pagination = paging.answer(page, found, self._tokens, lambda c: (c.created_at, c.id))
        return pb.ListCommandsResponse(data=map(convert.command, data), pagination=pagination)

    async def GetCommand(self, request: pb.GetCommandRequest, context: Context) -> pb.Command:
        caller = calls.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        command_id = wire.uuid(request.command_id, "command_id", "command ID")
        async with self._db.read(access.scope(caller)) as conn:
            view = await access.get(conn, agent_id, self._clock.now())
            found = await self._command(conn, view.tenant_id, agent_id, command_id)
            steps = await commands_store.history(conn, view.tenant_id, command_id)
        return convert.command(found, steps)

    async def CancelCommand(self, request: pb.CancelCommandRequest, context: Context) -> pb.Command:
        call, now = calls.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        command_id = wire.uuid(request.command_id, "command_id", "command ID")
        reason = wire.optional_text(request, "reason", maximum=500) or f"by {call.caller.name}"
        async with self._db.transaction(access.scope(call.caller)) as conn:
            locked = await access.lock(conn, agent_id)
            found = await self._command(conn, locked.tenant_id, agent_id, command_id)
            gone = await commands_store.cancel(
                conn, locked.tenant_id, agent_id, command_id=command_id, reason=reason, now=now
            )
            if not gone:
                raise errors.CommandFinal(f"the command is {found.status}", status=found.status)
            done = await self._command(conn, locked.tenant_id, agent_id, command_id)
            await self._ledger.take_effect(conn, done, now)
            steps = await commands_store.history(conn, locked.tenant_id, command_id)
            change = audit.Change(
                "command.cancel",
                "command",
                str(command_id),
                locked.tenant_id,
                after={"reason": reason},
            )
            await audit.record(conn, call, change, now)
        self._sessions.take_back(done)
        return convert.command(done, steps)

    async def _command(
        self, conn: Conn, tenant_id: TenantId, agent_id: UUID, command_id: UUID
    ) -> commands_store.Command:
        found = await commands_store.find(conn, tenant_id, agent_id, command_id=command_id)
        if found is None:
            raise errors.CommandNotFound
        return found


def _claimed(caller: Caller, request: Any) -> TenantId | None:
    claim = wire.optional_uuid(request, "tenant_id", "tenant ID")
    if claim is not None and caller.tenant_id is not None and claim != caller.tenant_id:
        raise TenantMismatch("tenant_id is not the caller's tenant")
    return None if claim is None else TenantId(claim)


def _tenant(caller: Caller, request: Any) -> TenantId:
    tenant_id = caller.tenant_id or _claimed(caller, request)
    if tenant_id is None:
        raise wire.missing("tenant_id")
    _claimed(caller, request)
    return tenant_id


async def _own_name(conn: Conn, caller: Caller, logical_id: str, now: Any) -> None:
    own = await store.get(conn, UUID(caller.id), now)
    if own is None or own.logical_agent_id != logical_id:
        raise errors.AgentNotFound


def _registration(request: pb.RegisterRequest) -> registration.Registration:
    def required(field: str, maximum: int) -> str:
        return wire.text(getattr(request, field), field, maximum=maximum, required=True)

    instance_id = required("instance_id", 128)
    instance_type, az = required("instance_type", 64), required("az", 64)
    mode = wire.optional_one_of(request, "mode", ("spot", "ondemand", "unknown")) or "unknown"
    machine = Machine(
        instance_id,
        instance_type,
        required("region", 64),
        az,
        mode,
        instance_rules.pool_id(instance_type, az) if mode == "spot" else None,
        hostname=wire.optional_text(request, "hostname", maximum=255),
        image_id=wire.optional_text(request, "image_id", maximum=64),
        private_ip=wire.optional_text(request, "private_ip", maximum=45),
        public_ip=wire.optional_text(request, "public_ip", maximum=45),
    )
    return registration.Registration(
        wire.optional_text(request, "logical_agent_id", maximum=255) or instance_id,
        machine,
        wire.optional_text(request, "agent_version", maximum=32),
        wire.optional_uuid(request, "replica_id", "replica ID"),
        request.issue_agent_token,
    )


def _config_changes(request: pb.UpdateAgentConfigRequest) -> dict[str, Any]:
    def number(field: str, minimum: int, maximum: int) -> Any:
        return lambda: wire.integer(getattr(request, field), field, minimum, maximum)

    def flag(field: str) -> Any:
        return lambda: getattr(request, field)

    wanted: dict[str, Any] = wire.changes(
        request,
        {
            "enabled": flag("enabled"),
            "auto_switch_enabled": flag("auto_switch_enabled"),
            "auto_terminate_enabled": flag("auto_terminate_enabled"),
            "terminate_wait_seconds": number("terminate_wait_seconds", 0, 86400),
            "manual_replica_enabled": flag("manual_replica_enabled"),
            "min_savings_percent": lambda: wire.decimal(
                request.min_savings_percent, "min_savings_percent", digits=2, maximum=100
            ),
            "risk_threshold": lambda: wire.decimal(
                request.risk_threshold, "risk_threshold", digits=3, maximum=1
            ),
            "max_switches_per_week": number("max_switches_per_week", 0, 1000),
            "max_switches_per_day": number("max_switches_per_day", 0, 1000),
            "min_pool_duration_hours": number("min_pool_duration_hours", 0, 720),
        },
    )
    automatic, manual = wanted.get("auto_switch_enabled"), wanted.get("manual_replica_enabled")
    if automatic and manual:
        raise errors.ModeConflict(
            "automatic switching and manual replicas exclude each other",
            field="manual_replica_enabled",
        )
    if automatic:
        wanted["manual_replica_enabled"] = False
    if manual:
        wanted["auto_switch_enabled"] = False
    return wanted


def _config_change(locked: store.Locked, config: store.Config) -> audit.Change:
    before, after = asdict(locked.config), asdict(config)
    changed = [name for name in after if after[name] != before[name]]
    return audit.Change(
        "agent.update_config",
        "agent",
        str(locked.id),
        locked.tenant_id,
        before={name: _plain(before[name]) for name in changed},
        after={name: _plain(after[name]) for name in changed},
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int)) else str(value)


def _order(request: pb.IssueCommandRequest, caller: Caller) -> commands_store.Order:
    kind = wire.optional_one_of(request, "type", _ISSUABLE) or "custom"
    name = kind
    if kind == "custom":
        name = request.name or ""
        if not name:
            raise wire.missing("name")
        if not _NAME.fullmatch(name):
            raise Invalid("name must be 1..64 characters of [a-z0-9._-]", field="name")
    elif request.HasField("name") and request.name != kind:
        raise Invalid("name is for custom commands", field="name")
    priority = wire.optional_integer(request, "priority", 1, 100) or 75
    lifetime = wire.optional_integer(request, "expires_in_seconds", 1, 86400)
    default = ledger.EMERGENCY_EXPIRES_IN if priority == ledger.EMERGENCY else ledger.EXPIRES_IN
    request_id = wire.optional(request, "request_id")
    if request_id is not None and not _REQUEST_ID.fullmatch(request_id):
        raise wire.out_of_range("request_id", "8..128 printable characters")
    return commands_store.Order(
        kind,
        name,
        wire.json_object(request, "parameters", maximum=MAX_PARAMETERS) or {},
        priority,
        "MANUAL",
        caller.name,
        request_id or str(uuid4()),
        timedelta(seconds=lifetime) if lifetime else default,
    )
