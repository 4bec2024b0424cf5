"""How instances end: zombies, who agreed that they may, and when their agent was asked to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.instances.rules import Status
from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

RETIRE_INSTANCE: Final = """
    UPDATE instances
       SET status = $3,
           terminated_at = CASE WHEN $3 = 'terminated' THEN $4 ELSE terminated_at END,
           spared = spared OR $5,
           terminate_consent = terminate_consent OR $6,
           updated_at = $4
     WHERE tenant_id = $1 AND id = $2 AND status = 'running_primary'
"""

SET_PLACE: Final = """
    UPDATE instances
       SET mode = $3, pool_id = $4, updated_at = $5
     WHERE tenant_id = $1 AND id = $2 AND (mode, pool_id) IS DISTINCT FROM ($3, $4)
"""


EXPLAIN_INSTANCE: Final = """
    UPDATE instances
       SET spared = $3, terminate_consent = terminate_consent OR $4, updated_at = $5
     WHERE tenant_id = $1 AND id = $2 AND status IN ('zombie', 'terminating')
       AND (spared <> $3 OR ($4 AND NOT terminate_consent))
"""

CONSENT: Final = """
    UPDATE instances
       SET terminate_consent = true, updated_at = $3
     WHERE tenant_id = $1 AND id = $2 AND status IN ('zombie', 'terminating')
"""

# What serves or stands by does not turn into something to be ended, whoever asks.
ASK: Final = """
    UPDATE instances
       SET end_asked_at = $3,
           status = CASE WHEN status = 'zombie' THEN 'terminating' ELSE status END,
           updated_at = CASE WHEN status = 'zombie' THEN $3 ELSE updated_at END
     WHERE tenant_id = $1 AND id = ANY($2) AND status IN ('zombie', 'terminating')
"""

HAS_CANDIDATE: Final = """
    SELECT EXISTS (SELECT
                     FROM instances
                    WHERE tenant_id = $1 AND agent_id = $2 AND status = 'launching'
                      AND launched_at >= $3)
"""


async def retire(
    conn: Conn,
    tenant_id: TenantId,
    instance_id: str,
    *,
    to: Status,
    now: datetime,
    spared: bool = False,
    consent: bool = False,
) -> bool:
    """Take a primary's part from it; False when it was none.

    Args:
        conn: In the transaction that gives the part to another, or to none.
        tenant_id: Whose it is.
        instance_id: The primary.
        to: What becomes of it.
        now: When.
        spared: Whether only a word about itself may end it.
        consent: Whether that word was given.
    """
    done = await conn.execute(RETIRE_INSTANCE, tenant_id, instance_id, to, now, spared, consent)
    return bool(done == "UPDATE 1")


async def set_place(
    conn: Conn,
    tenant_id: TenantId,
    instance_id: str,
    *,
    mode: str,
    pool_id: str | None,
    now: datetime,
) -> None:
    """Say how an instance is paid for, and in which pool."""
    await conn.execute(SET_PLACE, tenant_id, instance_id, mode, pool_id, now)


async def has_candidate(
    conn: Conn, tenant_id: TenantId, agent_id: UUID, *, since: datetime
) -> bool:
    """Whether an instance waits that appeared since then and has no part yet."""
    found: bool = await conn.fetchval(HAS_CANDIDATE, tenant_id, agent_id, since)
    return found


async def explain(
    conn: Conn,
    tenant_id: TenantId,
    instance_id: str,
    *,
    spared: bool,
    consent: bool,
    now: datetime,
) -> None:
    """Say why an instance was left, of one that was taken for displaced."""
    await conn.execute(EXPLAIN_INSTANCE, tenant_id, instance_id, spared, consent, now)


async def consent(conn: Conn, tenant_id: TenantId, instance_id: str, now: datetime) -> bool:
    """Note that somebody agreed to the end of a zombie; False when the instance is none."""
    done = await conn.execute(CONSENT, tenant_id, instance_id, now)
    return bool(done == "UPDATE 1")


async def ask(conn: Conn, tenant_id: TenantId, instance_ids: Sequence[str], now: datetime) -> None:
    """Note that their agent was told to end some instances, or that it could not."""
    await conn.execute(ASK, tenant_id, list(instance_ids), now)
