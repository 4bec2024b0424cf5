"""Every route that existing clients call: number, permitted callers, method, path.

Permitted callers: P everyone, A administrators, T the tenant in the path, O the owner of the agent
or
instance in the path, G as O or that agent's own credential, C every caller with a credential.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# Constant, because test processes must agree on the names of tests.
UNKNOWN_ID: Final = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True)
class Promised:
    """One route of the legacy API."""

    id: str
    who: str
    method: str
    path: str

    @property
    def shape(self) -> tuple[str, str]:
        """Method and path, independent of the variables' names."""
        return self.method, shape(self.path)

    def at(self, **values: str) -> str:
        """Return the path with its variables filled in, by default with an unknown id."""
        return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], UNKNOWN_ID), self.path)


def shape(path: str) -> str:
    """Return a path without the names of its variables."""
    return re.sub(r"\{[^}]*\}", "{}", path)


_TABLE: Final = """
1 A GET /api/admin/stats
2 A GET /api/admin/clients
3 A GET /api/admin/clients/growth
4 A GET /api/admin/activity
5 A GET /api/admin/system-health
6 A GET /api/admin/instances
7 A GET /api/admin/agents
8 A POST /api/admin/clients/create
9 A DELETE /api/admin/clients/{client_id}
10 A POST /api/admin/clients/{client_id}/regenerate-token
11 A GET /api/admin/clients/{client_id}/token
12 C GET /api/client/validate
13 T GET /api/client/{client_id}
14 G POST /api/agents/register
15 G POST /api/agents/{agent_id}/heartbeat
16 G GET /api/agents/{agent_id}/config
17 O POST /api/client/agents/{agent_id}/toggle-enabled
18 O POST /api/client/agents/{agent_id}/settings
19 O POST /api/client/agents/{agent_id}/config
20 O DELETE /api/client/agents/{agent_id}
21 T GET /api/client/{client_id}/agents
22 T GET /api/client/{client_id}/agents/decisions
23 T GET /api/client/{client_id}/agents/history
24 T GET /api/client/{client_id}/instances
25 O GET /api/client/instances/{instance_id}/pricing
26 O GET /api/client/instances/{instance_id}/metrics
27 O GET /api/client/instances/{instance_id}/price-history
28 O GET /api/client/instances/{instance_id}/available-options
29 O POST /api/client/instances/{instance_id}/force-switch
30 C GET /api/client/pricing-history
31 T GET /api/client/{client_id}/replicas
32 G GET /api/agents/{agent_id}/replicas
33 G GET /api/agents/{agent_id}/replica-config
34 G POST /api/agents/{agent_id}/replicas
35 G POST /api/agents/{agent_id}/replicas/{replica_id}/promote
36 G DELETE /api/agents/{agent_id}/replicas/{replica_id}
37 G PUT /api/agents/{agent_id}/replicas/{replica_id}
38 G POST /api/agents/{agent_id}/replicas/{replica_id}/status
39 G POST /api/agents/{agent_id}/replicas/{replica_id}/sync-status
40 G POST /api/agents/{agent_id}/create-emergency-replica
41 G POST /api/agents/{agent_id}/termination-imminent
42 G POST /api/agents/{agent_id}/rebalance-recommendation
43 G POST /api/agents/{agent_id}/termination
44 G GET /api/agents/{agent_id}/instances-to-terminate
45 G GET /api/agents/{agent_id}/switch-recommendation
46 G POST /api/agents/{agent_id}/issue-switch-command
47 G POST /api/agents/{agent_id}/decide
48 A POST /api/admin/decision-engine/upload
49 A POST /api/admin/ml-models/upload
50 A POST /api/admin/ml-models/activate
51 A POST /api/admin/ml-models/fallback
52 A GET /api/admin/ml-models/sessions
53 G GET /api/agents/{agent_id}/pending-commands
54 G POST /api/agents/{agent_id}/commands/{command_id}/executed
55 G POST /api/agents/{agent_id}/pricing-report
56 G POST /api/agents/{agent_id}/switch-report
57 G POST /api/agents/{agent_id}/cleanup-report
58 T GET /api/client/{client_id}/savings
59 T GET /api/client/{client_id}/switch-history
60 T GET /api/client/{client_id}/stats/charts
61 T GET /api/client/{client_id}/export/savings
62 T GET /api/client/{client_id}/export/switch-history
63 A GET /api/admin/export/global-stats
64 C GET /api/notifications
65 C POST /api/notifications/{notification_id}/mark-read
66 C POST /api/notifications/mark-all-read
67 A GET /api/admin/search
68 G GET /api/agents/{agent_id}/statistics
69 O GET /api/client/instances/{instance_id}/logs
70 A GET /api/admin/pools/statistics
71 A GET /api/admin/agents/health-summary
72 C GET /api/events/stream
73 T GET /api/client/{client_id}/analytics/downtime
74 O GET /api/client/instances/{instance_id}/pool-volatility
75 G GET /api/agents/{agent_id}/emergency-status
76 O POST /api/client/instances/{instance_id}/simulate-switch
77 A POST /api/admin/bulk/execute
78 T POST /api/client/{client_id}/pricing-alerts
X1 P GET /health
X2 P GET /ready
X3 P GET /metrics
X4 C GET /
X5 C POST /api/tickets
X6 G GET /api/agents/{agent_id}
X7 O POST /api/agents/{agent_id}/register-instance
X8 G POST /api/agents/{agent_id}/termination-report
X9 G GET /api/agents/{agent_id}/replicas/{replica_id}
X10 G POST /api/agents/{agent_id}/mark-command-executed
X11 G GET /api/agents/{agent_id}/commands/pending
X12 G POST /api/agents/{agent_id}/action-result
X13 G POST /api/agents/{agent_id}/instance-launched
X14 G POST /api/agents/{agent_id}/instance-terminated
X15 G POST /api/agents/{agent_id}/shutdown
X16 G POST /api/agents/{agent_id}/rebalance-notice
X17 G POST /api/agents/{agent_id}/termination-notice
X18 C POST /api/agents/uninstall
X19 T GET /api/client/{client_id}/switches
X20 T GET /api/client/{client_id}/pricing-alerts
X21 T DELETE /api/client/{client_id}/pricing-alerts/{alert_id}
X22 T GET /api/events/stream/{client_id}
X23 A GET /api/admin/metrics/operational
X24 A GET /api/admin/consolidation-jobs
X25 A GET /api/admin/emergency-events
"""

PROMISED: Final = [Promised(*line.split(" ")) for line in _TABLE.strip().splitlines()]
