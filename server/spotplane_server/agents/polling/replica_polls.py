"""When an agent last asked for its replicas: whoever does learns there what to launch and end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

# Asked every half minute by every agent, twice: the row is written only now and then.
NOTE_POLL: Final = """
    UPDATE agents
       SET replicas_polled_at = $3
     WHERE tenant_id = $1 AND id = $2
       AND (replicas_polled_at IS NULL OR replicas_polled_at <= $4)
"""

EVERY: Final = timedelta(seconds=60)


async def note(conn: Conn, tenant_id: TenantId, agent_id: UUID, now: datetime) -> None:
    """Remember that an agent asks for its replicas, to the minute."""
    await conn.execute(NOTE_POLL, tenant_id, agent_id, now, now - EVERY)
