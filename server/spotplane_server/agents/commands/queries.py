"""Reading the ledger of commands; `commands_store` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.agents.commands.store import Command, Waiting
from spotplane_server.kernel.api.paging import Page, Slice
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

LIST_WAITING: Final = """
    SELECT DISTINCT tenant_id, instance_id
      FROM agent_commands
     WHERE status = 'pending' AND created_at < $1 AND expires_at > $1
     LIMIT 10000
"""

GET_COMMAND: Final = """
    SELECT tenant_id, id, agent_id, instance_id, request_id, type, name, parameters, priority,
           trigger, created_by, status, delivery_count, success, message, result, created_at,
           leased_at, received_at, started_at, done_at, expires_at, dialect
      FROM agent_commands
     WHERE tenant_id = $1 AND agent_id = $2 AND ($3::uuid IS NULL OR id = $3)
       AND ($4::text IS NULL OR request_id = $4)
"""

LIST_HISTORY: Final = """
    SELECT kind, occurred_at, detail
      FROM agent_command_events
     WHERE tenant_id = $1 AND command_id = $2
     ORDER BY seq
"""

LIST_COMMANDS: Final = """
    SELECT tenant_id, id, agent_id, instance_id, request_id, type, name, parameters, priority,
           trigger, created_by, status, delivery_count, success, message, result, created_at,
           leased_at, received_at, started_at, done_at, expires_at, dialect
      FROM agent_commands
     WHERE tenant_id = $1 AND agent_id = $2 AND ($3::text IS NULL OR status = $3)
       AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5))
     ORDER BY created_at DESC, id DESC
     LIMIT $6 OFFSET $7
"""

COUNT_COMMANDS: Final = """
    SELECT count(*)
      FROM agent_commands
     WHERE tenant_id = $1 AND agent_id = $2 AND ($3::text IS NULL OR status = $3)
"""

HAS_OPEN: Final = """
    SELECT EXISTS (SELECT
                     FROM agent_commands
                    WHERE tenant_id = $1 AND agent_id = $2 AND type = ANY($3)
                      AND status IN ('pending', 'leased', 'executing'))
"""


HAS_WAITING: Final = """
    SELECT EXISTS (SELECT
                     FROM agent_commands
                    WHERE tenant_id = $1 AND agent_id = $2 AND status = 'pending'
                      AND expires_at > $3 AND (not_before IS NULL OR not_before <= $3))
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a command's story."""

    kind: str
    occurred_at: datetime
    detail: str | None


async def list_waiting(conn: Conn, *, older_than: datetime) -> list[Waiting]:
    """Instances with commands that a wake-up should have delivered by now."""
    return [Waiting(**row) for row in await conn.fetch(LIST_WAITING, older_than)]


async def find(
    conn: Conn,
    tenant_id: TenantId,
    agent_id: UUID,
    *,
    command_id: UUID | None = None,
    request_id: str | None = None,
) -> Command | None:
    """One command by its id or its request id, None when there is none."""
    row = await conn.fetchrow(GET_COMMAND, tenant_id, agent_id, command_id, request_id)
    return Command(**row) if row else None


async def history(conn: Conn, tenant_id: TenantId, command_id: UUID) -> list[Step]:
    """A command's story, oldest first."""
    return [Step(**row) for row in await conn.fetch(LIST_HISTORY, tenant_id, command_id)]


async def list_commands(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, *, status: str | None, page: Page
) -> Slice[Command]:
    """An agent's commands, newest first."""
    at, last = page.after_instant()
    rows = await conn.fetch(
        LIST_COMMANDS,
        tenant_id,
        agent_id,
        status,
        at,
        last,
        page.limit + 1,
        page.offset,
    )
    total = await conn.fetchval(COUNT_COMMANDS, tenant_id, agent_id, status)
    return Slice([Command(**row) for row in rows], total)


async def has_open(conn: Conn, tenant_id: TenantId, agent_id: UUID, types: Sequence[str]) -> bool:
    """Whether a command of one of the types is not final yet."""
    found: bool = await conn.fetchval(HAS_OPEN, tenant_id, agent_id, list(types))
    return found


async def has_waiting(conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime) -> bool:
    """Whether a command waits to be delivered."""
    found: bool = await conn.fetchval(HAS_WAITING, tenant_id, agent_id, now)
    return found
