"""The market around an emergency, kept with it once the rescue is done."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from spotplane_server.kernel.db.database import Conn

# Off the path of the rescue, and of those alone that have none yet. A price has moved when it is 5%
# off within the hour before. Weekdays and hours are UTC.
FILL_FEATURES: Final = """
    WITH bare AS (
        SELECT tenant_id, id, agent_id, instance_id, pool_id, detected_at
          FROM failovers
         WHERE features_at IS NULL
         ORDER BY detected_at
         LIMIT $2
           FOR UPDATE SKIP LOCKED),
    priced AS (
        SELECT b.tenant_id, b.id,
               (SELECT c.price_nanousd
                  FROM clean_prices c
                 WHERE c.pool_id = b.pool_id
                   AND c.bucket_at BETWEEN b.detected_at - interval '1 hour' AND b.detected_at
                 ORDER BY c.bucket_at DESC
                 LIMIT 1) AS price,
               (SELECT c.price_nanousd
                  FROM clean_prices c
                 WHERE c.pool_id = b.pool_id
                   AND c.bucket_at BETWEEN b.detected_at - interval '2 hours'
                                       AND b.detected_at - interval '1 hour'
                 ORDER BY c.bucket_at DESC
                 LIMIT 1) AS before
          FROM bare b)
    UPDATE failovers f
       SET features_at = $1,
           price_change_percent = (p.price - p.before) * 100.0 / p.before,
           price_trend = CASE WHEN p.price IS NULL OR p.before IS NULL THEN 'unknown'
                              WHEN p.price >= p.before * 1.05 THEN 'rising'
                              WHEN p.price <= p.before * 0.95 THEN 'falling'
                              ELSE 'stable' END,
           weekday = extract(dow FROM b.detected_at AT TIME ZONE 'UTC'),
           hour = extract(hour FROM b.detected_at AT TIME ZONE 'UTC'),
           pool_interruptions = (
               SELECT count(*)
                 FROM pool_interruptions n
                WHERE n.pool_id = b.pool_id
                  AND n.occurred_at BETWEEN b.detected_at - $3::interval AND b.detected_at),
           region_interruptions = (
               SELECT count(n.instance_id)::real / count(DISTINCT q.id)
                 FROM pools o
                 JOIN pools q ON q.region = o.region AND q.instance_type = o.instance_type
                 LEFT JOIN pool_interruptions n
                   ON n.pool_id = q.id
                  AND n.occurred_at BETWEEN b.detected_at - $3::interval AND b.detected_at
                WHERE o.id = b.pool_id
               HAVING count(q.id) > 0),
           earlier_interruptions = (
               SELECT count(*)
                 FROM failovers e
                WHERE e.tenant_id = b.tenant_id AND e.agent_id = b.agent_id
                  AND e.instance_id = b.instance_id AND e.detected_at < b.detected_at)
      FROM bare b
      JOIN priced p ON p.tenant_id = b.tenant_id AND p.id = b.id
     WHERE f.tenant_id = b.tenant_id AND f.id = b.id
"""

BATCH: Final = 200
WINDOW: Final = timedelta(hours=24)


async def fill(conn: Conn, now: datetime) -> None:
    """Describe the market at the time of every emergency that has no description yet."""
    await conn.execute(FILL_FEATURES, now, BATCH, WINDOW)
