"""AgentService where fleets are configured: an agent's own settings, and a tenant's."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

from spotplane.v1 import agent_pb2 as pb
from spotplane.v1 import agent_stream_pb2

from spotplane_server import audit
from spotplane_server.agents import access, config, convert, requests, settings_store
from spotplane_server.agents.handlers import Handlers
from spotplane_server.agents.queries import AgentView
from spotplane_server.agents.settings_store import Settings
from spotplane_server.kernel import request_context
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.db.database import ALL_TENANTS, retry_on_serialization_failure
from spotplane_server.kernel.request_context import Call, TenantId
from spotplane_server.kernel.rpc.interceptor import Context
from spotplane_server.tenants.errors import TenantNotFound


class SettingsHandlers(Handlers):
    """Configuration and its defaults."""

    async def UpdateAgentConfig(
        self, request: pb.UpdateAgentConfigRequest, context: Context
    ) -> agent_stream_pb2.AgentConfig:
        call = request_context.current()
        agent_id = access.agent_id(call.caller, request.agent_id)
        view = await self._change(call, agent_id, requests.config_changes(request))
        return convert.config(view, agent_id)

    async def SetAgentEnabled(
        self, request: pb.SetAgentEnabledRequest, context: Context
    ) -> pb.SetAgentEnabledResponse:
        call = request_context.current()
        agent_id = access.agent_id(call.caller, request.agent_id)
        enabled = request.enabled if request.HasField("enabled") else True
        view = await self._change(call, agent_id, {"enabled": enabled})
        return pb.SetAgentEnabledResponse(enabled=view.enabled)

    async def GetFleetSettings(
        self, request: pb.GetFleetSettingsRequest, context: Context
    ) -> pb.FleetSettings:
        tenant_id = TenantId(wire.uuid(request.tenant_id, "tenant_id", "tenant ID"))
        async with self._db.connection(ALL_TENANTS) as conn:
            found = await settings_store.find(conn, tenant_id)
        if found is None:
            raise TenantNotFound(tenant_id)
        return _settings(found)

    async def UpdateFleetSettings(
        self, request: pb.UpdateFleetSettingsRequest, context: Context
    ) -> pb.FleetSettings:
        call, now = request_context.current(), self._clock.now()
        tenant_id = TenantId(wire.uuid(request.tenant_id, "tenant_id", "tenant ID"))
        wanted = requests.settings_changes(request)
        async with self._db.transaction(ALL_TENANTS) as conn:
            found = await settings_store.find(conn, tenant_id)
            if found is None:
                raise TenantNotFound(tenant_id)
            settings = replace(found, **wanted)
            await settings_store.put(conn, settings, now)
            await audit.record(conn, call, _audited(found, settings), now)
        return _settings(settings)

    async def _change(self, call: Call, agent_id: UUID, wanted: dict[str, Any]) -> AgentView:
        async def change() -> AgentView:
            async with self._db.transaction(access.scope(call.caller)) as conn:
                return await config.change(
                    conn, call, agent_id, wanted, self._ledger, self._clock.now()
                )

        view = await retry_on_serialization_failure(change)
        self._sessions.signal_agent(agent_id)
        if view.instance_id and view.enabled:
            self._ledger.wake(view.tenant_id, view.instance_id)
        return view


def _audited(before: Settings, after: Settings) -> audit.Change:
    old, new = asdict(before), asdict(after)
    changed = [name for name in new if new[name] != old[name]]
    return audit.Change(
        "fleet_settings.update",
        "tenant",
        str(after.tenant_id),
        after.tenant_id,
        before={name: old[name] for name in changed},
        after={name: new[name] for name in changed},
    )


def _settings(row: Settings) -> pb.FleetSettings:
    return pb.FleetSettings(
        tenant_id=str(row.tenant_id),
        max_agents=row.max_agents,
        max_instances=row.max_instances,
        auto_switch_enabled=row.auto_switch_enabled,
        auto_terminate_enabled=row.auto_terminate_enabled,
        terminate_wait_seconds=row.terminate_wait_seconds,
        min_savings_percent=float(row.min_savings_percent),
        risk_threshold=float(row.risk_threshold),
        max_switches_per_week=row.max_switches_per_week,
        max_switches_per_day=row.max_switches_per_day,
        min_pool_duration_hours=row.min_pool_duration_hours,
    )
