"""FleetService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

from spotplane.v1 import agent_stream_pb2, fleet_pb2_grpc
from spotplane.v1 import fleet_pb2 as pb

from spotplane_server import audit, events
from spotplane_server.agents import access, lifecycle, quotas
from spotplane_server.agents.commands.service import Ledger
from spotplane_server.agents.errors import InstanceNotFound
from spotplane_server.agents.sessions.registry import Sessions
from spotplane_server.agents.sessions.stream import Origin
from spotplane_server.agents.switch_requests import Asked
from spotplane_server.fleet import (
    bulk,
    cleanup,
    convert,
    errors,
    launches,
    logs,
    requests,
    rules,
    switch_reports,
    switch_requests,
    terminations,
)
from spotplane_server.fleet import queries as queries_module
from spotplane_server.fleet.hooks import Standby
from spotplane_server.fleet.queries import Found
from spotplane_server.instances import store as instances
from spotplane_server.instances.store import Instance
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import paging, tenant_scope, wire
from spotplane_server.kernel.api.paging import PageTokens
from spotplane_server.kernel.auth.policy import RoleForbidden
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db.database import Conn, Database, retry_on_serialization_failure
from spotplane_server.kernel.request_context import Caller, TenantId
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.prices import instance_prices
from spotplane_server.prices import store as market
from spotplane_server.switches import queries
from spotplane_server.tenants import store as tenants

EXPORT_PAGE: Final = 500
ENDED: Final = "its agent ended it"


class FleetService(fleet_pb2_grpc.FleetServiceServicer):
    """Instances, switches, launches and ends."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        tokens: PageTokens,
        ledger: Ledger,
        sessions: Sessions,
        standby: Standby,
    ) -> None:
        self._db = db
        self._clock = clock
        self._tokens = tokens
        self._ledger = ledger
        self._sessions = sessions
        self._standby = standby
        self._bulk = bulk.Bulk(db, ledger, standby)

    async def ListInstances(
        self, request: pb.ListInstancesRequest, context: Context
    ) -> pb.ListInstancesResponse:
        caller = request_context.current().caller
        if request.across_tenants and caller.tenant_id is not None:
            raise RoleForbidden("only administrators see instances of all tenants")
        tenant_id, wanted = tenant_scope.tenant(caller, request), requests.filters(request)
        page = paging.read(
            request,
            self._tokens,
            default=500,
            maximum=500,
            filters={"tenant": tenant_id, "wanted": wanted},
        )
        async with self._db.connection(access.scope(caller)) as conn:
            if tenant_id is None:
                found = await queries_module.list_of_all(conn, wanted, page)
            else:
                await _must_exist(conn, caller, tenant_id)
                found = await queries_module.list_of_tenant(conn, tenant_id, wanted, page)
        data, pagination = paging.answer(
            page, found, self._tokens, queries_module.key(of_tenant=tenant_id is not None)
        )
        return pb.ListInstancesResponse(
            instances=map(convert.instance, data),
            pagination=pagination,
            filters=convert.filters(request, wanted, tenant_id),
        )

    async def ListSwitchOptions(
        self, request: pb.ListSwitchOptionsRequest, context: Context
    ) -> pb.ListSwitchOptionsResponse:
        caller = request_context.current().caller
        async with self._db.connection(access.scope(caller)) as conn:
            found = await _instance(conn, caller, request)
            pools = await market.list_pools(
                conn, found.region, found.instance_type, now=self._clock.now()
            )
            family = await queries_module.list_family(conn, found.region, found.instance_type)
        return pb.ListSwitchOptionsResponse(
            instance_type=found.instance_type,
            region=found.region,
            az=found.az,
            pools=convert.options(pools),
            instance_types=sorted({found.instance_type, *family}),
        )

    async def ForceSwitch(
        self, request: pb.ForceSwitchRequest, context: Context
    ) -> pb.ForceSwitchResponse:
        call, now = request_context.current(), self._clock.now()
        wish = requests.wish(request)
        wanted = wire.optional(request, "auto_terminate")
        async with self._db.transaction(access.scope(call.caller)) as conn:
            found = await _instance(conn, call.caller, request)
            agent = await access.lock(conn, found.agent_id)
            primary = await instances.find_primary(conn, agent.tenant_id, agent.id)
            if primary is None or primary.id != found.id:
                raise errors.NotPrimary("only an agent's serving instance can be switched")
            target = await switch_requests.target(conn, primary, wish, now)
            if target.is_where(primary):
                return switch_requests.there_already(primary)
            asked = Asked("MANUAL", rules.MANUAL_PRIORITY, call.caller.name, wanted)
            queued = await self._ledger.queue_switch(conn, agent, target, asked, now)
            await audit.record(conn, call, switch_requests.change(primary, target, queued), now)
        self._ledger.wake(agent.tenant_id, queued.command.instance_id)
        return switch_requests.queued(queued)

    async def ListInstancesToTerminate(
        self, request: pb.ListInstancesToTerminateRequest, context: Context
    ) -> pb.ListInstancesToTerminateResponse:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = access.agent_id(caller, request.agent_id)
        acting = caller.kind == "agent" or caller.role in ("agent", "admin")
        async with self._db.transaction(access.scope(caller)) as conn:
            found = await terminations.list_doomed(conn, agent_id, acting=acting, now=now)
        return pb.ListInstancesToTerminateResponse(
            instances=[convert.doomed(row, now) for row in found.doomed],
            auto_terminate_enabled=found.auto_terminate_enabled,
            terminate_wait_seconds=found.terminate_wait_seconds,
        )

    async def ReportInstanceTermination(
        self, request: pb.ReportInstanceTerminationRequest, context: Context
    ) -> pb.ReportInstanceTerminationResponse:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = access.agent_id(caller, request.agent_id)
        report = requests.end_report(request)
        async with self._db.transaction(access.scope(caller)) as conn:
            found = await terminations.take(conn, agent_id, report, self._standby, now)
        if report.success and found.status == "running_primary":
            await self._lost(found, now)
        self._sessions.signal_agent(agent_id)
        return pb.ReportInstanceTerminationResponse(
            message="the instance has ended" if report.success else "it will be asked for again"
        )

    async def ReportSwitch(
        self, request: pb.ReportSwitchRequest, context: Context
    ) -> pb.ReportSwitchResponse:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = access.agent_id(caller, request.agent_id)
        report = requests.switch_report(request)
        async with self._db.transaction(access.scope(caller)) as conn:
            switch_id = await switch_reports.take(conn, agent_id, report, self._standby, now)
        self._sessions.signal_agent(agent_id)
        return pb.ReportSwitchResponse(switch_id=str(switch_id))

    async def ReportInstanceLaunched(
        self, request: pb.ReportInstanceLaunchedRequest, context: Context
    ) -> pb.ReportInstanceLaunchedResponse:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = access.agent_id(caller, request.agent_id)
        launch = requests.launch(request)
        async with self._db.transaction(access.scope(caller)) as conn:
            agent = await access.lock(conn, agent_id)
            status = await launches.take(conn, agent, launch, self._standby, self._ledger, now)
            primary = await instances.find_primary(conn, agent.tenant_id, agent_id)
        self._sessions.signal_agent(agent_id)
        if primary is not None:
            self._ledger.wake(agent.tenant_id, primary.id)
        return pb.ReportInstanceLaunchedResponse(instance_id=launch.instance_id, status=status)

    async def RegisterInstance(
        self, request: pb.RegisterInstanceRequest, context: Context
    ) -> pb.RegisterInstanceResponse:
        call, now = request_context.current(), self._clock.now()
        agent_id = access.agent_id(call.caller, request.agent_id)
        machine, own = requests.machine(request), requests.own_prices(request, now)
        primary = request.is_primary if request.HasField("is_primary") else True
        async with self._db.transaction(access.scope(call.caller)) as conn:
            agent = await access.lock(conn, agent_id)
            if await instances.find(conn, agent.tenant_id, machine.id) is None:
                await quotas.admit(conn, agent.tenant_id, agents=False)
            found = await launches.register(
                conn, agent, machine, primary=primary, standby=self._standby, now=now
            )
            if own is not None:
                await instance_prices.put(conn, agent.tenant_id, machine.id, own)
            await audit.record(conn, call, launches.change(found), now)
        self._sessions.signal_agent(agent_id)
        serves = found.status == "running_primary"
        return pb.RegisterInstanceResponse(
            instance_id=found.id,
            is_primary=serves,
            message="the instance serves" if serves else f"the instance is known as {found.status}",
        )

    async def ReportCleanup(
        self, request: pb.ReportCleanupRequest, context: Context
    ) -> pb.ReportCleanupResponse:
        caller, now = request_context.current().caller, self._clock.now()
        agent_id = access.agent_id(caller, request.agent_id)
        found = cleanup.read(request, now)
        async with self._db.transaction(access.scope(caller)) as conn:
            agent = await access.get(conn, agent_id, now)
            if await cleanup.insert(conn, agent.tenant_id, agent_id, found, now):
                await events.append(conn, cleanup.event(agent, found), now)
        return pb.ReportCleanupResponse(
            message="the cleanup is recorded",
            deleted_snapshot_count=found.deleted_snapshots,
            deleted_image_count=found.deleted_images,
            failed_count=found.failed,
        )

    async def ListSwitches(
        self, request: pb.ListSwitchesRequest, context: Context
    ) -> pb.ListSwitchesResponse:
        caller = request_context.current().caller
        tenant_id = tenant_scope.required_tenant(caller, request)
        instance_id = wire.optional_text(request, "instance_id", maximum=requests.MAX_ID) or None
        page = paging.read(
            request,
            self._tokens,
            default=50,
            maximum=500,
            filters={"tenant": tenant_id, "instance": instance_id},
        )
        async with self._db.connection(tenant_id) as conn:
            await _must_exist(conn, caller, tenant_id)
            found = await queries.list_switches(conn, tenant_id, instance_id=instance_id, page=page)
        data, pagination = paging.answer(page, found, self._tokens, lambda s: (s.created_at, s.id))
        return pb.ListSwitchesResponse(switches=map(convert.switch, data), pagination=pagination)

    async def ExportSwitches(
        self, request: pb.ExportSwitchesRequest, context: Context
    ) -> AsyncIterator[pb.ExportSwitchesResponse]:
        caller = request_context.current().caller
        tenant_id = tenant_scope.required_tenant(caller, request)
        async with self._db.connection(tenant_id) as conn:
            await _must_exist(conn, caller, tenant_id)
        last: queries.Switch | None = None
        while True:
            # A page at a time: whoever reads slowly holds no connection meanwhile.
            async with self._db.connection(tenant_id) as conn:
                rows = await queries.next_switches(conn, tenant_id, last, limit=EXPORT_PAGE)
            if rows or last is None:
                yield pb.ExportSwitchesResponse(rows=map(convert.switch, rows))
            if len(rows) < EXPORT_PAGE:
                return
            last = rows[-1]

    async def ListInstanceLogs(
        self, request: pb.ListInstanceLogsRequest, context: Context
    ) -> pb.ListInstanceLogsResponse:
        caller, now = request_context.current().caller, self._clock.now()
        limit = wire.optional_integer(request, "limit", 1, 1000) or 100
        async with self._db.connection(access.scope(caller)) as conn:
            found = await _instance(conn, caller, request)
            entries = await logs.read(conn, found, limit=limit, now=now)
        return pb.ListInstanceLogsResponse(logs=entries)

    async def BulkExecute(
        self, request: pb.BulkExecuteRequest, context: Context
    ) -> pb.BulkExecuteResponse:
        call, order = request_context.current(), bulk.read(request)
        outcomes = [
            await self._bulk.run(order, item, call, self._clock.now()) for item in order.items
        ]
        for outcome in outcomes:
            if outcome.signal is not None:
                self._sessions.signal_agent(outcome.signal)
        return bulk.answer(order, outcomes)

    async def _lost(self, primary: Instance, now: datetime) -> None:
        """What served is gone: first the rescue, then the burial, so that a replica takes over."""
        standby = self._standby.agents
        origin = Origin(primary.tenant_id, primary.agent_id, primary.id, None)
        gone = agent_stream_pb2.TerminationReport(instance_id=primary.id)
        await standby.lost(origin, gone, now)

        async def bury() -> None:
            async with self._db.transaction(primary.tenant_id) as conn:
                await access.lock_even_deleted(conn, primary.agent_id, now)
                known = await instances.find(conn, primary.tenant_id, primary.id)
                if known is not None:
                    await lifecycle.bury(
                        conn, primary.agent_id, known, standby, why=ENDED, kind=None, now=now
                    )

        await retry_on_serialization_failure(bury)


async def _must_exist(conn: Conn, caller: Caller, tenant_id: TenantId) -> None:
    """Refuse an administrator who names a tenant that there is not.

    Raises:
        TenantNotFound: There is none.
    """
    if caller.tenant_id is None:
        await tenants.get_tenant(conn, tenant_id)


async def _instance(conn: Conn, caller: Caller, request: requests.NamesInstance) -> Found:
    """The instance that a request names.

    Raises:
        InstanceNotFound: There is none that the caller may name.
    """
    named = requests.instance_id(request)
    found = await queries_module.find_instance(conn, named, tenant_scope.tenant(caller, request))
    if found is None:
        raise InstanceNotFound
    return found
