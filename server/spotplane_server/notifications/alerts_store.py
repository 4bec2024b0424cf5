"""Price alerts and their memory, pool by pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.notifications.alert_rules import AlertType, State
from spotplane_server.prices.queries import Place

# Every clean price is compared with all alerts of its pool.
MAX_ALERTS: Final = 1000

COUNT_ALERTS: Final = "SELECT count(*) FROM pricing_alerts WHERE tenant_id = $1"

INSERT_ALERT: Final = """
    INSERT INTO pricing_alerts (tenant_id, id, alert_type, threshold_nanousd, pool_id, channels,
                                enabled, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    RETURNING tenant_id, id, alert_type, threshold_nanousd, pool_id, channels, enabled, created_at,
              last_triggered_at
"""

LIST_ALERTS: Final = """
    SELECT tenant_id, id, alert_type, threshold_nanousd, pool_id, channels, enabled, created_at,
           last_triggered_at
      FROM pricing_alerts
     WHERE tenant_id = $1
     ORDER BY created_at DESC, id
"""

DELETE_ALERT: Final = """
    DELETE FROM pricing_alerts WHERE tenant_id = $1 AND id = $2
"""

POOL_EXISTS: Final = """
    SELECT EXISTS (SELECT FROM pools WHERE id = $1)
"""

# Who watches some pools: by name, or by running something there.
LIST_WATCHES: Final = """
    WITH watched AS (
        SELECT a.tenant_id, a.id, a.pool_id
          FROM pricing_alerts a
         WHERE a.enabled AND a.pool_id = ANY($1)
        UNION
        SELECT a.tenant_id, a.id, i.pool_id
          FROM pricing_alerts a
          JOIN instances i ON i.tenant_id = a.tenant_id
         WHERE a.enabled
           AND a.pool_id IS NULL
           AND i.pool_id = ANY($1)
           AND i.status IN ('launching', 'running_primary', 'running_replica', 'promoting'))
    SELECT w.tenant_id, w.id, w.pool_id, a.alert_type, a.threshold_nanousd, a.channels,
           a.created_at, t.email, coalesce(s.armed, true) AS armed, s.triggered_at
      FROM watched w
      JOIN pricing_alerts a ON a.tenant_id = w.tenant_id AND a.id = w.id
      JOIN tenants t ON t.id = w.tenant_id AND t.deleted_at IS NULL
      LEFT JOIN pricing_alert_states s
             ON s.tenant_id = w.tenant_id AND s.alert_id = w.id AND s.pool_id = w.pool_id
     ORDER BY w.tenant_id, w.id, w.pool_id
"""

CLAIM_UNEVALUATED: Final = """
    UPDATE pricing_alerts a
       SET evaluated = true
      FROM (SELECT tenant_id, id
              FROM pricing_alerts
             WHERE enabled AND NOT evaluated
             ORDER BY created_at
             LIMIT $1) n
     WHERE a.tenant_id = n.tenant_id AND a.id = n.id
    RETURNING a.id
"""

# The same of some alerts, each over every pool that it watches now.
LIST_WATCHES_OF: Final = """
    SELECT w.tenant_id, w.id, w.pool_id, w.alert_type, w.threshold_nanousd, w.channels,
           w.created_at, t.email, coalesce(s.armed, true) AS armed, s.triggered_at
      FROM (SELECT a.tenant_id, a.id, p.pool_id, a.alert_type, a.threshold_nanousd, a.channels,
                   a.created_at
              FROM pricing_alerts a
             CROSS JOIN LATERAL (
                   SELECT a.pool_id WHERE a.pool_id IS NOT NULL
                    UNION
                   SELECT i.pool_id
                     FROM instances i
                    WHERE i.tenant_id = a.tenant_id
                      AND a.pool_id IS NULL
                      AND i.pool_id IS NOT NULL
                      AND i.status IN ('launching', 'running_primary', 'running_replica',
                                       'promoting')) p
             WHERE a.id = ANY($1)) w
      JOIN tenants t ON t.id = w.tenant_id AND t.deleted_at IS NULL
      LEFT JOIN pricing_alert_states s
             ON s.tenant_id = w.tenant_id AND s.alert_id = w.id AND s.pool_id = w.pool_id
     ORDER BY w.tenant_id, w.id, w.pool_id
"""

PUT_STATE: Final = """
    INSERT INTO pricing_alert_states (tenant_id, alert_id, pool_id, armed, triggered_at)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (tenant_id, alert_id, pool_id) DO UPDATE
       SET armed = excluded.armed, triggered_at = excluded.triggered_at
"""

NOTE_TRIGGER: Final = """
    UPDATE pricing_alerts SET last_triggered_at = $3 WHERE tenant_id = $1 AND id = $2
"""

LOCK_PLACE: Final = """
    SELECT revision, pool_id, bucket_at FROM price_alert_place FOR UPDATE
"""

MOVE_PLACE: Final = """
    UPDATE price_alert_place SET revision = $1, pool_id = $2, bucket_at = $3
"""


@dataclass(frozen=True, slots=True)
class Alert:
    """What a tenant asked to be told of; threshold in nano-dollars an hour."""

    tenant_id: TenantId
    id: UUID
    alert_type: AlertType
    threshold_nanousd: int
    pool_id: str | None
    channels: Sequence[str]
    enabled: bool
    created_at: datetime
    last_triggered_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """One alert over one pool, with what it remembers of it."""

    tenant_id: TenantId
    id: UUID
    pool_id: str
    alert_type: AlertType
    threshold_nanousd: int
    channels: Sequence[str]
    created_at: datetime
    email: str
    armed: bool
    triggered_at: datetime | None

    @property
    def state(self) -> State:
        """What it remembers."""
        return State(self.armed, self.triggered_at)


async def count(conn: Conn, tenant_id: TenantId) -> int:
    """How many alerts the tenant has."""
    found: int = await conn.fetchval(COUNT_ALERTS, tenant_id)
    return found


async def insert(conn: Conn, alert: Alert) -> Alert:
    """Store an alert."""
    row = await conn.fetchrow(
        INSERT_ALERT,
        alert.tenant_id,
        alert.id,
        alert.alert_type,
        alert.threshold_nanousd,
        alert.pool_id,
        list(alert.channels),
        alert.enabled,
        alert.created_at,
    )
    assert row is not None
    return Alert(**row)


async def list_all(conn: Conn, tenant_id: TenantId) -> list[Alert]:
    """A tenant's alerts, newest first."""
    return [Alert(**row) for row in await conn.fetch(LIST_ALERTS, tenant_id)]


async def delete(conn: Conn, tenant_id: TenantId, alert_id: UUID) -> bool:
    """End an alert; False when there is none."""
    return bool(await conn.execute(DELETE_ALERT, tenant_id, alert_id) == "DELETE 1")


async def pool_exists(conn: Conn, pool_id: str) -> bool:
    """Whether anybody has reported the pool."""
    return bool(await conn.fetchval(POOL_EXISTS, pool_id))


async def list_watches(conn: Conn, pool_ids: Sequence[str]) -> list[Watch]:
    """Every enabled alert over any of the pools, with its memory."""
    return [Watch(**row) for row in await conn.fetch(LIST_WATCHES, list(pool_ids))]


async def claim_unevaluated(conn: Conn, limit: int) -> list[UUID]:
    """Mark enabled alerts as evaluated that were not before; return their ids."""
    return [row["id"] for row in await conn.fetch(CLAIM_UNEVALUATED, limit)]


async def list_watches_of(conn: Conn, alert_ids: Sequence[UUID]) -> list[Watch]:
    """Each of some alerts over every pool that it watches now, with its memory."""
    return [Watch(**row) for row in await conn.fetch(LIST_WATCHES_OF, list(alert_ids))]


async def put_state(conn: Conn, watch: Watch, state: State) -> None:
    """Remember an alert's state for a pool."""
    await conn.execute(
        PUT_STATE, watch.tenant_id, watch.id, watch.pool_id, state.armed, state.triggered_at
    )


async def note_trigger(conn: Conn, watch: Watch, at: datetime) -> None:
    """Remember when an alert last fired, in whatever pool."""
    await conn.execute(NOTE_TRIGGER, watch.tenant_id, watch.id, at)


async def lock_place(conn: Conn) -> Place:
    """How far the alerts have come, held until the transaction ends."""
    row = await conn.fetchrow(LOCK_PLACE)
    if row is None:
        raise LookupError("no place: a migration makes it")
    return Place(row["revision"], row["pool_id"], row["bucket_at"])


async def move_place(conn: Conn, place: Place) -> None:
    """Note how far the alerts have come."""
    await conn.execute(MOVE_PLACE, place.revision, place.pool_id, place.bucket_at)
