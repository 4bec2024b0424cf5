"""Lines of nodes' logs, kept for 24 hours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn

KEPT_FOR: Final = timedelta(hours=24)

INSERT_LOG: Final = """
    INSERT INTO node_logs (node_id, logged_at, level, message, phase, progress)
    VALUES ($1, $2, $3, $4, $5, $6)
"""

LIST_TAIL: Final = """
    SELECT id, logged_at, level, message, phase, progress
      FROM node_logs
     WHERE node_id = $1 AND logged_at >= $2
     ORDER BY id DESC
     LIMIT $3
"""

LIST_AFTER: Final = """
    SELECT id, logged_at, level, message, phase, progress
      FROM node_logs
     WHERE node_id = $1 AND id > $2 AND logged_at >= $3
     ORDER BY id
     LIMIT 1000
"""

FIND_STATE: Final = """
    SELECT n.status, o.status AS launch_status, o.stage, o.progress, o.error
      FROM nodes n
      LEFT JOIN LATERAL (SELECT status, stage, progress, error
                           FROM node_operations
                          WHERE node_id = n.id AND kind = 'launch'
                          ORDER BY created_at DESC
                          LIMIT 1) o ON true
     WHERE n.id = $1
"""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log."""

    id: int
    logged_at: datetime
    level: str
    message: str
    phase: str | None
    progress: int | None


@dataclass(frozen=True, slots=True)
class State:
    """How a node is and how far its launch; None where it was not launched."""

    status: str
    launch_status: str | None
    stage: str | None
    progress: int | None
    error: str | None

    @property
    def launching(self) -> bool:
        """Whether its launch is still to be done."""
        return self.launch_status in ("queued", "running")


async def write(
    conn: Conn,
    node_id: UUID,
    message: str,
    now: datetime,
    *,
    level: str = "info",
    phase: str | None = None,
    progress: int | None = None,
) -> None:
    """Append a line to a node's log."""
    await conn.execute(INSERT_LOG, node_id, now, level, message, phase, progress)


async def list_tail(conn: Conn, node_id: UUID, *, since: datetime, limit: int) -> list[Line]:
    """The newest lines from an instant on, oldest first."""
    rows = await conn.fetch(LIST_TAIL, node_id, since, limit)
    return [Line(**row) for row in reversed(rows)]


async def list_after(conn: Conn, node_id: UUID, after: int, *, since: datetime) -> list[Line]:
    """Lines with an id above one, oldest first, at most 1000."""
    return [Line(**row) for row in await conn.fetch(LIST_AFTER, node_id, after, since)]


async def find_state(conn: Conn, node_id: UUID) -> State | None:
    """How a node is; None when there is none."""
    row: Any = await conn.fetchrow(FIND_STATE, node_id)
    return State(**row) if row is not None else None
