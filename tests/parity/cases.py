"""Valid requests of each RPC; invalid ones are derived from the routes themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.parity.worlds import INSTANCE_TYPE, MODEL, NODE, RECORD, REGISTRATION

NOBODYS_ID: Final = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        rule: The rule that it tests.
        status: Expected status of both frontends.
        path: Values of the path's variables; placeholders of `World` are filled in.
        query: Query string.
        body: JSON body.
        after: Names that must exist before, although the request does not contain them.
        code: The error's code.
    """

    rule: str
    status: int = 200
    path: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    body: Any = None
    after: tuple[str, ...] = ()
    code: str | None = None


def _at(rule: str, /, status: int = 200, **path: str) -> Case:
    return Case(rule, status, path)


_WINDOW: Final = "start_date=2026-01-01T00:00:00Z&end_date=2026-02-01T00:00:00Z"

_LAUNCH: Final = {"provider": "aws", "region": "{region_code}", "model": "m-{mark}"}

# The last case of an RPC may use up its object; the ones before it may not.
CASES: Final[dict[str, tuple[Case, ...]]] = {
    "TenantService.CreateTenant": (
        Case("no e-mail", 400, body={"name": "x"}, code="MISSING_FIELD"),
        Case(
            "all members",
            201,
            body={
                "name": "New {mark}",
                "email": "new-{mark}@example.com",
                "tier": "reserved",
                "metadata": {"deep": [{"x": None}, 1.5, "\u00e9\u2603"]},
                "region_preferences": {},
            },
        ),
        Case(
            "same e-mail again",
            409,
            body={"name": "x", "email": "NEW-{mark}@example.com"},
            code="EMAIL_TAKEN",
        ),
    ),
    "TenantService.ResolveTenant": (
        Case("new", 201, body={"email": "res-{mark}@example.com", "name": "R"}),
        Case("known", 200, body={"email": "res-{mark}@example.com"}),
    ),
    "TenantService.ListTenants": (
        Case("filtered", query="search={mark}&limit=1", after=("tenant",)),
        Case("beyond the page", 400, query="limit=101", code="OUT_OF_RANGE"),
        Case("no such status", 400, query="status=asleep", code="UNKNOWN_ENUM"),
    ),
    "TenantService.GetTenant": (_at("found", id="{tenant}"),),
    "TenantService.UpdateTenant": (
        Case("nothing to update", 400, {"id": "{tenant}"}, body={}, code="NO_FIELDS"),
        Case("renamed", 200, {"id": "{tenant}"}, body={"name": "Renamed {mark}"}),
    ),
    "TenantService.DeleteTenant": (
        _at("deleted", id="{tenant}"),
        Case("again", 409, {"id": "{tenant}"}, code="TENANT_DELETED"),
    ),
    "TenantService.SuspendTenant": (
        Case("with a reason", 200, {"id": "{tenant}"}, body={"reason": "unpaid"}),
        Case("again, no body", 409, {"id": "{tenant}"}, code="TENANT_ALREADY_SUSPENDED"),
    ),
    "TenantService.ActivateTenant": (
        Case("active already", 409, {"id": "{tenant}"}, code="TENANT_ALREADY_ACTIVE"),
        Case("suspended before", 200, {"id": "{suspended}"}, body={"notes": "paid"}),
    ),
    "TenantService.ExportTenant": (
        Case("no such format", 400, {"id": "{tenant}"}, "format=xml", code="UNKNOWN_ENUM"),
        Case("as CSV", 200, {"id": "{tenant}"}, "format=csv"),
    ),
    "TenantService.ListEnvironments": (
        Case("one page", 200, {"id": "{tenant}"}, "limit=1", after=("environment",)),
    ),
    "TenantService.GetEnvironment": (_at("found", id="{tenant}", environment_id="{environment}"),),
    "TenantService.UpdateEnvironment": (
        Case(
            "nothing to update",
            400,
            {"id": "{tenant}", "environment_id": "{environment}"},
            body={},
            code="NO_FIELDS",
        ),
        Case(
            "quotas",
            200,
            {"id": "{tenant}", "environment_id": "{environment}"},
            body={
                "requests_per_minute": 1_000_000,
                "quota_tokens_per_minute": 10_000,
                "quota_tokens_per_day": 1_000_000_000_000,
                "concurrency_limit": 1000,
            },
        ),
    ),
    "ApiKeyService.CreateApiKey": (
        Case("no such role", 400, body={"tenant_id": "{tenant}", "role": "x"}, code="UNKNOWN_ENUM"),
        Case(
            "all members",
            201,
            body={
                "tenant_id": "{tenant}",
                "name": "n-{mark}",
                "role": "agent",
                "rate_limit": 5,
                "expires_at": "{tomorrow}",
            },
        ),
    ),
    "ApiKeyService.ListApiKeysFlat": (
        Case("bare array", 200, {"tenant_id": "{tenant}"}, after=("key",)),
        Case("envelope", 200, {"tenant_id": "{tenant}"}, "envelope=true"),
    ),
    "ApiKeyService.ListTenantApiKeys": (
        Case("one page", 200, {"id": "{tenant}"}, "limit=1", after=("key",)),
    ),
    "ApiKeyService.RevokeApiKey": (
        _at("revoked", key_id="{key}"),
        Case("again", 409, {"key_id": "{key}"}, code="KEY_REVOKED"),
    ),
    "ApiKeyService.UpdateApiKey": (
        Case("nothing to update", 400, {"key_id": "{key}"}, body={}, code="NO_FIELDS"),
        Case("new limit", 200, {"key_id": "{key}"}, body={"rate_limit_rpm": 7}),
    ),
    "ApiKeyService.RotateApiKey": (
        Case("no grace", 201, {"key_id": "{key}"}, body={"grace_period_seconds": 0}),
    ),
    "ApiKeyService.SuspendApiKey": (
        Case("suspended", 200, {"key_id": "{key}"}),
        Case("again", 409, {"key_id": "{key}"}, code="KEY_ALREADY_SUSPENDED"),
    ),
    "ApiKeyService.ActivateApiKey": (
        Case("active already", 409, {"key_id": "{key}"}, code="KEY_ALREADY_ACTIVE"),
        Case("suspended before", 200, {"key_id": "{suspended_key}"}),
    ),
    "ApiKeyService.CreateOwnApiKey": (Case("made", 201, body={"name": "own-{mark}"}),),
    "ApiKeyService.ListOwnApiKeys": (Case("one page", query="limit=5", after=("key",)),),
    "ApiKeyService.RevokeOwnApiKey": (_at("revoked", key_id="{key}"),),
    "ApiKeyService.RotateOwnApiKey": (Case("default grace", 201, {"key_id": "{key}"}),),
    "BudgetService.CreateBudget": (
        Case("no limit", 400, {"tenant_id": "{tenant}"}, body={"name": "b"}, code="MISSING_FIELD"),
        Case(
            "no such period",
            400,
            {"tenant_id": "{tenant}"},
            body={"name": "b", "limit_usd": 1, "period": "year"},
            code="UNKNOWN_ENUM",
        ),
        Case(
            "all members",
            201,
            {"tenant_id": "{tenant}"},
            body={
                "name": "b-{mark}",
                "limit_usd": 12.5,
                "period": "week",
                "alert_thresholds_pct": [90, 10],
                "hard_stop": True,
                "api_key_id": "{key}",
            },
        ),
    ),
    "BudgetService.ListBudgets": (
        Case("one page", 200, {"tenant_id": "{tenant}"}, "limit=1", after=("budget",)),
        Case("beyond the page", 400, {"tenant_id": "{tenant}"}, "limit=101", code="OUT_OF_RANGE"),
    ),
    "BudgetService.GetBudget": (_at("never ends", tenant_id="{tenant}", id="{budget}"),),
    "BudgetService.UpdateBudget": (
        Case(
            "nothing to update",
            400,
            {"tenant_id": "{tenant}", "id": "{budget}"},
            body={},
            code="NO_FIELDS",
        ),
        Case(
            "immutable",
            422,
            {"tenant_id": "{tenant}", "id": "{budget}"},
            body={"name": "x", "period": "day"},
            code="SEMANTIC",
        ),
        Case(
            "raised",
            200,
            {"tenant_id": "{tenant}", "id": "{budget}"},
            body={"limit_nanos": "1500000000"},
        ),
    ),
    "BudgetService.DeleteBudget": (
        _at("deleted", tenant_id="{tenant}", id="{budget}"),
        Case("again", 404, {"tenant_id": "{tenant}", "id": "{budget}"}, code="BUDGET_NOT_FOUND"),
    ),
    "BudgetService.ListOwnBudgets": (Case("own", after=("budget",)),),
    "AuditService.ListAuditEvents": (
        Case("of a tenant", query="tenant_id={tenant}&action=tenant.create&limit=1"),
        Case("bare date", 400, query="start_date=2026-01-01", code="INVALID_DATE"),
        Case("forged token", 400, query="page_token=x", code="INVALID_PAGE_TOKEN"),
    ),
    "AuditService.GetAuditEvent": (
        Case("unknown", 404, {"id": NOBODYS_ID}, code="AUDIT_EVENT_NOT_FOUND"),
    ),
    "RegionService.ListRegionsFlat": (
        Case("bare array", after=("region",)),
        Case("envelope", query="provider=aws&envelope=true", after=("region",)),
    ),
    "RegionService.CreateRegion": (
        Case("no provider", 400, body={"code": "x-{mark}", "name": "X"}, code="MISSING_FIELD"),
        Case(
            "all members",
            201,
            body={
                "code": "n-{mark}",
                "name": "N",
                "provider": "gcp",
                "city": "Oslo",
                "pricing_multiplier": 0.7,
                "max_nodes": 5,
                "metadata": {"tier": 1},
            },
        ),
        Case(
            "code is taken",
            409,
            body={"code": "n-{mark}", "name": "N", "provider": "aws"},
            code="REGION_CODE_TAKEN",
        ),
    ),
    "RegionService.GetRegion": (_at("found", id="{region}"),),
    "RegionService.UpdateRegion": (
        Case("immutable", 422, {"id": "{region}"}, body={"provider": "gcp"}, code="SEMANTIC"),
        Case("closed", 200, {"id": "{region}"}, body={"available": False}),
    ),
    "RegionService.DeleteRegion": (
        _at("deleted", id="{region}"),
        Case("again", 404, {"id": "{region}"}, code="REGION_NOT_FOUND"),
    ),
    "RegionService.GetRegionAvailability": (
        Case("with a type on sale", 200, {"id": "{region}"}, after=("sold",)),
    ),
    "InstanceTypeService.ListInstanceTypesFlat": (
        Case("bare array", after=("instance_type",)),
        Case("in a region", query="region={region_code}&available=true", after=("sold",)),
    ),
    "InstanceTypeService.CreateInstanceType": (
        Case("no name", 400, body=INSTANCE_TYPE, code="MISSING_FIELD"),
        Case("default spot price", 201, body={**INSTANCE_TYPE, "instance_type": "n.{mark}"}),
        Case(
            "taken",
            409,
            body={**INSTANCE_TYPE, "instance_type": "n.{mark}"},
            code="INSTANCE_TYPE_EXISTS",
        ),
    ),
    "InstanceTypeService.GetInstanceType": (_at("found", id="{instance_type}"),),
    "InstanceTypeService.UpdateInstanceType": (
        Case("new price", 200, {"id": "{instance_type}"}, body={"price_per_hour": 0.6}),
    ),
    "InstanceTypeService.DeleteInstanceType": (_at("deleted", id="{instance_type}"),),
    "InstanceTypeService.AssociateRegions": (
        Case(
            "unknown code",
            422,
            {"id": "{instance_type}"},
            body={"region_codes": ["nowhere"]},
            code="SEMANTIC",
        ),
        Case(
            "associated", 200, {"id": "{instance_type}"}, body={"region_codes": ["{region_code}"]}
        ),
    ),
    "InstanceTypeService.GetInstanceTypePricing": (
        Case("in one region", 200, {"id": "{instance_type}"}, after=("sold",)),
    ),
    "ModelService.CreateModel": (
        Case("made", 201, body={**MODEL, "name": "org/new-{mark}"}),
        Case("taken", 409, body={**MODEL, "name": "org/new-{mark}"}, code="MODEL_NAME_TAKEN"),
    ),
    "ModelService.GetModel": (_at("found", id="{model}"),),
    "ModelService.ListModels": (
        Case("searched", query="search={mark}", after=("model",)),
        Case("no such order", 400, query="sort_by=size", code="UNKNOWN_ENUM"),
    ),
    "ModelService.SearchModels": (
        Case("by all", query="q={mark}&types=chat&max_price_input=0.05", after=("model",)),
        Case("no such type", 400, query="types=chat,image", code="UNKNOWN_ENUM"),
    ),
    "ModelService.UpdateModel": (
        Case("nothing to update", 400, {"id": "{model}"}, body={}, code="NO_FIELDS"),
        Case("new price", 200, {"id": "{model}"}, body={"price_input_per_million": 0.07}),
    ),
    "ModelService.DeleteModel": (
        _at("deleted", 204, id="{model}"),
        Case("again", 404, {"id": "{model}"}, code="MODEL_NOT_FOUND"),
    ),
    "ModelService.ListLaunchableModels": (Case("one at least", after=("model",)),),
    "ModelService.ListPublicModels": (Case("one at least", after=("model",)),),
    "ModelService.GetPublicModel": (
        _at("slash as it is", model="{model_path}"),
        _at("slash in code", model="{model_code}"),
    ),
    "ModelService.ListEndpoints": (
        Case("of a type", query="type=chat", after=("model",)),
        Case("no such type", 400, query="type=image", code="UNKNOWN_ENUM"),
    ),
    "ModelService.GetEndpoint": (
        _at("slash as it is", model="{model_path}"),
        _at("slash in code", model="{model_code}"),
    ),
    "NodeService.ListNodesFlat": (
        Case("bare array", after=("node",)),
        Case("envelope", query="status=active,dead&provider=aws&envelope=true", after=("node",)),
        Case("no such state", 400, query="status=asleep", code="UNKNOWN_ENUM"),
    ),
    "NodeService.GetNode": (Case("found", 200, {"cluster_name": "node-{mark}"}, after=("node",)),),
    "NodeService.GetNodeStatus": (
        Case("found", 200, {"cluster_name": "node-{mark}"}, after=("node",)),
    ),
    "NodeService.RegisterNode": (
        Case("no endpoint", 400, body={"provider": "aws"}, code="MISSING_FIELD"),
        Case("first time", 201, body=NODE),
        Case("again", 200, body=NODE),
        Case("unknown model", 422, body={**NODE, "model_name": "none"}, code="SEMANTIC"),
    ),
    "NodeService.Heartbeat": (
        Case("no score", 400, {"id": "{node}"}, body={}, code="MISSING_FIELD"),
        Case("heard", 200, {"id": "{node}"}, body={"health_score": 87.5, "timestamp": "{now}"}),
    ),
    "NodeService.LaunchNode": (
        Case("neither type nor GPU", 400, body=_LAUNCH, code="MISSING_FIELD"),
        Case(
            "ordered",
            201,
            body={**_LAUNCH, "instance_type": "i.{mark}", "use_spot": True},
            after=("sold", "model"),
        ),
        Case("no such GPU", 422, body={**_LAUNCH, "gpu": "H100"}, code="SEMANTIC"),
    ),
    "NodeService.LaunchInstance": (
        Case("no model", 400, body={"provider": "aws", "region": "x"}, code="MISSING_FIELD"),
        Case(
            "ordered",
            201,
            body={"provider": "aws", "region": "{region_code}", "model_name": "m-{mark}"},
            after=("sold", "model"),
        ),
    ),
    "NodeService.GetLaunchStatus": (
        Case("cancelled", 200, query="job_id={ended_job}"),
        Case("not found", 200, query=f"job_id={NOBODYS_ID}"),
        Case("no id", 400, code="MISSING_FIELD"),
    ),
    "NodeService.TerminateNode": (
        Case("ended", 200, {"cluster_name": "node-{mark}"}, after=("node",)),
        Case("again", 200, {"cluster_name": "node-{mark}"}),
    ),
    "NodeService.DrainNode": (
        Case("drained", 200, {"id": "{node}"}, body={"reason": "upgrade"}),
        Case("again, no body", 200, {"id": "{node}"}),
    ),
    "NodeService.ReportTermination": (
        Case("no instant", 400, {"id": "{node}"}, body={"deadline": "x"}, code="INVALID_DATE"),
        Case("received", 200, {"id": "{node}"}, body={"deadline": "{tomorrow}"}),
    ),
    "NodeService.DeregisterNode": (
        Case("left", 200, {"id": "{node}"}),
        Case("again", 200, {"id": "{node}"}),
    ),
    "NodeService.ListNodeLogs": (
        Case("its end", 200, {"id": "{ended_node}"}, "tail=5"),
        Case("too many", 400, {"id": "{ended_node}"}, "tail=1001", code="OUT_OF_RANGE"),
    ),
    "NodeService.StreamNodeLogs": (
        Case("to its end", 200, {"id": "{ended_node}"}),
        Case("too many", 400, {"id": "{ended_node}"}, "tail=1001", code="OUT_OF_RANGE"),
    ),
    "AgentService.Register": (
        Case("no instance", 400, body={"region": "r"}, code="MISSING_FIELD"),
        Case("first time, with a credential", body={**REGISTRATION, "issue_agent_token": True}),
        Case("again", body=REGISTRATION),
    ),
    "AgentService.ListAgents": (Case("one page", query="limit=1", after=("agent",)),),
    "AgentService.GetAgent": (_at("found", agent_id="{agent}"),),
    "AgentService.UpdateAgentConfig": (
        Case("nothing to update", 400, {"agent_id": "{agent}"}, body={}, code="NO_FIELDS"),
        Case("changed", 200, {"agent_id": "{agent}"}, body={"min_savings_percent": 12.5}),
    ),
    "AgentService.DeleteAgent": (_at("deleted", agent_id="{agent}"),),
    "AgentService.IssueCommand": (
        Case("no such type", 400, {"agent_id": "{agent}"}, body={"type": "x"}, code="UNKNOWN_ENUM"),
        Case(
            "issued",
            201,
            {"agent_id": "{agent}"},
            body={"name": "greet", "parameters": {"n": [1, 2.5]}, "priority": 10},
        ),
    ),
    "AgentService.ListCommands": (
        Case("one page", 200, {"agent_id": "{agent}"}, after=("command",)),
    ),
    "AgentService.GetCommand": (_at("whole story", agent_id="{agent}", command_id="{command}"),),
    "AgentService.CancelCommand": (
        Case(
            "cancelled",
            200,
            {"agent_id": "{agent}", "command_id": "{command}"},
            body={"reason": "not needed"},
        ),
        Case(
            "final",
            409,
            {"agent_id": "{agent}", "command_id": "{command}"},
            code="COMMAND_FINAL",
        ),
    ),
    "ReplicaService.CreateReplica": (
        Case("no pool is known", 409, {"agent_id": "{agent}"}, code="NO_POOL_AVAILABLE"),
    ),
    "ReplicaService.ListReplicas": (_at("none yet", agent_id="{agent}"),),
    "ReplicaService.GetReplica": (
        Case(
            "unknown",
            404,
            {"agent_id": "{agent}", "replica_id": NOBODYS_ID},
            code="REPLICA_NOT_FOUND",
        ),
    ),
    "ReplicaService.PromoteReplica": (
        Case(
            "unknown",
            404,
            {"agent_id": "{agent}", "replica_id": NOBODYS_ID},
            body={"wait_for_sync": True},
            code="REPLICA_NOT_FOUND",
        ),
    ),
    "ReplicaService.DeleteReplica": (
        Case(
            "unknown",
            404,
            {"agent_id": "{agent}", "replica_id": NOBODYS_ID},
            code="REPLICA_NOT_FOUND",
        ),
    ),
    "FailoverService.ReportNotice": (
        Case("no such kind", 400, {"agent_id": "{agent}"}, body={"kind": "x"}, code="UNKNOWN_ENUM"),
        Case("termination", 201, {"agent_id": "{agent}"}, body={"kind": "termination"}),
    ),
    "FailoverService.ListFailovers": (
        Case("one page", 200, {"agent_id": "{agent}"}, after=("failover",)),
    ),
    "FailoverService.GetFailover": (
        _at("with its steps", agent_id="{agent}", failover_id="{failover}"),
    ),
    "UsageService.IngestUsageBatch": (
        Case("stored", body={"records": [RECORD]}, after=("model",)),
        Case("again", body={"records": [RECORD]}),
    ),
    "UsageService.GetUsageByHour": (
        Case("a day", query="hours=3", after=("model", "record")),
        Case("too many", 400, query="hours=169", code="OUT_OF_RANGE"),
    ),
    "UsageService.GetUsageDetailed": (
        Case("by model", query="group_by=model", after=("model", "record")),
        Case("no such group", 400, query="group_by=mood", code="UNKNOWN_ENUM"),
    ),
    "UsageService.GetTenantUsageDetailed": (
        Case("by key", 200, {"id": "{tenant}"}, "group_by=api_key", after=("model", "record")),
        Case(
            "end before start",
            422,
            {"id": "{tenant}"},
            "start_date=2026-02-01T00:00:00Z&end_date=2026-01-01T00:00:00Z",
            code="SEMANTIC",
        ),
    ),
    "UsageService.ListUsageDeadLetters": (
        Case("none", 200, {"tenant_id": "{tenant}"}),
        Case("no such code", 400, {"tenant_id": "{tenant}"}, "code=BAD", code="UNKNOWN_ENUM"),
    ),
    "UsageService.RetryUsageDeadLetters": (
        Case("none", 200, {"tenant_id": "{tenant}"}),
        Case("nobody's", 404, {"tenant_id": NOBODYS_ID}, code="TENANT_NOT_FOUND"),
    ),
    "UsageService.DiscardUsageDeadLetters": (
        Case("none", 200, {"tenant_id": "{tenant}"}, body={"ids": [NOBODYS_ID]}),
        Case("which", 400, {"tenant_id": "{tenant}"}, body={}, code="MISSING_FIELD"),
    ),
    "UsageService.GetUsageSummary": (Case("used", after=("model", "record")),),
    "UsageService.ListUsageByModel": (
        Case("used", after=("model", "record")),
        Case("bare date", 400, query="start_date=2026-01-01", code="INVALID_DATE"),
    ),
    "UsageService.ListUsageByKey": (Case("used", after=("model", "record")),),
    "UsageService.ListUsageByDate": (
        Case("months", query=f"granularity=month&{_WINDOW}"),
        Case("no such step", 400, query="granularity=week", code="UNKNOWN_ENUM"),
    ),
    "UsageService.GetUsageByDay": (
        Case("days", query="days=2", after=("model", "record")),
        Case("too many", 400, query="days=91", code="OUT_OF_RANGE"),
    ),
    "UsageService.GetUsageByWeek": (
        Case("weeks", query="weeks=2", after=("model", "record")),
        Case("too many", 400, query="weeks=53", code="OUT_OF_RANGE"),
    ),
    "UsageService.GetUsageByMonth": (
        Case("months", query="months=2", after=("model", "record")),
        Case("too many", 400, query="months=25", code="OUT_OF_RANGE"),
    ),
    "UsageService.GetPerformanceMetrics": (
        Case("an hour", query="period=1h", after=("model", "record")),
        Case("no such period", 400, query="period=2h", code="UNKNOWN_ENUM"),
    ),
    "UsageService.GetThroughputMetrics": (
        Case("busy minutes", query="fill=none", after=("model", "record")),
    ),
    "UsageService.GetModelMetrics": (Case("a week", query="period=7d", after=("model", "record")),),
    "UsageService.GetLatencyMetrics": (Case("a day", after=("model", "record")),),
    "UsageService.GetTokenMetrics": (Case("a day", after=("model", "record")),),
    "UsageService.ListHourlyUsageFlat": (
        Case("bare array", 200, {"tenant_id": "{tenant}"}, after=("model", "record")),
        Case("envelope", 200, {"tenant_id": "{tenant}"}, "envelope=true"),
    ),
    "UsageService.ListTenantDeployments": (
        Case("used models", 200, {"id": "{tenant}"}, after=("model", "record")),
        Case("none then", 200, {"id": "{tenant}"}, _WINDOW),
    ),
}
