"""Whatever an administrator changes leaves a row, with nothing secret in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import spotplane_server
from spotplane.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    notification_pb2,
    notification_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)
from spotplane_server.kernel.auth import policy
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.invariants import rpcs
from tests.support.clock import FakeClock
from tests.support.plane import ADMIN, Plane, Tenant, bearer

# Every method by which an administrator changes something, and the action that says so.
AUDITED: Final = {
    "TenantService/CreateTenant": "tenant.create",
    "TenantService/ResolveTenant": "tenant.create",
    "TenantService/UpdateTenant": "tenant.update",
    "TenantService/DeleteTenant": "tenant.delete",
    "TenantService/SuspendTenant": "tenant.suspend",
    "TenantService/ActivateTenant": "tenant.activate",
    "TenantService/CreateClient": "tenant.create",
    "TenantService/RotateClientToken": "api_key.rotate",
    "TenantService/UpdateEnvironment": "environment.update",
    "UsageService/DiscardUsageDeadLetters": "usage.dead_letters.discard",
    "ApiKeyService/CreateApiKey": "api_key.create",
    "ApiKeyService/RevokeApiKey": "api_key.revoke",
    "ApiKeyService/UpdateApiKey": "api_key.update",
    "ApiKeyService/RotateApiKey": "api_key.rotate",
    "ApiKeyService/SuspendApiKey": "api_key.suspend",
    "ApiKeyService/ActivateApiKey": "api_key.activate",
    "RegionService/CreateRegion": "region.create",
    "RegionService/UpdateRegion": "region.update",
    "RegionService/DeleteRegion": "region.delete",
    "InstanceTypeService/CreateInstanceType": "instance_type.create",
    "InstanceTypeService/UpdateInstanceType": "instance_type.update",
    "InstanceTypeService/DeleteInstanceType": "instance_type.delete",
    "InstanceTypeService/AssociateRegions": "instance_type.associate_regions",
    "ModelService/CreateModel": "model.create",
    "ModelService/UpdateModel": "model.update",
    "ModelService/DeleteModel": "model.delete",
    "AgentService/UpdateAgentConfig": "agent.update_config",
    "AgentService/SetAgentEnabled": "agent.update_config",
    "AgentService/UpdateFleetSettings": "fleet_settings.update",
    "AgentService/DeleteAgent": "agent.delete",
    "AgentService/UninstallAgent": "agent.delete",
    "AgentService/IssueCommand": "command.issue",
    "AgentService/CancelCommand": "command.cancel",
    "ReplicaService/CreateReplica": "replica.create",
    "ReplicaService/PromoteReplica": "replica.promote",
    "ReplicaService/DeleteReplica": "replica.delete",
    "FailoverService/ReportNotice": "failover.report",
    "FailoverService/CreateEmergencyReplica": "emergency_bypass",
    "FailoverService/HandleTerminationNotice": "emergency_bypass",
    "FailoverService/HandleRebalance": "emergency_bypass",
    "DecisionService/IssueSwitch": "agent.issue_switch",
    "DecisionService/UploadEngine": "engine_session.upload",
    "DecisionService/UploadModel": "engine_session.upload",
    "DecisionService/ActivateSession": "engine_session.activate",
    "DecisionService/ActivateFallback": "engine_session.fallback",
    "FleetService/ForceSwitch": "instance.force_switch",
    "FleetService/RegisterInstance": "instance.register",
    "FleetService/BulkExecute": "instance.terminate",
    "NodeService/RegisterNode": "node.register",
    "NodeService/LaunchNode": "node.launch",
    "NodeService/LaunchInstance": "node.launch",
    "NodeService/TerminateNode": "node.terminate",
    "NodeService/DrainNode": "node.drain",
    "NodeService/ReportTermination": "node.termination_warning",
    "NodeService/DeregisterNode": "node.deregister",
    "TenantService/ExportTenant": "tenant.export",
    "BudgetService/CreateBudget": "budget.create",
    "BudgetService/UpdateBudget": "budget.update",
    "BudgetService/DeleteBudget": "budget.delete",
    "UsageService/RefreshRollups": "usage.refresh_rollups",
    "NotificationService/MarkRead": "notification.read",
    "NotificationService/MarkAllRead": "notification.read",
    "NotificationService/CreatePricingAlert": "pricing_alert.create",
    "NotificationService/DeletePricingAlert": "pricing_alert.delete",
}
# What agents tell of themselves, whoever says it for them, is kept as what it tells of: spans,
# commands, prices. A question changes nothing.
TELLS_OR_ASKS: Final = {
    "AgentService/Register",
    "AgentService/Heartbeat",
    "AgentService/LeaseCommands",
    "AgentService/CompleteCommand",
    "AgentService/ReportTermination",
    "AgentService/ReportShutdown",
    "ReplicaService/RegisterReplicaInstance",
    "ReplicaService/BindReplicaInstance",
    "ReplicaService/ReportReplicaStatus",
    "ReplicaService/ReportReplicaSync",
    "DecisionService/Decide",
    "FleetService/ReportInstanceTermination",
    "FleetService/ReportSwitch",
    "FleetService/ReportInstanceLaunched",
    "FleetService/ReportCleanup",
    "MarketService/ReportPrices",
    "NodeService/Heartbeat",
    "NodeService/LeaseNodeOperations",
    "NodeService/ReportNodeOperation",
    "MarketService/SimulateSwitch",
}
INSERT_NOTIFICATION: Final = """
    INSERT INTO notifications (tenant_id, id, severity, message, created_at)
    VALUES ($1, $2, 'info', 'm', now())
"""


def test_every_method_that_changes_is_accounted_for() -> None:
    """A new one is given its action above."""
    changing = {
        name
        for name, rpc in rpcs.ALL.items()
        if policy.METHODS[rpc.path].scope in {"admin:write", "nodes:write", "export"}
    }

    assert set(AUDITED) | TELLS_OR_ASKS == changing
    assert not set(AUDITED) & TELLS_OR_ASKS


def test_every_action_is_said_somewhere() -> None:
    """As a whole, or as a verb where the kind of thing is put before it."""
    root = Path(spotplane_server.__file__).parent
    source = "".join(path.read_text("utf-8") for path in root.rglob("*.py"))

    assert not [
        action
        for action in AUDITED.values()
        if f'"{action}"' not in source and f'"{action.rpartition(".")[2]}"' not in source
    ]


async def _events(plane: Plane, **filters: Any) -> list[audit_pb2.AuditEvent]:
    stub = audit_pb2_grpc.AuditServiceStub(plane.channel)
    answer = await stub.ListAuditEvents(audit_pb2.ListAuditEventsRequest(**filters), metadata=ADMIN)
    return list(answer.data)


async def _actions(plane: Plane, tenant: Tenant, *wanted: str) -> list[str]:
    """Actions on a tenant's things by the administrator, oldest first; only those wanted."""
    found = await _events(plane, tenant_id=tenant.id, actor="bootstrap")
    return [event.action for event in reversed(found) if event.action in wanted]


async def test_command_is_audited_once_and_without_its_parameters(plane: Plane) -> None:
    """Sending it again under its request id issues nothing, and its parameters may be secret."""
    tenant = await plane.tenant()
    agents = agent_pb2_grpc.AgentServiceStub(plane.channel)
    agent = await agents.Register(
        agent_pb2.RegisterRequest(
            logical_agent_id="chat",
            instance_id="i-1",
            instance_type="g5.xlarge",
            region="us-east-1",
            az="us-east-1a",
        ),
        metadata=tenant.metadata,
    )
    order = agent_pb2.IssueCommandRequest(
        agent_id=agent.agent_id, name="rotate", request_id=str(uuid4())
    )
    order.parameters.update({"password": "hunter2"})
    for _ in range(2):
        issued = await agents.IssueCommand(order, metadata=ADMIN)

    [event] = await _events(plane, tenant_id=tenant.id, action="command.issue")

    assert event.resource_id == issued.id
    assert dict(event.after)["name"] == "rotate"
    assert "hunter2" not in str(event)


async def test_administrators_hand_in_a_tenants_alerts_and_notifications_shows(
    plane: Plane,
) -> None:
    """That the tenant itself reads what it is told is not audited."""
    tenant = await plane.tenant()
    stub = notification_pb2_grpc.NotificationServiceStub(plane.channel)
    ids = [uuid4(), uuid4(), uuid4()]
    async with plane.db.transaction(ALL_TENANTS) as conn:
        for notification_id in ids:
            await conn.execute(INSERT_NOTIFICATION, tenant.id, notification_id)
    for metadata, read in ((bearer(tenant.key), ids[0]), (ADMIN, ids[1])):
        await stub.MarkRead(
            notification_pb2.MarkReadRequest(notification_id=str(read)), metadata=metadata
        )
    for _ in range(2):  # the second finds nothing to mark
        await stub.MarkAllRead(
            notification_pb2.MarkAllReadRequest(tenant_id=tenant.id), metadata=ADMIN
        )
    alert = await stub.CreatePricingAlert(
        notification_pb2.CreatePricingAlertRequest(tenant_id=tenant.id, threshold_nanousd=1),
        metadata=ADMIN,
    )
    await stub.DeletePricingAlert(
        notification_pb2.DeletePricingAlertRequest(tenant_id=tenant.id, alert_id=alert.id),
        metadata=ADMIN,
    )

    wanted = ("notification.read", "pricing_alert.create", "pricing_alert.delete")
    assert await _actions(plane, tenant, *wanted) == [wanted[0], *wanted]
    reads = [e for e in await _events(plane, action="notification.read") if e.tenant_id]
    assert {event.actor_type for event in reads} == {"admin"}


async def test_mending_sums_is_audited_day_by_day(plane: Plane, clock: FakeClock) -> None:
    """Each day is a transaction of its own."""
    tenant = await plane.tenant()
    now = clock.now()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0).isoformat()
    await usage_pb2_grpc.UsageServiceStub(plane.channel).RefreshRollups(
        usage_pb2.RefreshRollupsRequest(
            tenant_id=tenant.id, start_date=today, end_date=now.isoformat()
        ),
        metadata=ADMIN,
    )

    [event] = await _events(plane, tenant_id=tenant.id, action="usage.refresh_rollups")

    assert (event.resource_type, event.resource_id) == ("usage", now.date().isoformat())


async def test_token_of_the_settings_is_audited_when_it_changes(plane: Plane) -> None:
    """By its name and scopes; the token itself is nowhere."""
    [event] = await _events(plane, resource_type="admin_credential")

    assert (event.actor_type, event.actor_name) == ("system", "configuration")
    assert (event.action, event.resource_id) == ("admin_credential.put", "bootstrap")
    assert dict(event.after)["rate_limit_rpm"] == 1_000_000
    assert "test-admin-token" not in str(event)
