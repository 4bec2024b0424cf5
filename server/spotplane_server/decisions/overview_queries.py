"""What a tenant's page of decisions shows: a query for each kind of thing, for all its agents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

MOST_AGENTS: Final = 500
EACH: Final = 5
RECENT: Final = timedelta(minutes=10)
REPORTING: Final = timedelta(minutes=30)

LIST_AGENTS: Final = """
    SELECT a.id, a.logical_agent_id, a.status, i.mode, i.pool_id, beats.last_heartbeat_at,
           (SELECT count(*) FROM decisions d
             WHERE d.tenant_id = a.tenant_id AND d.agent_id = a.id AND d.decided_at > $2)
               AS decisions,
           (SELECT count(*) FROM price_reports p
             WHERE p.tenant_id = a.tenant_id AND p.agent_id = a.id AND p.received_at > $2)
               AS reports_now,
           (SELECT count(*) FROM price_reports p
             WHERE p.tenant_id = a.tenant_id AND p.agent_id = a.id AND p.received_at > $3)
               AS reports
      FROM agents a
      LEFT JOIN instances i
        ON i.tenant_id = a.tenant_id AND i.agent_id = a.id AND i.status = 'running_primary'
      LEFT JOIN LATERAL
           (SELECT max(s.last_heartbeat_at) AS last_heartbeat_at
              FROM agent_sessions s
             WHERE s.tenant_id = a.tenant_id AND s.agent_id = a.id) AS beats ON true
     WHERE a.tenant_id = $1 AND a.deleted_at IS NULL
     ORDER BY a.logical_agent_id, a.id
     LIMIT $4
"""

LIST_DECISIONS: Final = """
    SELECT d.agent_id, d.action, d.target_mode, d.outcome, d.risk_score, d.expected_savings,
           d.current_mode, d.decided_at
      FROM unnest($2::uuid[]) AS a (id)
     CROSS JOIN LATERAL
           (SELECT agent_id, action, target_mode, outcome, risk_score, expected_savings,
                   current_mode, decided_at, id
              FROM decisions
             WHERE tenant_id = $1 AND agent_id = a.id
             ORDER BY decided_at DESC, id
             LIMIT $3) AS d
     ORDER BY d.agent_id, d.decided_at DESC, d.id
"""

LIST_REPORTS: Final = """
    SELECT r.agent_id, r.received_at, r.spot_nanousd, r.on_demand_nanousd
      FROM unnest($2::uuid[]) AS a (id)
     CROSS JOIN LATERAL
           (SELECT agent_id, received_at, spot_nanousd, on_demand_nanousd
              FROM price_reports
             WHERE tenant_id = $1 AND agent_id = a.id
             ORDER BY received_at DESC, id DESC
             LIMIT $3) AS r
     ORDER BY r.agent_id, r.received_at DESC
"""

LIST_EVENTS: Final = """
    SELECT e.aggregate_id, e.event_type, e.occurred_at, e.data
      FROM unnest($2::uuid[]) AS a (id)
     CROSS JOIN LATERAL
           (SELECT aggregate_id, event_type, occurred_at, data, seq
              FROM outbox_events
             WHERE tenant_id = $1 AND aggregate_id = a.id::text
               AND event_type NOT LIKE '%.status\\_changed'
               AND event_type NOT IN ('decision.made', 'switch.in_progress', 'command.executed')
             ORDER BY occurred_at DESC
             LIMIT $3) AS e
     ORDER BY e.aggregate_id, e.occurred_at DESC, e.seq DESC
"""


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent and how much was heard of it lately."""

    id: UUID
    logical_agent_id: str
    status: str
    mode: str | None
    pool_id: str | None
    last_heartbeat_at: datetime | None
    decisions: int
    reports_now: int
    reports: int


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A stored decision."""

    agent_id: UUID
    action: str
    target_mode: str
    outcome: str
    risk_score: float
    expected_savings: float
    current_mode: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class ReportRow:
    """An agent's report of its own prices."""

    agent_id: UUID
    received_at: datetime
    spot_nanousd: int | None
    on_demand_nanousd: int | None


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened to an agent."""

    aggregate_id: str
    event_type: str
    occurred_at: datetime
    data: dict[str, Any]


async def list_agents(conn: Conn, tenant_id: TenantId, now: datetime) -> list[AgentRow]:
    """A tenant's agents, not deleted ones, by their names."""
    rows = await conn.fetch(LIST_AGENTS, tenant_id, now - RECENT, now - REPORTING, MOST_AGENTS)
    return [AgentRow(**row) for row in rows]


async def list_decisions(
    conn: Conn, tenant_id: TenantId, agent_ids: Sequence[UUID]
) -> dict[UUID, list[DecisionRow]]:
    """The last decisions by agent, newest first."""
    found: dict[UUID, list[DecisionRow]] = defaultdict(list)
    for row in await conn.fetch(LIST_DECISIONS, tenant_id, list(agent_ids), EACH):
        found[row["agent_id"]].append(DecisionRow(**row))
    return found


async def list_reports(
    conn: Conn, tenant_id: TenantId, agent_ids: Sequence[UUID]
) -> dict[UUID, list[ReportRow]]:
    """The last price reports by agent, newest first."""
    found: dict[UUID, list[ReportRow]] = defaultdict(list)
    for row in await conn.fetch(LIST_REPORTS, tenant_id, list(agent_ids), EACH):
        found[row["agent_id"]].append(ReportRow(**row))
    return found


async def list_events(
    conn: Conn, tenant_id: TenantId, agent_ids: Sequence[UUID]
) -> dict[str, list[EventRow]]:
    """The last events by agent, newest first."""
    found: dict[str, list[EventRow]] = defaultdict(list)
    for row in await conn.fetch(LIST_EVENTS, tenant_id, list(agent_ids), EACH):
        found[row["aggregate_id"]].append(EventRow(**row))
    return found
