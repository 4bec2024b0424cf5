"""AgentService where something leaves: agents deleted, instances gone."""

from __future__ import annotations

from contextlib import suppress
from typing import Final
from uuid import UUID

from spotplane.v1 import agent_pb2 as pb
from spotplane.v1 import agent_stream_pb2

from spotplane_server import audit
from spotplane_server.agents import access, errors, lifecycle, store
from spotplane_server.agents.handlers import Handlers
from spotplane_server.agents.sessions.stream import Origin
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import tenant_scope, wire
from spotplane_server.kernel.db.database import Conn, retry_on_serialization_failure
from spotplane_server.kernel.request_context import Call, TenantId
from spotplane_server.kernel.rpc.interceptor import Context

_POST_MORTEM: Final = "the cloud took it"


class DepartureHandlers(Handlers):
    """Deletions, goodbyes and post-mortems."""

    async def DeleteAgent(
        self, request: pb.DeleteAgentRequest, context: Context
    ) -> pb.DeleteAgentResponse:
        call = request_context.current()
        agent_id = access.agent_id(call.caller, request.agent_id)
        async with self._db.transaction(access.scope(call.caller)) as conn:
            locked = await access.lock(conn, agent_id)
            await self._delete(conn, call, locked, reason="deleted")
        self._sessions.signal_agent(agent_id)
        return pb.DeleteAgentResponse(
            status="deleted", message="the agent was deleted", agent_id=str(agent_id)
        )

    async def ReportTermination(
        self, request: pb.ReportTerminationRequest, context: Context
    ) -> pb.ReportTerminationResponse:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = access.agent_id(caller, request.agent_id)
        said = wire.optional_text(request, "instance_id", maximum=128)
        why = wire.optional_text(request, "reason", maximum=500) or _POST_MORTEM
        kind = wire.optional_text(request, "termination_type", maximum=64)
        async with self._db.transaction(access.scope(caller)) as conn:
            locked = await access.lock(conn, agent_id)
            found = await lifecycle.meant(conn, locked.tenant_id, agent_id, said, now)
        if found is None:
            return pb.ReportTerminationResponse(known=False)
        # First the rescue, and then the burial: a replica that stands by takes over meanwhile.
        if found.status == "running_primary":
            origin = Origin(found.tenant_id, agent_id, found.id, None)
            report = agent_stream_pb2.TerminationReport(instance_id=found.id)
            with suppress(errors.AgentOffline):  # nothing serves any more: nothing to rescue
                await self._standby.lost(origin, report, now)

        async def bury() -> None:
            async with self._db.transaction(found.tenant_id) as conn:
                await access.lock(conn, agent_id)
                known = await instances.find(conn, found.tenant_id, found.id)
                if known is not None and known.agent_id == agent_id:
                    await lifecycle.bury(
                        conn, agent_id, known, self._standby, why=why, kind=kind, now=now
                    )

        await retry_on_serialization_failure(bury)
        self._sessions.signal_agent(agent_id)
        return pb.ReportTerminationResponse(known=True)

    async def ReportShutdown(
        self, request: pb.ReportShutdownRequest, context: Context
    ) -> pb.ReportShutdownResponse:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = access.agent_id(caller, request.agent_id)
        said = wire.optional_text(request, "instance_id", maximum=128)
        async with self._db.transaction(access.scope(caller)) as conn:
            locked = await access.lock(conn, agent_id)
            found = await lifecycle.meant(conn, locked.tenant_id, agent_id, said, now)
            offline = found is not None and await lifecycle.say_goodbye(
                conn, agent_id, found, "it said goodbye", now
            )
        return pb.ReportShutdownResponse(offline=offline)

    async def UninstallAgent(
        self, request: pb.UninstallAgentRequest, context: Context
    ) -> pb.UninstallAgentResponse:
        call = request_context.current()
        tenant_id = tenant_scope.tenant(call.caller, request)
        gone = await retry_on_serialization_failure(
            lambda: self._uninstall(call, tenant_id, request)
        )
        if gone is None:
            return pb.UninstallAgentResponse(message="no agent of that name or instance serves")
        self._sessions.signal_agent(gone)
        return pb.UninstallAgentResponse(agent_id=str(gone), message="the agent was removed")

    async def _uninstall(
        self, call: Call, tenant_id: TenantId | None, request: pb.UninstallAgentRequest
    ) -> UUID | None:
        now = self._clock.now()
        async with self._db.transaction(tenant_id or access.scope(call.caller)) as conn:
            found = await self._named(conn, request)
            if found is None:
                return None
            locked = await store.lock(conn, found.agent_id)
            if locked is None:
                return None
            other = found.instance
            if other is not None:
                other = await instances.find(conn, locked.tenant_id, other.id)
            if other is not None and other.status != "running_primary":
                why = wire.optional_text(request, "reason", maximum=500) or "it was uninstalled"
                await lifecycle.bury(
                    conn, locked.id, other, self._standby, why=why, kind=None, now=now
                )
                return None
            await self._delete(conn, call, locked, reason="uninstalled")
            return locked.id

    async def _named(self, conn: Conn, request: pb.UninstallAgentRequest) -> _Named | None:
        for field in ("agent_id", "instance_id", "logical_agent_id"):
            said = wire.optional_text(request, field, maximum=255)
            if said:
                return await self._find(conn, field, said)
        raise wire.missing("instance_id")

    async def _find(self, conn: Conn, field: str, said: str) -> _Named | None:
        if field == "agent_id":
            try:
                return _Named(UUID(said), None)
            except ValueError:
                return None
        if field == "logical_agent_id":
            agents = await store.find_named(conn, said)
            return _Named(agents[0], None) if len(agents) == 1 else None
        owners = await instances.find_owned(conn, said)
        return _Named(owners[0].agent_id, owners[0]) if len(owners) == 1 else None

    async def _delete(self, conn: Conn, call: Call, locked: store.Locked, *, reason: str) -> None:
        now = self._clock.now()
        await lifecycle.delete(conn, locked, self._standby, reason=reason, now=now)
        change = audit.Change("agent.delete", "agent", str(locked.id), locked.tenant_id)
        await audit.record(conn, call, change, now)


class _Named:
    """An agent, and the instance by which it was named."""

    def __init__(self, agent_id: UUID, instance: Instance | None) -> None:
        self.agent_id = agent_id
        self.instance = instance
