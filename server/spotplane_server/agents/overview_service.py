"""AgentService for pages: overviews, the past, and the health of all fleets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from google.protobuf.message import Message
from spotplane.v1 import agent_pb2 as pb
from spotplane.v1 import pagination_pb2

from spotplane_server.agents import access, overview_queries, queries, rules
from spotplane_server.agents.handlers import Handlers
from spotplane_server.agents.overview_queries import Offline, Overview, TenantHealth, Wanted
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import paging, tenant_scope, wire
from spotplane_server.kernel.db.database import ALL_TENANTS, Scope
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.tenants import store as tenants

MOST: Final = 500
MOST_OFFLINE: Final = 10


class OverviewHandlers(Handlers):
    """Lists for pages."""

    async def ListAgentOverviews(
        self, request: pb.ListAgentOverviewsRequest, context: Context
    ) -> pb.ListAgentOverviewsResponse:
        caller = request_context.current().caller
        status = wire.optional_one_of(request, "status", queries.STATUSES)
        wanted = Wanted(
            tenant_scope.tenant(caller, request),
            status,
            search=wire.optional_text(request, "search", maximum=255) or None,
        )
        agents, pagination = await self._page(access.scope(caller), request, wanted)
        return pb.ListAgentOverviewsResponse(
            agents=agents,
            pagination=pagination,
            filters=pb.ListAgentOverviewsResponse.Filters(
                status=wanted.status,
                tenant_id=wire.optional(request, "tenant_id"),
                search=wanted.search,
            ),
        )

    async def ListTenantAgents(
        self, request: pb.ListTenantAgentsRequest, context: Context
    ) -> pb.ListTenantAgentsResponse:
        caller = request_context.current().caller
        wanted = Wanted(tenant_scope.required_tenant(caller, request), hide_deleted=True)
        agents, pagination = await self._page(access.scope(caller), request, wanted)
        return pb.ListTenantAgentsResponse(agents=agents, pagination=pagination)

    async def ListAgentHistory(
        self, request: pb.ListAgentHistoryRequest, context: Context
    ) -> pb.ListAgentHistoryResponse:
        caller = request_context.current().caller
        wanted = Wanted(tenant_scope.required_tenant(caller, request), by_state=True)
        agents, pagination = await self._page(access.scope(caller), request, wanted)
        return pb.ListAgentHistoryResponse(agents=agents, pagination=pagination)

    async def GetHealthSummary(
        self, request: pb.GetHealthSummaryRequest, context: Context
    ) -> pb.HealthSummary:
        now = self._clock.now()
        async with self._db.connection(ALL_TENANTS) as conn:
            tenants = await overview_queries.count_health(conn, now)
            offline = await overview_queries.list_offline(conn, MOST_OFFLINE)
        return _summary(tenants, offline, now)

    async def _page(
        self, scope: Scope, request: Message, wanted: Wanted
    ) -> tuple[list[pb.AgentOverview], pagination_pb2.Pagination]:
        filters = {"tenant": wanted.tenant_id, "status": wanted.status, "search": wanted.search}
        page = paging.read(request, self._tokens, default=MOST, maximum=MOST, filters=filters)
        # By position and not by key: the order changes with every sign of life.
        offset = int(page.after[0]) if page.after else 0
        async with self._db.connection(scope) as conn:
            if scope == ALL_TENANTS and wanted.tenant_id is not None:
                await tenants.get_tenant(conn, wanted.tenant_id)
            found = await overview_queries.list_overviews(
                conn, wanted, limit=page.limit + 1, offset=offset
            )
        total = found[0].total if found else offset
        data, pagination = paging.answer(
            page, paging.Slice(found, total), self._tokens, lambda _: (offset + page.limit,)
        )
        return [_overview(row) for row in data], pagination


def _overview(row: Overview) -> pb.AgentOverview:
    return pb.AgentOverview(
        id=str(row.id),
        logical_agent_id=row.logical_agent_id,
        hostname=row.hostname,
        tenant_id=str(row.tenant_id),
        tenant_name=row.tenant_name,
        instance_id=row.instance_id,
        instance_type=row.instance_type,
        region=row.region,
        az=row.az,
        mode=row.mode,
        pool_id=row.pool_id,
        status=row.status,
        enabled=row.enabled,
        auto_switch_enabled=row.auto_switch_enabled,
        manual_replica_enabled=row.manual_replica_enabled,
        auto_terminate_enabled=row.auto_terminate_enabled,
        terminate_wait_minutes=rules.minutes_shown(row.terminate_wait_seconds),
        agent_version=row.agent_version,
        last_heartbeat_at=wire.timestamp(row.last_heartbeat_at),
        instance_count=row.instance_count,
        created_at=wire.timestamp(row.created_at),
        updated_at=wire.timestamp(row.updated_at),
        installed_at=wire.timestamp(row.installed_at),
        terminated_at=wire.timestamp(row.terminated_at),
    )


def _summary(
    tenants: Sequence[TenantHealth], offline: Sequence[Offline], now: datetime
) -> pb.HealthSummary:
    def total(of: str) -> Any:
        return sum(getattr(tenant, of) for tenant in tenants)

    agents, active, healthy, warning = (
        total(name) for name in ("total", "active", "healthy", "warning")
    )
    return pb.HealthSummary(
        total_agents=agents,
        active_agents=active,
        healthy_agents=healthy,
        warning_agents=warning,
        critical_agents=agents - healthy - warning,
        health_percentage=round(100 * healthy / agents, 2) if agents else 0,
        average_heartbeat_delay_seconds=round(total("active_age") / active, 3) if active else 0,
        offline_agents=agents - active,
        deleted_agents=total("deleted"),
        tenants=[
            pb.HealthSummary.Tenant(
                tenant_id=str(tenant.tenant_id),
                tenant_name=tenant.tenant_name,
                total_agents=tenant.total,
                active_agents=tenant.active,
                healthy_agents=tenant.healthy,
                offline_agents=tenant.total - tenant.active,
            )
            for tenant in tenants
        ],
        recent_offline=[_offline(row, now) for row in offline],
    )


def _offline(row: Offline, now: datetime) -> pb.HealthSummary.Offline:
    since = (now - row.last_heartbeat_at).total_seconds() if row.last_heartbeat_at else 0
    return pb.HealthSummary.Offline(
        agent_id=str(row.id),
        hostname=row.hostname,
        tenant_name=row.tenant_name,
        last_heartbeat_at=wire.timestamp(row.last_heartbeat_at),
        offline_minutes=max(0, int(since // 60)),
    )
