"""AgentService for agents that poll: heartbeats, configuration, commands and their results."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from spotplane.v1 import agent_pb2 as pb
from spotplane.v1 import agent_stream_pb2

from spotplane_server.agents import access, convert, errors, requests, rules, store
from spotplane_server.agents import queries as queries_module
from spotplane_server.agents.commands import queries
from spotplane_server.agents.commands.store import Command
from spotplane_server.agents.handlers import Handlers
from spotplane_server.agents.polling import action_dialect, commands, heartbeats
from spotplane_server.agents.polling import convert as convert_module
from spotplane_server.agents.polling.commands import Poll
from spotplane_server.agents.rules import Dialect
from spotplane_server.agents.sessions import store as store_module
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.db.database import Conn, retry_on_serialization_failure
from spotplane_server.kernel.rpc.interceptor import Context

# What agents in the field do anyway.
HEARTBEAT_SECONDS: Final = 30


class PollingHandlers(Handlers):
    """What agents without a stream call."""

    async def Heartbeat(
        self, request: pb.HeartbeatRequest, context: Context
    ) -> pb.HeartbeatResponse:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = access.agent_id(caller, request.agent_id)
        beat = requests.beat(request)

        async def take() -> tuple[heartbeats.Heard, queries_module.AgentView | None, bool]:
            async with self._db.transaction(access.scope(caller)) as conn:
                heard = await heartbeats.take(
                    conn,
                    agent_id,
                    beat,
                    confirm_gone=self._standby.confirm_gone,
                    offline_after=self._offline_after,
                    now=now,
                )
                view = await queries_module.get(conn, agent_id, now)
                waiting = await queries.has_waiting(conn, heard.tenant_id, agent_id, now)
            return heard, view, waiting

        heard, view, waiting = await retry_on_serialization_failure(take)
        if heard.moved:
            self._sessions.signal_agent(agent_id)
        return pb.HeartbeatResponse(
            config_version=view.config_version if view else 0,
            commands_pending=waiting and heard.follows,
            config=_config(view, agent_id, follows=heard.follows),
            next_heartbeat_seconds=HEARTBEAT_SECONDS,
        )

    async def GetAgentConfig(
        self, request: pb.GetAgentConfigRequest, context: Context
    ) -> agent_stream_pb2.AgentConfig:
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        async with self._db.connection(access.scope(call.caller)) as conn:
            view = await access.get(conn, agent_id, now)
            poll = await self._poll(conn, agent_id, request)
        config = convert.config(view, agent_id)
        if not _speaks_for_primary(poll, request):
            config.enabled = False
        return config

    async def LeaseCommands(
        self, request: pb.LeaseCommandsRequest, context: Context
    ) -> pb.LeaseCommandsResponse:
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        dialect = requests.dialect(request)
        async with self._db.write(access.scope(call.caller)) as conn:
            poll = await self._poll(conn, agent_id, request)
            if poll.named_status is not None:
                await store_module.hear(
                    conn,
                    poll.tenant_id,
                    request.instance_id,
                    agent_id,
                    now,
                    at_most_every=rules.HEARD_BY_POLL,
                )
        if not poll.waiting or poll.streams or not _speaks_for_primary(poll, request):
            return pb.LeaseCommandsResponse()
        leased = await retry_on_serialization_failure(lambda: self._lease(poll, request, dialect))
        return pb.LeaseCommandsResponse(commands=[leased] if leased else [])

    async def CompleteCommand(
        self, request: pb.CompleteCommandRequest, context: Context
    ) -> pb.CompleteCommandResponse:
        caller = request_context.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        command_id = requests.command_id(request)
        done = await retry_on_serialization_failure(
            lambda: self._complete(access.scope(caller), agent_id, command_id, request)
        )
        self._sessions.signal_agent(agent_id)
        return pb.CompleteCommandResponse(status=done.status)

    async def _poll(self, conn: Conn, agent_id: UUID, request: Any) -> Poll:
        poll = await commands.load(
            conn,
            agent_id,
            instance_id=wire.optional_text(request, "instance_id", maximum=128),
            address=request_context.current().client_ip,
            now=self._clock.now(),
        )
        if poll is None:
            raise errors.AgentNotFound
        return poll

    async def _lease(
        self, poll: Poll, request: pb.LeaseCommandsRequest, dialect: Dialect
    ) -> pb.LeasedCommand | None:
        instance_id = wire.optional(request, "instance_id") or None
        async with self._db.transaction(poll.tenant_id) as conn:
            await access.lock(conn, poll.agent_id)
            command = await self._ledger.lease(conn, poll, instance_id, dialect, self._clock.now())
            if command is None:
                return None
            action = None
            if dialect == "action":
                action = await action_dialect.translate(conn, command, poll)
        return convert_module.leased(command, action)

    async def _complete(
        self, scope: Any, agent_id: UUID, command_id: UUID, request: pb.CompleteCommandRequest
    ) -> Command:
        now = self._clock.now()
        success, message, result = requests.outcome(request)
        async with self._db.transaction(scope) as conn:
            # Even of an agent that was deleted since: what it did, it did.
            tenant_id = await store.tenant_of(conn, agent_id)
            if tenant_id is None or not await store.lock_any(conn, tenant_id, agent_id):
                raise errors.AgentNotFound
            command = await self._known(conn, tenant_id, agent_id, command_id)
            if success:
                await action_dialect.take_note(conn, command, result.get("instance_id"), now)
            await self._ledger.complete(
                conn,
                tenant_id,
                agent_id,
                command.id,
                success=success,
                message=message,
                result=result,
                now=now,
            )
            return await self._known(conn, tenant_id, agent_id, command_id)

    async def _known(self, conn: Conn, tenant_id: Any, agent_id: UUID, command_id: UUID) -> Command:
        found = await queries.find(conn, tenant_id, agent_id, command_id=command_id)
        if found is None:
            raise errors.CommandNotFound
        return found


def _speaks_for_primary(poll: Poll, request: Any) -> bool:
    """Whether a poll is taken for the serving instance's."""
    if wire.optional(request, "instance_id"):
        return poll.named_status == "running_primary"
    return not poll.elsewhere


def _config(
    view: queries_module.AgentView | None, agent_id: UUID, *, follows: bool
) -> agent_stream_pb2.AgentConfig:
    if view is None or not follows:
        return convert.config_off(agent_id)
    return convert.config(view, agent_id)
