"""Every question about usage, asked about one tenant, and how many requests its answer tells of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import Message
from spotplane.v1 import usage_pb2 as pb

from tests.support.plane import ADMIN
from tests.usage.world import Owner

# By a tenant's own key.
OWN: Final[Mapping[str, Message]] = {
    "GetUsageSummary": pb.GetUsageSummaryRequest(),
    "ListUsageByModel": pb.ListUsageByModelRequest(),
    "ListUsageByKey": pb.ListUsageByKeyRequest(),
    "ListUsageByDate": pb.ListUsageByDateRequest(),
    "GetUsageDetailed": pb.GetUsageDetailedRequest(group_by="region"),
    "GetUsageByHour": pb.GetUsageByHourRequest(),
    "GetUsageByDay": pb.GetUsageByDayRequest(),
    "GetUsageByWeek": pb.GetUsageByWeekRequest(),
    "GetUsageByMonth": pb.GetUsageByMonthRequest(),
    "GetPerformanceMetrics": pb.GetPerformanceMetricsRequest(),
    "GetThroughputMetrics": pb.GetThroughputMetricsRequest(),
    "GetModelMetrics": pb.GetModelMetricsRequest(),
    "GetLatencyMetrics": pb.GetLatencyMetricsRequest(),
    "GetTokenMetrics": pb.GetTokenMetricsRequest(),
}


def of(owner: Owner) -> dict[str, tuple[Message, Any]]:
    """All of them: what is sent, and by whom."""
    tenant = str(owner.id)
    own = {name: (request, owner.metadata) for name, request in OWN.items()}
    return own | {
        "GetTenantUsageDetailed": (pb.GetTenantUsageDetailedRequest(id=tenant), ADMIN),
        "ListTenantDeployments": (pb.ListTenantDeploymentsRequest(id=tenant), ADMIN),
        "ListHourlyUsage": (pb.ListHourlyUsageRequest(tenant_id=tenant), ADMIN),
    }


def requests(answer: Message) -> int:
    """The sum over an answer's rows."""
    rows = next(
        getattr(answer, name)
        for name in ("data", "models", "metrics", "by_model", "time_series")
        if name in answer.DESCRIPTOR.fields_by_name
    )
    return sum(
        getattr(row, "total_requests" if hasattr(row, "total_requests") else "requests")
        for row in rows
    )
