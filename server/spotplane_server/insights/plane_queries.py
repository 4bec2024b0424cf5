"""What the plane itself is doing: its engines, and what happened lately."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn

ACTIVE_FALLBACK: Final = "SELECT active_fallback FROM engine_state"

LIST_ENGINES: Final = """
    SELECT s.id, s.kind, s.name, s.version, s.role, s.created_at,
           coalesce(array_agg(f.name ORDER BY f.seq) FILTER (WHERE f.name IS NOT NULL), '{}')
               AS file_names,
           coalesce(array_agg(c.size_bytes ORDER BY f.seq) FILTER (WHERE f.name IS NOT NULL), '{}')
               AS file_sizes
      FROM engine_sessions s
      LEFT JOIN engine_session_files f ON f.session_id = s.id
      LEFT JOIN engine_files c ON c.sha256 = f.sha256
     GROUP BY s.id
     ORDER BY s.created_at DESC, s.id
     LIMIT 50
"""

LIST_ACTIVITY: Final = """
    SELECT seq, event_type, occurred_at, data
      FROM outbox_events
     WHERE event_type NOT LIKE '%.status\\_changed'
       AND replace(event_type, '.', '_') = ANY($1)
     ORDER BY occurred_at DESC, seq DESC
     LIMIT $2
"""

NAME_AGENTS: Final = "SELECT id, logical_agent_id FROM agents WHERE id = ANY($1::uuid[])"


@dataclass(frozen=True, slots=True)
class Engine:
    """An uploaded engine that is kept; ``role`` is ``live``, ``fallback`` or None."""

    id: UUID
    kind: str
    name: str
    version: str
    role: str | None
    created_at: datetime
    file_names: list[str]
    file_sizes: list[int]


@dataclass(frozen=True, slots=True)
class Happened:
    """An event."""

    seq: int
    event_type: str
    occurred_at: datetime
    data: dict[str, Any]


async def active_fallback(conn: Conn) -> bool:
    """Whether the built-in rules stand in for an engine that failed."""
    standing_in: bool = await conn.fetchval(ACTIVE_FALLBACK)
    return standing_in


async def list_engines(conn: Conn) -> list[Engine]:
    """Uploaded engines that are kept, newest first."""
    return [Engine(**row) for row in await conn.fetch(LIST_ENGINES)]


async def list_activity(conn: Conn, types: Sequence[str], *, limit: int) -> list[Happened]:
    """The last events of some types, by their names with `_`, newest first."""
    return [Happened(**row) for row in await conn.fetch(LIST_ACTIVITY, types, limit)]


async def name_agents(conn: Conn, agent_ids: Collection[UUID]) -> dict[UUID, str]:
    """Agents' own names by id."""
    rows = await conn.fetch(NAME_AGENTS, list(agent_ids))
    return {row["id"]: row["logical_agent_id"] for row in rows}
