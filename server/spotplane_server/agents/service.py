"""AgentService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from spotplane.v1 import agent_pb2 as pb
from spotplane.v1 import agent_pb2_grpc, agent_stream_pb2

from spotplane_server import audit
from spotplane_server.agents import access, convert, errors, registration, requests
from spotplane_server.agents import queries as queries_module
from spotplane_server.agents.commands import queries, service, store
from spotplane_server.agents.lifecycle_service import DepartureHandlers
from spotplane_server.agents.overview_service import OverviewHandlers
from spotplane_server.agents.polling.service import PollingHandlers
from spotplane_server.agents.settings_service import SettingsHandlers
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import paging, tenant_scope, wire
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import Caller, TenantId
from spotplane_server.kernel.rpc.interceptor import Context


class AgentService(
    PollingHandlers,
    DepartureHandlers,
    OverviewHandlers,
    SettingsHandlers,
    agent_pb2_grpc.AgentServiceServicer,
):
    """Registration, streams, configuration and commands of agents."""

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        caller, now = request_context.current().caller, self._clock.now()
        tenant_id = tenant_scope.required_tenant(caller, request)
        wanted = requests.registration(request)
        async with self._db.transaction(tenant_id) as conn:
            if caller.kind == "agent":
                await _own_name(conn, caller, wanted.logical_agent_id, now)
            done = await registration.register(
                conn,
                tenant_id,
                wanted,
                bind_replica=self._standby.bind,
                offline_after=self._offline_after,
                now=now,
            )
            desired = await queries_module.load_desired(
                conn, tenant_id, done.agent_id, wanted.machine.id
            )
            view = await access.get(conn, done.agent_id, now)
        self._sessions.signal_agent(done.agent_id)
        return pb.RegisterResponse(
            agent_id=str(done.agent_id),
            tenant_id=str(tenant_id),
            desired_state=convert.desired_state(desired) if desired else None,
            agent_token=done.token,
            message=done.message,
            config=(
                convert.config(view, done.agent_id)
                if done.serves
                else convert.config_off(done.agent_id)
            ),
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
        caller = request_context.current().caller
        tenant_id = tenant_scope.tenant(caller, request)
        status = wire.optional_one_of(request, "status", queries_module.STATUSES)
        search = wire.optional_text(request, "search", maximum=255) or None
        page = paging.read(
            request,
            self._tokens,
            default=50,
            maximum=100,
            filters={"tenant": tenant_id, "status": status, "search": search},
        )
        async with self._db.connection(access.scope(caller)) as conn:
            found = await queries_module.list_agents(
                conn,
                tenant_id,
                statuses=(status,) if status else queries_module.LIVE_STATUSES,
                search=search,
                page=page,
                now=self._clock.now(),
            )
        data, pagination = paging.answer(page, found, self._tokens, lambda a: (a.created_at, a.id))
        return pb.ListAgentsResponse(data=map(convert.agent, data), pagination=pagination)

    async def GetAgent(self, request: pb.GetAgentRequest, context: Context) -> pb.Agent:
        caller = request_context.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        async with self._db.connection(access.scope(caller)) as conn:
            found = await access.get(conn, agent_id, self._clock.now())
        return convert.agent(found)

    async def IssueCommand(self, request: pb.IssueCommandRequest, context: Context) -> pb.Command:
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        order = requests.order(request, call.caller)
        async with self._db.transaction(access.scope(call.caller)) as conn:
            await access.lock(conn, agent_id)  # or it might move, and the old primary get the order
            view = await access.get(conn, agent_id, now)
            if view.instance_id is None:
                raise errors.AgentOffline("no instance serves this agent at present")
            if not view.enabled and order.priority < service.EMERGENCY:
                raise errors.AgentDisabled("the agent is disabled")
            command_id = await self._ledger.issue(
                conn, view.tenant_id, agent_id, view.instance_id, order, now
            )
            issued = await self._command(conn, view.tenant_id, agent_id, command_id)
            if issued.created_at == now:  # a repeat of the request issues nothing
                await audit.record(conn, call, _audited(issued), now)
        self._ledger.wake(issued.tenant_id, issued.instance_id)
        request_context.created()
        return convert.command(issued)

    async def ListCommands(
        self, request: pb.ListCommandsRequest, context: Context
    ) -> pb.ListCommandsResponse:
        caller = request_context.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        status = wire.optional_one_of(request, "status", store.STATUSES)
        page = paging.read(
            request,
            self._tokens,
            default=50,
            maximum=100,
            filters={"agent": agent_id, "status": status},
        )
        async with self._db.connection(access.scope(caller)) as conn:
            view = await access.get(conn, agent_id, self._clock.now())
            found = await queries.list_commands(
                conn, view.tenant_id, agent_id, status=status, page=page
            )
        data, pagination = paging.answer(page, found, self._tokens, lambda c: (c.created_at, c.id))
        return pb.ListCommandsResponse(data=map(convert.command, data), pagination=pagination)

    async def GetCommand(self, request: pb.GetCommandRequest, context: Context) -> pb.Command:
        caller = request_context.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        command_id = wire.uuid(request.command_id, "command_id", "command ID")
        async with self._db.connection(access.scope(caller)) as conn:
            view = await access.get(conn, agent_id, self._clock.now())
            found = await self._command(conn, view.tenant_id, agent_id, command_id)
            steps = await queries.history(conn, view.tenant_id, command_id)
        return convert.command(found, steps)

    async def CancelCommand(self, request: pb.CancelCommandRequest, context: Context) -> pb.Command:
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        command_id = wire.uuid(request.command_id, "command_id", "command ID")
        reason = wire.optional_text(request, "reason", maximum=500) or f"by {call.caller.name}"
        async with self._db.transaction(access.scope(call.caller)) as conn:
            locked = await access.lock(conn, agent_id)
            found = await self._command(conn, locked.tenant_id, agent_id, command_id)
            gone = await store.cancel(
                conn, locked.tenant_id, agent_id, command_id=command_id, reason=reason, now=now
            )
            if not gone:
                raise errors.CommandFinal(f"the command is {found.status}", status=found.status)
            done = await self._command(conn, locked.tenant_id, agent_id, command_id)
            await self._ledger.take_effect(conn, done, now)
            steps = await queries.history(conn, locked.tenant_id, command_id)
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
    ) -> store.Command:
        found = await queries.find(conn, tenant_id, agent_id, command_id=command_id)
        if found is None:
            raise errors.CommandNotFound
        return found


def _audited(issued: store.Command) -> audit.Change:
    # Without its parameters, which may hold anything.
    return audit.Change(
        "command.issue",
        "command",
        str(issued.id),
        issued.tenant_id,
        after={"agent_id": issued.agent_id, "type": issued.type, "name": issued.name},
    )


async def _own_name(conn: Conn, caller: Caller, logical_id: str, now: Any) -> None:
    own = await queries_module.get(conn, UUID(caller.id), now)
    if own is None or own.logical_agent_id != logical_id:
        raise errors.AgentNotFound
