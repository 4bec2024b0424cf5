"""Handlers of `DecisionService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from spotplane.v1 import decision_pb2 as pb
from spotplane.v1 import decision_pb2_grpc

from spotplane_server.agents import access
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.decisions import (
    convert,
    engine_uploads_store,
    manual_switch,
    on_demand,
    overview,
    overview_queries,
    recording,
    requests,
    store,
)
from spotplane_server.decisions.engine_registry import Panel
from spotplane_server.decisions.engine_uploads import Sessions
from spotplane_server.decisions.engine_uploads_store import Session
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import tenant_scope, wire
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import unit_of_work
from spotplane_server.kernel.db.database import ALL_TENANTS, Conn, Database
from spotplane_server.kernel.rpc.interceptor import Context

LISTED: Final = 10
UPLOADED: Final = "uploaded; activate the session to let it decide"


class DecisionService(decision_pb2_grpc.DecisionServiceServicer):
    """Recommends, takes and explains switches, and keeps the engines that decide."""

    def __init__(
        self, db: Database, clock: Clock, panel: Panel, sessions: Sessions, ledger: Ledger
    ) -> None:
        self._db = db
        self._clock = clock
        self._panel = panel
        self._sessions = sessions
        self._ledger = ledger

    async def GetRecommendation(
        self, request: pb.GetRecommendationRequest, context: Context
    ) -> pb.GetRecommendationResponse:
        caller = request_context.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        now = self._clock.now()
        async with self._db.connection(access.scope(caller)) as conn:
            subject = await on_demand.get_subject(conn, agent_id, now)
            view = await on_demand.get_view(conn, self._panel, subject, now)
        if view is None:
            return convert.nothing_serves(subject)
        return convert.recommendation(await on_demand.rule(self._panel, view))

    async def IssueSwitch(
        self, request: pb.IssueSwitchRequest, context: Context
    ) -> pb.IssueSwitchResponse:
        call = request_context.current()
        agent_id = access.agent_id(call.caller, request.agent_id)
        wanted = requests.wanted(request)
        now = self._clock.now()
        async with self._db.transaction(access.scope(call.caller)) as conn:
            subject = await on_demand.get_subject(conn, agent_id, now)
            issued = await manual_switch.issue(conn, self._ledger, call, subject, wanted, now)
        if issued.queued is not None:
            self._ledger.wake(issued.agent.tenant_id, issued.queued.command.instance_id)
            request_context.created()
        return convert.issued(issued, wanted)

    async def Decide(self, request: pb.DecideRequest, context: Context) -> pb.DecideResponse:
        caller = request_context.current().caller
        agent_id = access.agent_id(caller, request.agent_id)
        seen = requests.seen(request)
        now = self._clock.now()
        async with self._db.connection(access.scope(caller)) as conn:
            subject = await on_demand.get_subject(conn, agent_id, now)
            view = await on_demand.get_view(conn, self._panel, subject, now, seen)
        if view is None:
            ruling = on_demand.nothing_serves(subject, now)
        else:
            ruling = on_demand.obeying(await on_demand.rule(self._panel, view))
        row = recording.record(ruling, "request", outcome=on_demand.outcome_of(ruling))
        async with self._db.transaction(subject.tenant_id) as conn:
            await store.insert(conn, [row])
        return convert.decided(ruling, str(row.id))

    async def ListAgentDecisions(
        self, request: pb.ListAgentDecisionsRequest, context: Context
    ) -> pb.ListAgentDecisionsResponse:
        tenant_id = tenant_scope.required_tenant(request_context.current().caller, request)
        now = self._clock.now()
        async with self._db.connection(tenant_id) as conn:
            await tenant_scope.check_tenant_exists(conn, tenant_id)
            rows = await overview_queries.list_agents(conn, tenant_id, now)
            ids = [row.id for row in rows]
            decisions = await overview_queries.list_decisions(conn, tenant_id, ids)
            reports = await overview_queries.list_reports(conn, tenant_id, ids)
            happened = await overview_queries.list_events(conn, tenant_id, ids)
        return pb.ListAgentDecisionsResponse(
            agents=[
                overview.agent(row, decisions[row.id], reports[row.id], happened[str(row.id)], now)
                for row in rows
            ]
        )

    async def UploadEngine(
        self, request_iterator: AsyncIterator[pb.UploadEngineRequest], context: Context
    ) -> pb.UploadEngineResponse:
        call = request_context.current()
        received = await requests.received(request_iterator)
        session_id = await self._sessions.upload(call, "engine", received.files, received.named)
        response = pb.UploadEngineResponse(
            session_id=str(session_id),
            files=[file.name for file in received.files],
            message=UPLOADED,
            engine=await self._engine_status(),
        )
        await unit_of_work.commit_early(response)
        await self._sessions.activate(call, session_id, force=received.force)
        live = await self._sessions.seat(session_id)
        response.message = f"engine {live.name} {live.version} decides now"
        response.engine.CopyFrom(await self._engine_status())
        return response

    async def UploadModel(
        self, request_iterator: AsyncIterator[pb.UploadModelRequest], context: Context
    ) -> pb.UploadModelResponse:
        received = await requests.received(request_iterator)
        session_id = await self._sessions.upload(
            request_context.current(), "model", received.files, received.named
        )
        return pb.UploadModelResponse(
            session_id=str(session_id),
            files=[file.name for file in received.files],
            total_bytes=sum(len(file.data) for file in received.files),
            message=UPLOADED,
        )

    async def ActivateSession(
        self, request: pb.ActivateSessionRequest, context: Context
    ) -> pb.ActivateSessionResponse:
        session_id = wire.uuid(request.session_id, "session_id", "session ID")
        session = await self._sessions.activate(
            request_context.current(), session_id, force=request.force
        )
        response = pb.ActivateSessionResponse(
            session_id=str(session.id),
            message=f"{session.name} {session.version} decides now",
            engine=await self._engine_status(),
        )
        await unit_of_work.commit_early(response)
        await self._sessions.seat(session.id)
        response.engine.CopyFrom(await self._engine_status())
        return response

    async def ActivateFallback(
        self, request: pb.ActivateFallbackRequest, context: Context
    ) -> pb.ActivateFallbackResponse:
        session = await self._sessions.swap(request_context.current())
        response = pb.ActivateFallbackResponse(
            session_id=str(session.id),
            message=f"{session.name} {session.version} decides again",
            engine=await self._engine_status(),
        )
        await unit_of_work.commit_early(response)
        await self._sessions.seat(session.id)
        response.engine.CopyFrom(await self._engine_status())
        return response

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await engine_uploads_store.list_sessions(conn, LISTED)
            return pb.ListSessionsResponse(sessions=await _with_files(conn, found))

    async def GetEngineStatus(
        self, request: pb.GetEngineStatusRequest, context: Context
    ) -> pb.GetEngineStatusResponse:
        async with self._db.connection(ALL_TENANTS) as conn:
            roles = [
                found
                for role in engine_uploads_store.ROLES
                if (found := await engine_uploads_store.find_role(conn, role)) is not None
            ]
            sessions = await _with_files(conn, roles)
            count = await engine_uploads_store.count_files(conn)
        return pb.GetEngineStatusResponse(
            engine=await self._engine_status(), file_count=count, sessions=sessions
        )

    async def _engine_status(self) -> pb.EngineStatus:
        async with self._db.connection(ALL_TENANTS) as conn:
            state = await engine_uploads_store.read_state(conn)
        judge = self._panel.judge
        return convert.engine_status(judge, stands_in=state.active_fallback or judge.failing)


async def _with_files(conn: Conn, found: list[Session]) -> list[pb.ModelSession]:
    files = await engine_uploads_store.list_files(conn, [session.id for session in found])
    return [convert.session(session, files[session.id]) for session in found]
