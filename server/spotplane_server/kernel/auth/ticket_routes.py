"""Routes that accept tickets, each with its RPC and tenant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

# The group is a tenant's id.
_ROUTES: Final = {
    re.compile(r"/api/client/([^/]+)/export/savings"): "SavingsService/ExportSavings",
    re.compile(r"/api/client/([^/]+)/export/switch-history"): "FleetService/ExportSwitches",
    re.compile(r"/api/admin/export/global-stats"): "InsightService/ExportGlobalStats",
    re.compile(r"/api/events/stream"): "EventService/Subscribe",
    re.compile(r"/api/events/stream/([^/]+)"): "EventService/Subscribe",
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a ticket opens.

    Attributes:
        method: The RPC, as in `/package.Service/Method`.
        tenant_id: The tenant that the request must name, in lower case; empty for none.
    """

    method: str
    tenant_id: str

    def opens(self, request: Any) -> bool:
        """Whether a request names the tenant of the ticket and no other."""
        return _named(getattr(request, "tenant_id", "")) == self.tenant_id


def target(path: str) -> Target | None:
    """The target of a path with its query; None for a path that takes no tickets."""
    place, _, query = path.partition("?")
    for pattern, method in _ROUTES.items():
        match = pattern.fullmatch(place)
        if match is not None:
            tenant_id = match[1] if pattern.groups else dict(parse_qsl(query)).get("client_id", "")
            return Target(f"/spotplane.v1.{method}", _named(unquote(tenant_id)))
    return None


def _named(tenant_id: str) -> str:
    return "" if tenant_id == "all" else tenant_id.lower()
