"""What an instance's log is made of: its switches, its prices, and the events that name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId

LIST_EVENTS: Final = """
    SELECT occurred_at, event_type, data
      FROM outbox_events
     WHERE tenant_id = $1 AND instance_id = $2
       AND occurred_at > $3
       AND event_type = ANY($4)
       AND (event_type <> 'instance.status_changed' OR data ->> 'new_status' = 'terminated')
     ORDER BY occurred_at DESC, seq DESC
     LIMIT $5
"""

# Only what changed: the same price every five minutes is no news.
LIST_PRICES: Final = """
    SELECT told.at, told.price_nanousd, told.before_nanousd
      FROM (SELECT newest.at, newest.price AS price_nanousd,
                   lag(newest.price) OVER (ORDER BY newest.at) AS before_nanousd
              FROM (SELECT r.received_at AS at,
                           CASE WHEN $3 THEN r.spot_nanousd ELSE r.on_demand_nanousd END AS price
                      FROM price_reports r
                     WHERE r.tenant_id = $1 AND r.instance_id = $2 AND r.received_at > $4
                     ORDER BY r.received_at DESC
                     LIMIT 5000) newest
             WHERE newest.price IS NOT NULL) told
     WHERE told.price_nanousd IS DISTINCT FROM told.before_nanousd
     ORDER BY told.at DESC
     LIMIT $5
"""

LIST_SWITCHES: Final = """
    SELECT id, created_at, old_instance_id, new_instance_id, old_mode, new_mode, old_pool_id,
           new_pool_id, trigger, cause, success, error_message, new_price_nanousd,
           savings_impact_nanousd, downtime_seconds
      FROM switches
     WHERE tenant_id = $1 AND (new_instance_id = $2 OR old_instance_id = $2) AND created_at > $3
     ORDER BY created_at DESC, id DESC
     LIMIT $4
"""


@dataclass(frozen=True, slots=True)
class Happened:
    """An event that names the instance."""

    occurred_at: datetime
    event_type: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Priced:
    """A price that differs from the one before, nano-USD an hour."""

    at: datetime
    price_nanousd: int
    before_nanousd: int | None


@dataclass(frozen=True, slots=True)
class Switched:
    """A switch to or from the instance."""

    id: Any
    created_at: datetime
    old_instance_id: str | None
    new_instance_id: str | None
    old_mode: str | None
    new_mode: str | None
    old_pool_id: str | None
    new_pool_id: str | None
    trigger: str
    cause: str
    success: bool
    error_message: str | None
    new_price_nanousd: int | None
    savings_impact_nanousd: int
    downtime_seconds: int


async def list_events(
    conn: Conn,
    tenant_id: TenantId,
    instance_id: str,
    *,
    types: Sequence[str],
    since: datetime,
    limit: int,
) -> list[Happened]:
    """Events of some types that name an instance, newest first."""
    rows = await conn.fetch(LIST_EVENTS, tenant_id, instance_id, since, list(types), limit)
    return [Happened(**row) for row in rows]


async def list_prices(
    conn: Conn, tenant_id: TenantId, instance_id: str, *, spot: bool, since: datetime, limit: int
) -> list[Priced]:
    """Changes of what an instance costs in its mode, newest first."""
    rows = await conn.fetch(LIST_PRICES, tenant_id, instance_id, spot, since, limit)
    return [Priced(**row) for row in rows]


async def list_switches(
    conn: Conn, tenant_id: TenantId, instance_id: str, *, since: datetime, limit: int
) -> list[Switched]:
    """Switches to and from an instance, newest first."""
    rows = await conn.fetch(LIST_SWITCHES, tenant_id, instance_id, since, limit)
    return [Switched(**row) for row in rows]
