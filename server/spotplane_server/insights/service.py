"""InsightService: what dashboards and administrators see of everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane.v1 import insight_pb2 as pb
from spotplane.v1 import insight_pb2_grpc

from spotplane_server.agents import access as agents
from spotplane_server.agents.errors import InstanceNotFound
from spotplane_server.decisions.engine_registry import Panel
from spotplane_server.insights import (
    convert,
    details_queries,
    plane_queries,
    platform_queries,
    rules,
    search_queries,
    tenant_queries,
)
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import paging, tenant_scope, wire
from spotplane_server.kernel.api.paging import PageTokens, Slice
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.kernel.errors import Unavailable
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.savings import rules as calendar
from spotplane_server.tenants.errors import TenantNotFound

PAGE: Final = 500
DAYS_SHOWN: Final = 30
_KINDS: Final = ("clients", "instances", "agents")
# Where a list is read on from.
_Place = tuple[datetime, UUID] | tuple[None, None]


class InsightService(insight_pb2_grpc.InsightServiceServicer):
    """Composes figures of every feature; changes nothing."""

    def __init__(
        self, db: Database, clock: Clock, tokens: PageTokens, panel: Panel, *, connections: int
    ) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens
        self._panel = panel
        self._connections = connections

    async def GetFleetStats(
        self, request: pb.GetFleetStatsRequest, context: Context
    ) -> pb.GetFleetStatsResponse:
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await platform_queries.fleet_stats(conn, now=self._clock.now())
        return convert.fleet_stats(found)

    async def ListTenantSummaries(
        self, request: pb.ListTenantSummariesRequest, context: Context
    ) -> pb.ListTenantSummariesResponse:
        page = paging.read(request, self._tokens, default=PAGE, maximum=PAGE)
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await tenant_queries.list_figures(
                conn, after=page.after_instant(), limit=page.limit + 1, now=self._clock.now()
            )
            total = await tenant_queries.count_tenants(conn)
        items, pagination = paging.answer(
            page, Slice(found, total), self._tokens, lambda t: (t.created_at, t.id)
        )
        return pb.ListTenantSummariesResponse(
            tenants=map(convert.figures, items), pagination=pagination
        )

    async def GetTenantGrowth(
        self, request: pb.GetTenantGrowthRequest, context: Context
    ) -> pb.GetTenantGrowthResponse:
        count = wire.optional_integer(request, "days", 1, 365) or DAYS_SHOWN
        days = calendar.days(self._clock.now(), count)
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await platform_queries.tenant_growth(conn, first=days[0], last=days[-1])
        return pb.GetTenantGrowthResponse(
            days=[
                pb.GrowthDay(
                    day_time=wire.timestamp(day.day_at),
                    total=day.total,
                    new_count=day.new,
                    active_count=day.active,
                )
                for day in found
            ]
        )

    async def ListActivity(
        self, request: pb.ListActivityRequest, context: Context
    ) -> pb.ListActivityResponse:
        limit = wire.optional_integer(request, "limit", 1, 50) or 50
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await plane_queries.list_activity(conn, rules.ACTIVITY, limit=limit)
            names = await plane_queries.name_agents(conn, rules.agent_ids([e.data for e in found]))
        return pb.ListActivityResponse(
            activities=[
                pb.Activity(
                    id=event.seq,
                    type=rules.kind(event.event_type),
                    text=rules.text(event.event_type, event.data, _name(names, event.data)),
                    occurred_at=wire.timestamp(event.occurred_at),
                )
                for event in found
            ]
        )

    async def GetSystemHealth(
        self, request: pb.GetSystemHealthRequest, context: Context
    ) -> pb.GetSystemHealthResponse:
        judge = self._panel.judge
        health = pb.GetSystemHealthResponse(
            connections_used=self._db.stats()["used"],
            connections_limit=self._connections,
            measured_at=wire.timestamp(self._clock.now()),
            engine_name=judge.seat.name,
            engine_version=judge.seat.version,
        )
        try:
            async with self._db.connection(ALL_TENANTS) as conn:
                standing_in = await plane_queries.active_fallback(conn) or judge.failing
                engines = await plane_queries.list_engines(conn)
        except Unavailable:
            # This is the one question whose answer that is.
            return health
        health.database_connected = True
        health.engine_loaded = not standing_in
        health.active_fallback = standing_in
        health.engines.extend(map(convert.engine, engines))
        health.model_loaded = not standing_in and any(
            engine.kind == "model" and engine.id == judge.seat.session_id for engine in engines
        )
        return health

    async def GetTenantSummary(
        self, request: pb.GetTenantSummaryRequest, context: Context
    ) -> pb.GetTenantSummaryResponse:
        tenant_id = tenant_scope.required_tenant(request_context.current().caller, request)
        now = self._clock.now()
        month, today = calendar.period("monthly", now), calendar.period("daily", now)
        async with self._db.connection(tenant_id) as conn:
            found = await tenant_queries.find_figures(conn, tenant_id, now=now)
            if found is None:
                raise TenantNotFound(tenant_id)
            switches = await tenant_queries.sum_switches(conn, tenant_id, today=today)
            savings = await tenant_queries.sum_month(conn, tenant_id, month=month, now=now)
            recent = await tenant_queries.recent_switches(conn, tenant_id)
            active = await tenant_queries.active_agents(conn, tenant_id)
        return pb.GetTenantSummaryResponse(
            tenant=convert.figures(found),
            spot_instances=found.spot_instances,
            total_downtime_seconds=switches.downtime_seconds,
            average_downtime_seconds=switches.average_downtime,
            total_switches=switches.total,
            switches_today=switches.today,
            monthly_savings_nanousd=savings,
            recent_switches=map(convert.recent_switch, recent),
            active_agents=map(convert.active_agent, active),
        )

    async def GetInstanceMetrics(
        self, request: pb.GetInstanceMetricsRequest, context: Context
    ) -> pb.GetInstanceMetricsResponse:
        caller, now = request_context.current().caller, self._clock.now()
        instance_id = wire.text(request.instance_id, "instance_id", maximum=128)
        since = calendar.days(now, DAYS_SHOWN)[0]
        async with self._db.connection(agents.scope(caller)) as conn:
            found = await details_queries.find_instance(
                conn, caller.tenant_id, instance_id, now=now
            )
            if found is None:
                raise InstanceNotFound
            savings = await details_queries.sum_instance(
                conn, found.tenant_id, instance_id, since=since, now=now
            )
        return convert.instance_metrics(found, savings, now)

    async def GetAgentStatistics(
        self, request: pb.GetAgentStatisticsRequest, context: Context
    ) -> pb.GetAgentStatisticsResponse:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = agents.agent_id(caller, request.agent_id)
        async with self._db.connection(agents.scope(caller)) as conn:
            agent = await agents.get(conn, agent_id, now)
            found = await details_queries.agent_statistics(conn, agent.tenant_id, agent_id, now=now)
        return convert.agent_statistics(str(agent_id), found)

    async def ExportGlobalStats(
        self, request: pb.ExportGlobalStatsRequest, context: Context
    ) -> AsyncIterator[pb.ExportGlobalStatsResponse]:
        now, after = self._clock.now(), (None, None)  # type: datetime, _Place
        while True:
            async with self._db.connection(ALL_TENANTS) as conn:
                found = await tenant_queries.list_figures(conn, after=after, limit=PAGE, now=now)
            yield pb.ExportGlobalStatsResponse(rows=map(convert.export_row, found))
            if len(found) < PAGE:
                return
            after = (found[-1].created_at, found[-1].id)

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        text = wire.text(request.query, "query", maximum=255)
        kinds = {wire.one_of(kind, "types", _KINDS) for kind in request.types} or set(_KINDS)
        limit = wire.optional_integer(request, "limit", 1, 50) or 10
        answer = pb.SearchResponse(query=text)
        if len(text) < 2:
            return answer
        async with self._db.connection(ALL_TENANTS) as conn:
            if "clients" in kinds:
                tenants = await search_queries.find_tenants(conn, text, limit=limit)
                answer.tenants.extend(map(convert.found_tenant, tenants))
            if "instances" in kinds:
                instances = await search_queries.find_instances(conn, text, limit=limit)
                answer.instances.extend(map(convert.found_instance, instances))
            if "agents" in kinds:
                found = await search_queries.find_agents(conn, text, limit=limit)
                answer.agents.extend(map(convert.found_agent, found))
        return answer

    async def GetOperationalMetrics(
        self, request: pb.GetOperationalMetricsRequest, context: Context
    ) -> pb.GetOperationalMetricsResponse:
        now = self._clock.now()
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await platform_queries.operations(
                conn, now=now, today=calendar.period("daily", now)
            )
        return convert.operations(found)


def _name(names: dict[UUID, str], data: dict[str, object]) -> str | None:
    about = rules.agent_id(data)
    return names.get(about) if about is not None else None
