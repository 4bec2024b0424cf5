"""Access policy: the permitted callers of each method; everything else is denied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from spotplane_server.kernel.errors import Forbidden
from spotplane_server.kernel.request_context import Caller, Role

READ: Final = frozenset[Role]({"read_only", "developer", "admin"})
DEVELOP: Final = frozenset[Role]({"developer", "admin"})
ADMIN: Final = frozenset[Role]({"admin"})
AGENTS: Final = frozenset[Role]({"agent", "admin"})
# The agent role reads what agents need to work; it reads no keys and no analytics.
FLEET_READ: Final = frozenset[Role]({"read_only", "developer", "admin", "agent"})
NOBODY: Final = frozenset[Role]()
_MACHINES: Final = frozenset[Role]({"agent"})


class RoleForbidden(Forbidden):
    """The key's role may not do this."""

    reason = "ROLE_FORBIDDEN"


class ScopeForbidden(Forbidden):
    """The administrator's scopes do not cover this."""

    reason = "SCOPE_FORBIDDEN"


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call one method.

    Attributes:
        roles: Roles of tenant keys.
        scope: Scope of administrators; None keeps them out.
        agent: Whether an agent's own credential is enough (the handler checks that it is its own).
        public: Whether no credential is needed.
        fleet: Whether the budgets of the fleet apply instead of the key's requests a minute.
        emergency: Whether its budgets are its own, so that no other call starves it.
        ticket: Whether a ticket is a credential here.
        endless: Whether the call is a conversation of days, which takes no permit.
        session: Whether it is the stream of an agent's session.
        despite_stop: Whether a key may call it although a spend budget stops it.
    """

    roles: frozenset[Role] = NOBODY
    scope: str | None = None
    agent: bool = False
    public: bool = False
    fleet: bool = False
    emergency: bool = False
    ticket: bool = False
    endless: bool = False
    session: bool = False
    despite_stop: bool = False

    @property
    def stoppable(self) -> bool:
        """Whether a used-up spend budget refuses it: neither a read, nor anything of machines."""
        spared = self.despite_stop or self.fleet or "read_only" in self.roles
        return not (spared or self.roles <= _MACHINES)

    @property
    def admin_only(self) -> bool:
        """Whether only administrators may call."""
        return not self.roles and not self.agent and not self.public


PUBLIC: Final = Access(public=True)
_ADMIN_READ: Final = Access(scope="admin:read")
_ADMIN_WRITE: Final = Access(scope="admin:write")
_FLEET_READ: Final = Access(FLEET_READ, "admin:read", agent=True, fleet=True)
_FLEET_WRITE: Final = Access(ADMIN, "admin:write", fleet=True)
_OVERVIEW: Final = Access(scope="admin:read", fleet=True)
_FOR_BROWSERS: Final = Access(FLEET_READ, "admin:read", fleet=True, ticket=True)
_EMERGENCY: Final = Access(AGENTS, "admin:write", agent=True, fleet=True, emergency=True)
_NODE_WRITE: Final = Access(scope="nodes:write")
_NODE_AGENT: Final = Access(frozenset[Role]({"agent"}), "nodes:write")
_FLEET_AGENT: Final = Access(AGENTS, "admin:write", agent=True, fleet=True)

_SERVICES: Final[dict[str, dict[str, Access]]] = {
    "TenantService": {
        "CreateTenant": _ADMIN_WRITE,
        "ResolveTenant": _ADMIN_WRITE,
        "ListTenants": _ADMIN_READ,
        "GetTenant": _ADMIN_READ,
        "UpdateTenant": _ADMIN_WRITE,
        "DeleteTenant": _ADMIN_WRITE,
        "SuspendTenant": _ADMIN_WRITE,
        "ActivateTenant": _ADMIN_WRITE,
        "ExportTenant": Access(scope="export"),
        "ListEnvironments": _ADMIN_READ,
        "GetEnvironment": _ADMIN_READ,
        "UpdateEnvironment": _ADMIN_WRITE,
        "CreateClient": Access(scope="admin:write", fleet=True),
        "RotateClientToken": Access(scope="admin:write", fleet=True),
        "RevealClientToken": Access(scope="admin:read", fleet=True),
    },
    "CallerService": {
        "ValidateCaller": Access(FLEET_READ, "admin:read", agent=True, fleet=True),
        "MintTicket": Access(FLEET_READ, "admin:read", agent=True, fleet=True),
        "GetServiceInfo": Access(FLEET_READ, "admin:read", agent=True, fleet=True),
    },
    "ApiKeyService": {
        "CreateApiKey": _ADMIN_WRITE,
        "ListApiKeys": _ADMIN_READ,
        "ListApiKeysFlat": _ADMIN_READ,
        "ListTenantApiKeys": _ADMIN_READ,
        "RevokeApiKey": _ADMIN_WRITE,
        "UpdateApiKey": _ADMIN_WRITE,
        "RotateApiKey": _ADMIN_WRITE,
        "SuspendApiKey": _ADMIN_WRITE,
        "ActivateApiKey": _ADMIN_WRITE,
        "CreateOwnApiKey": Access(DEVELOP),
        "ListOwnApiKeys": Access(READ),
        # A leaked key is ended whatever was spent with it.
        "RevokeOwnApiKey": Access(DEVELOP, despite_stop=True),
        "RotateOwnApiKey": Access(DEVELOP),
    },
    "RegionService": {
        "ListRegions": _ADMIN_READ,
        "ListRegionsFlat": _ADMIN_READ,
        "CreateRegion": _ADMIN_WRITE,
        "GetRegion": _ADMIN_READ,
        "UpdateRegion": _ADMIN_WRITE,
        "DeleteRegion": _ADMIN_WRITE,
        "GetRegionAvailability": _ADMIN_READ,
    },
    "InstanceTypeService": {
        "ListInstanceTypes": _ADMIN_READ,
        "ListInstanceTypesFlat": _ADMIN_READ,
        "CreateInstanceType": _ADMIN_WRITE,
        "GetInstanceType": _ADMIN_READ,
        "UpdateInstanceType": _ADMIN_WRITE,
        "DeleteInstanceType": _ADMIN_WRITE,
        "AssociateRegions": _ADMIN_WRITE,
        "GetInstanceTypePricing": _ADMIN_READ,
    },
    "ModelService": {
        "CreateModel": _ADMIN_WRITE,
        "GetModel": _ADMIN_READ,
        "ListModels": _ADMIN_READ,
        "SearchModels": _ADMIN_READ,
        "UpdateModel": _ADMIN_WRITE,
        "DeleteModel": _ADMIN_WRITE,
        "ListLaunchableModels": _ADMIN_READ,
        # Whoever serves a model asks for it as whoever uses it does.
        "ListPublicModels": Access(FLEET_READ),
        "GetPublicModel": Access(FLEET_READ),
        "ListEndpoints": Access(READ),
        "GetEndpoint": Access(READ),
    },
    "AgentService": {
        "Register": _FLEET_AGENT,
        "Connect": Access(AGENTS, agent=True, fleet=True, endless=True, session=True),
        "ListAgents": Access(FLEET_READ, "admin:read", fleet=True),
        "GetAgent": _FLEET_READ,
        "UpdateAgentConfig": _FLEET_WRITE,
        "DeleteAgent": _FLEET_WRITE,
        "IssueCommand": _FLEET_WRITE,
        "ListCommands": _FLEET_READ,
        "GetCommand": _FLEET_READ,
        "CancelCommand": _FLEET_WRITE,
        "Heartbeat": _FLEET_AGENT,
        "GetAgentConfig": _FLEET_READ,
        "SetAgentEnabled": _FLEET_WRITE,
        "ListAgentOverviews": _ADMIN_READ,
        "ListTenantAgents": Access(FLEET_READ, "admin:read", fleet=True),
        "ListAgentHistory": Access(FLEET_READ, "admin:read", fleet=True),
        "GetHealthSummary": _ADMIN_READ,
        "LeaseCommands": _FLEET_AGENT,
        "CompleteCommand": _FLEET_AGENT,
        "ReportTermination": _FLEET_AGENT,
        "ReportShutdown": _FLEET_AGENT,
        "UninstallAgent": Access(AGENTS, "admin:write", fleet=True),
        "GetFleetSettings": _ADMIN_READ,
        "UpdateFleetSettings": _ADMIN_WRITE,
    },
    "ReplicaService": {
        "CreateReplica": _FLEET_AGENT,
        "ListReplicas": _FLEET_READ,
        "GetReplica": _FLEET_READ,
        "PromoteReplica": _FLEET_AGENT,
        "DeleteReplica": _FLEET_AGENT,
        "PollReplicas": _FLEET_READ,
        "ListTenantReplicas": Access(FLEET_READ, "admin:read", fleet=True),
        "GetReplicaConfig": _FLEET_READ,
        "RegisterReplicaInstance": _FLEET_AGENT,
        "BindReplicaInstance": _FLEET_AGENT,
        "ReportReplicaStatus": _FLEET_AGENT,
        "ReportReplicaSync": _FLEET_AGENT,
    },
    "FailoverService": {
        "ReportNotice": _EMERGENCY,
        "ListFailovers": _FLEET_READ,
        "GetFailover": _FLEET_READ,
        "CreateEmergencyReplica": _EMERGENCY,
        "HandleTerminationNotice": _EMERGENCY,
        "HandleRebalance": _EMERGENCY,
        "GetEmergencyStatus": _FLEET_READ,
        "ListEmergencyEvents": _ADMIN_READ,
    },
    "DecisionService": {
        "GetRecommendation": _FLEET_READ,
        "IssueSwitch": _FLEET_AGENT,
        "Decide": _FLEET_AGENT,
        "ListAgentDecisions": Access(FLEET_READ, "admin:read", fleet=True),
        "UploadEngine": _ADMIN_WRITE,
        "UploadModel": _ADMIN_WRITE,
        "ActivateSession": _ADMIN_WRITE,
        "ActivateFallback": _ADMIN_WRITE,
        "ListSessions": _OVERVIEW,
        "GetEngineStatus": _OVERVIEW,
    },
    "FleetService": {
        "ListInstances": Access(FLEET_READ, "admin:read", fleet=True),
        "ListSwitchOptions": Access(FLEET_READ, "admin:read", fleet=True),
        "ForceSwitch": _FLEET_WRITE,
        "ListInstancesToTerminate": _FLEET_READ,
        "ReportInstanceTermination": _FLEET_AGENT,
        "ReportSwitch": _FLEET_AGENT,
        "ReportInstanceLaunched": _FLEET_AGENT,
        "RegisterInstance": _FLEET_WRITE,
        "ReportCleanup": _FLEET_AGENT,
        "ListSwitches": Access(FLEET_READ, "admin:read", fleet=True),
        "ExportSwitches": _FOR_BROWSERS,
        "ListInstanceLogs": Access(FLEET_READ, "admin:read", fleet=True),
        "BulkExecute": _ADMIN_WRITE,
    },
    "NodeService": {
        "ListNodes": _ADMIN_READ,
        "ListNodesFlat": _ADMIN_READ,
        "GetNode": _ADMIN_READ,
        "GetNodeStatus": _ADMIN_READ,
        "RegisterNode": _NODE_AGENT,
        "Heartbeat": _NODE_AGENT,
        "LaunchNode": _NODE_WRITE,
        "LaunchInstance": _NODE_WRITE,
        "GetLaunchStatus": _ADMIN_READ,
        "TerminateNode": _NODE_WRITE,
        "DrainNode": _NODE_AGENT,
        "ReportTermination": _NODE_AGENT,
        "DeregisterNode": _NODE_AGENT,
        "ListNodeLogs": _ADMIN_READ,
        "StreamNodeLogs": Access(scope="admin:read", endless=True),
        "LeaseNodeOperations": _NODE_WRITE,
        "ReportNodeOperation": _NODE_WRITE,
    },
    "UsageService": {
        # What was used must be billed.
        "IngestUsage": Access(AGENTS, "usage:write", despite_stop=True),
        "IngestUsageBatch": Access(AGENTS, "usage:write", despite_stop=True),
        "GetUsageByHour": Access(READ),
        "GetUsageSummary": Access(READ),
        "ListUsageByModel": Access(READ),
        "ListUsageByKey": Access(READ),
        "ListUsageByDate": Access(READ),
        "GetUsageByDay": Access(READ),
        "GetUsageByWeek": Access(READ),
        "GetUsageByMonth": Access(READ),
        "GetPerformanceMetrics": Access(READ),
        "GetThroughputMetrics": Access(READ),
        "GetModelMetrics": Access(READ),
        "GetLatencyMetrics": Access(READ),
        "GetTokenMetrics": Access(READ),
        "ListHourlyUsage": _ADMIN_READ,
        "ListHourlyUsageFlat": _ADMIN_READ,
        "VerifyRollups": _ADMIN_READ,
        "RefreshRollups": _ADMIN_WRITE,
        "ListUsageDeadLetters": _ADMIN_READ,
        "RetryUsageDeadLetters": Access(scope="usage:write"),
        "DiscardUsageDeadLetters": _ADMIN_WRITE,
        "GetUsageDetailed": Access(READ),
        "GetTenantUsageDetailed": _ADMIN_READ,
        "ListTenantDeployments": _ADMIN_READ,
    },
    "NotificationService": {
        "ListNotifications": Access(FLEET_READ, "admin:read", fleet=True),
        "MarkRead": _FLEET_WRITE,
        "MarkAllRead": _FLEET_WRITE,
        "CreatePricingAlert": _FLEET_WRITE,
        "ListPricingAlerts": Access(FLEET_READ, "admin:read", fleet=True),
        "DeletePricingAlert": _FLEET_WRITE,
    },
    "SavingsService": {
        "GetSavings": Access(FLEET_READ, "admin:read", fleet=True),
        "GetCharts": Access(FLEET_READ, "admin:read", fleet=True),
        "ExportSavings": _FOR_BROWSERS,
        "GetDowntime": Access(FLEET_READ, "admin:read", fleet=True),
    },
    "InsightService": {
        "GetFleetStats": _OVERVIEW,
        "ListTenantSummaries": _OVERVIEW,
        "GetTenantGrowth": _OVERVIEW,
        "ListActivity": _OVERVIEW,
        "GetSystemHealth": _OVERVIEW,
        "GetTenantSummary": Access(FLEET_READ, "admin:read", fleet=True),
        "GetInstanceMetrics": Access(FLEET_READ, "admin:read", fleet=True),
        "GetAgentStatistics": _FLEET_READ,
        "ExportGlobalStats": Access(scope="admin:read", fleet=True, ticket=True),
        "Search": _OVERVIEW,
        "GetOperationalMetrics": _OVERVIEW,
    },
    "MarketService": {
        "ReportPrices": _FLEET_AGENT,
        "GetInstancePricing": Access(FLEET_READ, "admin:read", fleet=True),
        "GetPriceHistory": Access(FLEET_READ, "admin:read", fleet=True),
        "GetAgentPriceHistory": Access(FLEET_READ, "admin:read", fleet=True),
        "GetPoolStatistics": _OVERVIEW,
        "GetPoolVolatility": Access(FLEET_READ, "admin:read", fleet=True),
        "SimulateSwitch": _FLEET_WRITE,
        "ListPipelineRuns": _OVERVIEW,
    },
    "BudgetService": {
        "CreateBudget": _ADMIN_WRITE,
        "ListBudgets": _ADMIN_READ,
        "GetBudget": _ADMIN_READ,
        "UpdateBudget": _ADMIN_WRITE,
        "DeleteBudget": _ADMIN_WRITE,
        "ListOwnBudgets": Access(READ),
    },
    "AuditService": {
        "ListAuditEvents": _ADMIN_READ,
        "GetAuditEvent": _ADMIN_READ,
    },
    "EventService": {
        "WatchEvents": Access(FLEET_READ, "admin:read", endless=True),
        "Subscribe": Access(FLEET_READ, "admin:read", fleet=True, ticket=True, endless=True),
    },
}

METHODS: Final[dict[str, Access]] = {
    f"/spotplane.v1.{service}/{method}": access
    for service, methods in _SERVICES.items()
    for method, access in methods.items()
} | {
    "/grpc.health.v1.Health/Check": PUBLIC,
    "/grpc.health.v1.Health/Watch": PUBLIC,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": PUBLIC,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": PUBLIC,
}


def check(access: Access, caller: Caller) -> None:
    """Refuse a proven caller that may not call the method.

    Raises:
        RoleForbidden, ScopeForbidden: It may not.
    """
    if caller.kind == "admin":
        if access.scope is None or access.scope not in caller.scopes:
            raise ScopeForbidden(
                f"the administrator credential lacks scope {access.scope or 'none'}",
                scope=access.scope or "none",
            )
    elif caller.kind == "agent":
        if not access.agent:
            raise RoleForbidden(
                "an agent's own credential may not do this", role="agent credential"
            )
    elif caller.role not in access.roles:
        raise RoleForbidden(f"role {caller.role} may not do this", role=str(caller.role))
