"""Stored decisions, and where each agent's stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

REPLAYED: Final = timedelta(hours=24)

INSERT_DECISIONS: Final = """
    INSERT INTO decisions (tenant_id, decided_at, id, agent_id, instance_id, cause, engine,
                           engine_version, session_id, active_fallback, action, current_mode,
                           current_pool_id, target_mode, target_pool_id, standby, reason_class,
                           reasoning, confidence, risk_score, expected_savings, inputs, scores,
                           gates, outcome, command_id)
    SELECT tenant_id, decided_at, id, agent_id, instance_id, cause, engine, engine_version,
           session_id, active_fallback, action, current_mode, current_pool_id, target_mode,
           target_pool_id, standby, reason_class, reasoning, confidence, risk_score,
           expected_savings, inputs, scores, gates, outcome, command_id
      FROM jsonb_to_recordset($1) AS d
           (tenant_id uuid, decided_at timestamptz, id uuid, agent_id uuid, instance_id text,
            cause text, engine text, engine_version text, session_id uuid,
            active_fallback boolean, action text, current_mode text, current_pool_id text,
            target_mode text, target_pool_id text, standby text, reason_class text,
            reasoning text, confidence float8, risk_score float8, expected_savings float8,
            inputs jsonb, scores jsonb, gates jsonb, outcome text, command_id uuid)
"""

# Sorted, so that two loops that meet lock rows in one order. An agent deleted meanwhile is no
# reason to lose the others' heads.
PUT_HEADS: Final = """
    INSERT INTO decision_heads AS h (tenant_id, agent_id, signature, stored_at, engine, memory)
    SELECT d.tenant_id, d.agent_id, d.signature, d.stored_at, d.engine, d.memory
      FROM jsonb_to_recordset($1) AS d
           (tenant_id uuid, agent_id uuid, signature text, stored_at timestamptz, engine text,
            memory jsonb)
     ORDER BY 1, 2
    ON CONFLICT (tenant_id, agent_id) DO UPDATE
       SET signature = excluded.signature, stored_at = excluded.stored_at,
           engine = excluded.engine, memory = excluded.memory
     WHERE (h.signature, h.stored_at, h.engine, h.memory)
           IS DISTINCT FROM (excluded.signature, excluded.stored_at, excluded.engine,
                             excluded.memory)
"""

LIST_INPUTS: Final = """
    SELECT agent_id, decided_at, inputs
      FROM decisions
     WHERE decided_at > $1 AND decided_at <= $2 AND cause = 'loop'
     ORDER BY decided_at DESC, id
     LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class Record:
    """A decision as it is stored; the columns of its row."""

    tenant_id: TenantId
    decided_at: datetime
    id: UUID
    agent_id: UUID
    instance_id: str | None
    cause: str
    engine: str
    engine_version: str
    session_id: UUID | None
    active_fallback: bool
    action: str
    current_mode: str
    current_pool_id: str | None
    target_mode: str
    target_pool_id: str | None
    standby: str | None
    reason_class: str | None
    reasoning: str
    confidence: float
    risk_score: float
    expected_savings: float
    inputs: dict[str, Any]
    scores: dict[str, float]
    gates: list[dict[str, Any]]
    outcome: str
    command_id: UUID | None


@dataclass(frozen=True, slots=True)
class Head:
    """Where an agent's decisions stand."""

    tenant_id: TenantId
    agent_id: UUID
    signature: str
    stored_at: datetime
    engine: str
    memory: dict[str, float]


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of an engine."""

    agent_id: UUID
    decided_at: datetime
    inputs: dict[str, Any]


async def insert(conn: Conn, records: Sequence[Record]) -> None:
    """Append decisions, all in one statement."""
    if records:
        await conn.execute(INSERT_DECISIONS, [asdict(record) for record in records])


async def put_heads(conn: Conn, heads: Sequence[Head]) -> None:
    """Say where agents' decisions stand, all in one statement."""
    if heads:
        await conn.execute(PUT_HEADS, [asdict(head) for head in heads])


async def list_inputs(conn: Conn, now: datetime, limit: int) -> list[Asked]:
    """What the loop asked in the last 24 hours, newest first."""
    rows = await conn.fetch(LIST_INPUTS, now - REPLAYED, now, limit)
    return [Asked(**row) for row in rows]
