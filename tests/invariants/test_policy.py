"""Every RPC has a policy, and the server keeps to it for every kind of caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, get_args
from uuid import uuid4

import asyncpg
import grpc
import pytest
from spotplane.v1 import agent_pb2, agent_pb2_grpc
from spotplane_server.kernel.auth import policy, secrets
from spotplane_server.kernel.db import bootstrap
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.request_context import Role

from tests.invariants import rpcs
from tests.support.plane import ADMIN, Metadata, Plane, Refusal, bearer

ROLES: Final = get_args(Role)
PUBLIC: Final = {
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
}
# Written from the contract and not from the policy, so that a slip in either shows. A row: roles of
# tenant keys (r read_only, d developer, a admin, g agent), whether an agent's own credential is
# enough (+), and the administrator's scope.
READS, WRITES = "- admin:read", "- admin:write"
FLEET_READS, FLEET_WRITES, AGENTS = "rdag+ admin:read", "a admin:write", "ag+ admin:write"
EXPECTED: Final = {
    "TenantService/CreateTenant": WRITES,
    "TenantService/ResolveTenant": WRITES,
    "TenantService/ListTenants": READS,
    "TenantService/GetTenant": READS,
    "TenantService/UpdateTenant": WRITES,
    "TenantService/DeleteTenant": WRITES,
    "TenantService/SuspendTenant": WRITES,
    "TenantService/ActivateTenant": WRITES,
    "TenantService/ExportTenant": "- export",
    "TenantService/ListEnvironments": READS,
    "TenantService/GetEnvironment": READS,
    "TenantService/UpdateEnvironment": WRITES,
    "TenantService/CreateClient": WRITES,
    "TenantService/RotateClientToken": WRITES,
    "TenantService/RevealClientToken": READS,
    "CallerService/ValidateCaller": FLEET_READS,
    "CallerService/MintTicket": FLEET_READS,
    "CallerService/GetServiceInfo": FLEET_READS,
    "ApiKeyService/CreateApiKey": WRITES,
    "ApiKeyService/ListApiKeys": READS,
    "ApiKeyService/ListApiKeysFlat": READS,
    "ApiKeyService/ListTenantApiKeys": READS,
    "ApiKeyService/RevokeApiKey": WRITES,
    "ApiKeyService/UpdateApiKey": WRITES,
    "ApiKeyService/RotateApiKey": WRITES,
    "ApiKeyService/SuspendApiKey": WRITES,
    "ApiKeyService/ActivateApiKey": WRITES,
    "ApiKeyService/CreateOwnApiKey": "da -",
    "ApiKeyService/ListOwnApiKeys": "rda -",
    "ApiKeyService/RevokeOwnApiKey": "da -",
    "ApiKeyService/RotateOwnApiKey": "da -",
    "RegionService/ListRegions": READS,
    "RegionService/ListRegionsFlat": READS,
    "RegionService/CreateRegion": WRITES,
    "RegionService/GetRegion": READS,
    "RegionService/UpdateRegion": WRITES,
    "RegionService/DeleteRegion": WRITES,
    "RegionService/GetRegionAvailability": READS,
    "InstanceTypeService/ListInstanceTypes": READS,
    "InstanceTypeService/ListInstanceTypesFlat": READS,
    "InstanceTypeService/CreateInstanceType": WRITES,
    "InstanceTypeService/GetInstanceType": READS,
    "InstanceTypeService/UpdateInstanceType": WRITES,
    "InstanceTypeService/DeleteInstanceType": WRITES,
    "InstanceTypeService/AssociateRegions": WRITES,
    "InstanceTypeService/GetInstanceTypePricing": READS,
    "ModelService/CreateModel": WRITES,
    "ModelService/GetModel": READS,
    "ModelService/ListModels": READS,
    "ModelService/SearchModels": READS,
    "ModelService/UpdateModel": WRITES,
    "ModelService/DeleteModel": WRITES,
    "ModelService/ListLaunchableModels": READS,
    "ModelService/ListPublicModels": "rdag -",
    "ModelService/GetPublicModel": "rdag -",
    "ModelService/ListEndpoints": "rda -",
    "ModelService/GetEndpoint": "rda -",
    "AgentService/Register": AGENTS,
    "AgentService/Connect": "ag+ -",
    "AgentService/ListAgents": "rdag admin:read",
    "AgentService/GetAgent": FLEET_READS,
    "AgentService/UpdateAgentConfig": FLEET_WRITES,
    "AgentService/DeleteAgent": FLEET_WRITES,
    "AgentService/IssueCommand": FLEET_WRITES,
    "AgentService/ListCommands": FLEET_READS,
    "AgentService/GetCommand": FLEET_READS,
    "AgentService/CancelCommand": FLEET_WRITES,
    "AgentService/Heartbeat": AGENTS,
    "AgentService/GetAgentConfig": FLEET_READS,
    "AgentService/SetAgentEnabled": FLEET_WRITES,
    "AgentService/ListAgentOverviews": READS,
    "AgentService/ListTenantAgents": "rdag admin:read",
    "AgentService/ListAgentHistory": "rdag admin:read",
    "AgentService/GetHealthSummary": READS,
    "AgentService/LeaseCommands": AGENTS,
    "AgentService/CompleteCommand": AGENTS,
    "AgentService/ReportTermination": AGENTS,
    "AgentService/ReportShutdown": AGENTS,
    "AgentService/UninstallAgent": "ag admin:write",
    "AgentService/GetFleetSettings": READS,
    "AgentService/UpdateFleetSettings": WRITES,
    "MarketService/ReportPrices": AGENTS,
    "MarketService/GetInstancePricing": "rdag admin:read",
    "MarketService/GetPriceHistory": "rdag admin:read",
    "MarketService/GetAgentPriceHistory": "rdag admin:read",
    "MarketService/GetPoolStatistics": READS,
    "MarketService/GetPoolVolatility": "rdag admin:read",
    "MarketService/SimulateSwitch": FLEET_WRITES,
    "MarketService/ListPipelineRuns": READS,
    "ReplicaService/CreateReplica": AGENTS,
    "ReplicaService/ListReplicas": FLEET_READS,
    "ReplicaService/GetReplica": FLEET_READS,
    "ReplicaService/PromoteReplica": AGENTS,
    "ReplicaService/DeleteReplica": AGENTS,
    "ReplicaService/PollReplicas": FLEET_READS,
    "ReplicaService/ListTenantReplicas": "rdag admin:read",
    "ReplicaService/GetReplicaConfig": FLEET_READS,
    "ReplicaService/RegisterReplicaInstance": AGENTS,
    "ReplicaService/BindReplicaInstance": AGENTS,
    "ReplicaService/ReportReplicaStatus": AGENTS,
    "ReplicaService/ReportReplicaSync": AGENTS,
    "FailoverService/ReportNotice": AGENTS,
    "FailoverService/ListFailovers": FLEET_READS,
    "FailoverService/GetFailover": FLEET_READS,
    "FailoverService/CreateEmergencyReplica": AGENTS,
    "FailoverService/HandleTerminationNotice": AGENTS,
    "FailoverService/HandleRebalance": AGENTS,
    "FailoverService/GetEmergencyStatus": FLEET_READS,
    "FailoverService/ListEmergencyEvents": READS,
    "FleetService/ListInstances": "rdag admin:read",
    "FleetService/ListSwitchOptions": "rdag admin:read",
    "FleetService/ForceSwitch": FLEET_WRITES,
    "FleetService/ListInstancesToTerminate": FLEET_READS,
    "FleetService/ReportInstanceTermination": AGENTS,
    "FleetService/ReportSwitch": AGENTS,
    "FleetService/ReportInstanceLaunched": AGENTS,
    "FleetService/RegisterInstance": FLEET_WRITES,
    "FleetService/ReportCleanup": AGENTS,
    "FleetService/ListSwitches": "rdag admin:read",
    "FleetService/ExportSwitches": "rdag admin:read",
    "FleetService/ListInstanceLogs": "rdag admin:read",
    "FleetService/BulkExecute": WRITES,
    "DecisionService/GetRecommendation": FLEET_READS,
    "DecisionService/IssueSwitch": AGENTS,
    "DecisionService/Decide": AGENTS,
    "DecisionService/ListAgentDecisions": "rdag admin:read",
    "DecisionService/UploadEngine": WRITES,
    "DecisionService/UploadModel": WRITES,
    "DecisionService/ActivateSession": WRITES,
    "DecisionService/ActivateFallback": WRITES,
    "DecisionService/ListSessions": READS,
    "DecisionService/GetEngineStatus": READS,
    "NodeService/ListNodes": READS,
    "NodeService/ListNodesFlat": READS,
    "NodeService/GetNode": READS,
    "NodeService/GetNodeStatus": READS,
    "NodeService/RegisterNode": "g nodes:write",
    "NodeService/Heartbeat": "g nodes:write",
    "NodeService/LaunchNode": "- nodes:write",
    "NodeService/LaunchInstance": "- nodes:write",
    "NodeService/GetLaunchStatus": READS,
    "NodeService/TerminateNode": "- nodes:write",
    "NodeService/DrainNode": "g nodes:write",
    "NodeService/ReportTermination": "g nodes:write",
    "NodeService/DeregisterNode": "g nodes:write",
    "NodeService/ListNodeLogs": READS,
    "NodeService/StreamNodeLogs": READS,
    "NodeService/LeaseNodeOperations": "- nodes:write",
    "NodeService/ReportNodeOperation": "- nodes:write",
    "UsageService/IngestUsage": "ag usage:write",
    "UsageService/IngestUsageBatch": "ag usage:write",
    "UsageService/GetUsageByHour": "rda -",
    "UsageService/GetUsageSummary": "rda -",
    "UsageService/ListUsageByModel": "rda -",
    "UsageService/ListUsageByKey": "rda -",
    "UsageService/ListUsageByDate": "rda -",
    "UsageService/GetUsageByDay": "rda -",
    "UsageService/GetUsageByWeek": "rda -",
    "UsageService/GetUsageByMonth": "rda -",
    "UsageService/GetPerformanceMetrics": "rda -",
    "UsageService/GetThroughputMetrics": "rda -",
    "UsageService/GetModelMetrics": "rda -",
    "UsageService/GetLatencyMetrics": "rda -",
    "UsageService/GetTokenMetrics": "rda -",
    "UsageService/ListHourlyUsage": READS,
    "UsageService/ListHourlyUsageFlat": READS,
    "UsageService/VerifyRollups": READS,
    "UsageService/RefreshRollups": WRITES,
    "UsageService/ListUsageDeadLetters": READS,
    "UsageService/RetryUsageDeadLetters": "- usage:write",
    "UsageService/DiscardUsageDeadLetters": WRITES,
    "UsageService/GetUsageDetailed": "rda -",
    "UsageService/GetTenantUsageDetailed": READS,
    "UsageService/ListTenantDeployments": READS,
    "NotificationService/ListNotifications": "rdag admin:read",
    "NotificationService/MarkRead": "a admin:write",
    "NotificationService/MarkAllRead": "a admin:write",
    "NotificationService/CreatePricingAlert": "a admin:write",
    "NotificationService/ListPricingAlerts": "rdag admin:read",
    "NotificationService/DeletePricingAlert": "a admin:write",
    "SavingsService/GetSavings": "rdag admin:read",
    "SavingsService/GetCharts": "rdag admin:read",
    "SavingsService/ExportSavings": "rdag admin:read",
    "SavingsService/GetDowntime": "rdag admin:read",
    "InsightService/GetFleetStats": READS,
    "InsightService/ListTenantSummaries": READS,
    "InsightService/GetTenantGrowth": READS,
    "InsightService/ListActivity": READS,
    "InsightService/GetSystemHealth": READS,
    "InsightService/GetTenantSummary": "rdag admin:read",
    "InsightService/GetInstanceMetrics": "rdag admin:read",
    "InsightService/GetAgentStatistics": FLEET_READS,
    "InsightService/ExportGlobalStats": READS,
    "InsightService/Search": READS,
    "InsightService/GetOperationalMetrics": READS,
    "BudgetService/CreateBudget": WRITES,
    "BudgetService/ListBudgets": READS,
    "BudgetService/GetBudget": READS,
    "BudgetService/UpdateBudget": WRITES,
    "BudgetService/DeleteBudget": WRITES,
    "BudgetService/ListOwnBudgets": "rda -",
    "AuditService/ListAuditEvents": READS,
    "AuditService/GetAuditEvent": READS,
    "EventService/WatchEvents": "rdag admin:read",
    "EventService/Subscribe": "rdag admin:read",
}
LETTERS: Final = {"read_only": "r", "developer": "d", "admin": "a", "agent": "g"}
REFUSING: Final = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
BROKEN: Final = {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


def test_every_method_has_a_policy_and_every_policy_a_method() -> None:
    """The table and the protos name the same methods, plus health and reflection."""
    assert set(policy.METHODS) == {rpc.path for rpc in rpcs.ALL.values()} | PUBLIC
    assert {path for path, access in policy.METHODS.items() if access.public} == PUBLIC


def test_every_method_is_in_the_matrix() -> None:
    """A new RPC is given its row above before it is served."""
    assert set(EXPECTED) == set(rpcs.ALL)


def _keys(name: str) -> str:
    return EXPECTED[name].split()[0].strip("-")


def _scope(name: str) -> str | None:
    scope = EXPECTED[name].split()[1]
    return None if scope == "-" else scope


def _is(reason: str, said: Refusal | None) -> bool:
    return said is not None and said.reason == reason and said.code in REFUSING


def _admitted(said: Refusal | None) -> bool:
    # The requests are empty: whatever comes back but a defect comes from behind the gate.
    return said is None or (said.code not in REFUSING | BROKEN and said.reason != "")


async def _faults(
    plane: Plane, metadata: Metadata, expect: Callable[[str], str | None]
) -> dict[str, object]:
    """Call every method; those that do not refuse with the reason expected, None for none."""
    faults: dict[str, object] = {}
    for name, rpc in rpcs.ALL.items():
        said, reason = await rpc.ask(plane.channel, metadata), expect(name)
        if not (_admitted(said) if reason is None else _is(reason, said)):
            faults[name] = (reason, said)
    return faults


async def test_nobody_calls_without_a_credential(plane: Plane) -> None:
    """Administrators' methods ask for their token, the others for a key."""
    assert not await _faults(
        plane, (), lambda name: "API_KEY_MISSING" if _keys(name) else "ADMIN_TOKEN_MISSING"
    )


@pytest.mark.parametrize("form", ["foreign", "damaged", "unknown"])
async def test_nobody_calls_with_a_key_that_was_never_issued(plane: Plane, form: str) -> None:
    """Foreign, damaged or well-formed; on administrators' methods a key counts for nothing."""
    unknown = secrets.issue("live").secret
    key = {"foreign": "garbage", "damaged": unknown[:-1] + "-", "unknown": unknown}[form]
    assert not await _faults(
        plane,
        bearer(key),
        lambda name: "API_KEY_INVALID" if _keys(name) else "ADMIN_TOKEN_MISSING",
    )


@pytest.mark.parametrize("form", ["foreign", "token", "bearer"])
async def test_nobody_calls_with_an_unknown_admin_token(plane: Plane, form: str) -> None:
    """In either place that takes one."""
    token = secrets.issue(secrets.ADMIN_LABEL).secret
    metadata: dict[str, Metadata] = {
        "foreign": (("x-admin-token", "garbage"),),
        "token": (("x-admin-token", token),),
        "bearer": bearer(token),
    }
    assert not await _faults(plane, metadata[form], lambda _name: "ADMIN_TOKEN_INVALID")


@pytest.mark.parametrize("role", ROLES)
async def test_a_key_calls_what_its_role_may_and_nothing_else(plane: Plane, role: str) -> None:
    """Every role against every method."""
    tenant = await plane.tenant(role=role)

    def expect(name: str) -> str | None:
        if not _keys(name):
            return "ADMIN_TOKEN_MISSING"
        return None if LETTERS[role] in _keys(name) else "ROLE_FORBIDDEN"

    assert not await _faults(plane, tenant.metadata, expect)


async def test_an_agents_own_credential_calls_what_agents_need_and_nothing_else(
    plane: Plane,
) -> None:
    """Even where keys of role `agent` may."""
    tenant = await plane.tenant()
    registered = await agent_pb2_grpc.AgentServiceStub(plane.channel).Register(
        agent_pb2.RegisterRequest(
            logical_agent_id="chat",
            instance_id="i-1",
            instance_type="g5.xlarge",
            region="us-east-1",
            az="us-east-1a",
            issue_agent_token=True,
        ),
        metadata=tenant.metadata,
    )

    def expect(name: str) -> str | None:
        if not _keys(name):
            return "ADMIN_TOKEN_MISSING"
        return None if "+" in _keys(name) else "ROLE_FORBIDDEN"

    assert not await _faults(plane, bearer(registered.agent_token), expect)


@pytest.mark.parametrize("scope", [*bootstrap.ALL_SCOPES, None])
async def test_an_administrator_calls_what_its_one_scope_covers(
    plane: Plane, scope: str | None
) -> None:
    """Without a scope nothing, and never what is a tenant's alone."""
    token = secrets.issue(secrets.ADMIN_LABEL).secret
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await bootstrap.put_admin(
            conn,
            "limited",
            token,
            scopes=(scope,) if scope else (),
            rate_limit_rpm=1_000_000,
            now=plane.server.kernel.clock.now(),
        )

    assert not await _faults(
        plane,
        bearer(token),
        lambda name: None if scope and _scope(name) == scope else "SCOPE_FORBIDDEN",
    )


async def test_an_administrator_with_all_scopes_still_is_no_tenant(plane: Plane) -> None:
    """What only keys may call stays theirs."""
    assert not await _faults(plane, ADMIN, lambda name: None if _scope(name) else "SCOPE_FORBIDDEN")


async def test_a_credential_that_lost_its_right_is_refused_everywhere(plane: Plane) -> None:
    """An expired or revoked administrator, and a key of a deleted tenant."""
    token, tenant = secrets.issue(secrets.ADMIN_LABEL).secret, await plane.tenant()
    now = plane.server.kernel.clock.now()
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await bootstrap.put_admin(conn, f"gone-{uuid4()}", token, now=now)
    owner = await asyncpg.connect(plane.database_url)
    try:
        await owner.execute(
            "UPDATE admin_credentials SET revoked_at = now() WHERE name LIKE 'gone-%'"
        )
        await owner.execute("UPDATE tenants SET status = 'deleted'")
    finally:
        await owner.close()

    assert not await _faults(plane, bearer(token), lambda _name: "ADMIN_TOKEN_INVALID")
    assert not await _faults(
        plane,
        tenant.metadata,
        lambda name: "API_KEY_INVALID" if _keys(name) else "ADMIN_TOKEN_MISSING",
    )
