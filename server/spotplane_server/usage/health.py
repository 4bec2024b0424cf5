"""Readiness of rollups: partitions exist, and the newest records are in them."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import ALL_TENANTS, Database
from spotplane_server.usage.time_windows import DAY

# Partitions of a month that must exist.
PARTITIONS: Final = (
    "usage_rollup_peaks_{}",
    "usage_rollups_{}_minute",
    "usage_rollups_{}_hour",
    "usage_rollups_{}_day",
)

COUNT_PARTITIONS: Final = """
    SELECT count(to_regclass(name)) FROM unnest($1::text[]) AS name
"""

# Of the tenant that comes first from an id on: the minute of its newest record since $2, and what
# records and sums say of that minute, its hour and its day. In one snapshot they cannot differ.
COMPARE_NEWEST: Final = """
    WITH sample AS (
        SELECT coalesce((SELECT u.tenant_id
                           FROM usage_revisions u
                          WHERE u.tenant_id >= $1
                          ORDER BY u.tenant_id
                          LIMIT 1),
                        (SELECT u.tenant_id FROM usage_revisions u ORDER BY u.tenant_id LIMIT 1))
               AS tenant_id),
    newest AS (
        SELECT s.tenant_id, date_trunc('minute', r."timestamp", 'UTC') AS minute
          FROM sample s
         CROSS JOIN LATERAL
               (SELECT u."timestamp"
                  FROM usage_records u
                 WHERE u.tenant_id = s.tenant_id AND u."timestamp" >= $2
                 ORDER BY u."timestamp" DESC
                 LIMIT 1) AS r)
    SELECT (SELECT count(*)
              FROM usage_records u
             WHERE u.tenant_id = n.tenant_id AND u."timestamp" >= n.minute
               AND u."timestamp" < n.minute + interval '1 minute') AS records,
           (SELECT sum(u.requests)::bigint
              FROM usage_rollups u
             WHERE u.tenant_id = n.tenant_id AND u.rollup = 'minute_model'
               AND u.starts_at = n.minute) AS in_minute,
           (SELECT sum(u.requests)::bigint
              FROM usage_rollups u
             WHERE u.tenant_id = n.tenant_id AND u.rollup = 'minute_model'
               AND u.starts_at >= date_trunc('hour', n.minute, 'UTC')
               AND u.starts_at < date_trunc('hour', n.minute, 'UTC') + interval '1 hour')
               AS in_minutes_of_hour,
           (SELECT sum(u.requests)::bigint
              FROM usage_rollups u
             WHERE u.tenant_id = n.tenant_id AND u.rollup = 'hour_all'
               AND u.starts_at = date_trunc('hour', n.minute, 'UTC')) AS in_hour,
           (SELECT sum(u.requests)::bigint
              FROM usage_rollups u
             WHERE u.tenant_id = n.tenant_id AND u.rollup = 'day_model'
               AND u.starts_at = date_trunc('day', n.minute, 'UTC')) AS in_day
      FROM newest n
"""


async def rollups_work(db: Database, sample: UUID, now: datetime) -> bool:
    """Whether there are partitions for today's sums, and a tenant's newest records are in them.

    Args:
        db: The primary.
        sample: The tenant that comes first from this id on is looked at, if it was used today.
        now: The time.
    """
    async with db.connection(ALL_TENANTS) as conn:
        partitions = [name.format(f"{now:%Y%m}") for name in PARTITIONS]
        if await conn.fetchval(COUNT_PARTITIONS, partitions) < len(partitions):
            return False
        row = await conn.fetchrow(COMPARE_NEWEST, sample, now - DAY)
    if row is None:
        return True
    minute, hour, day = row["in_minute"], row["in_hour"], row["in_day"]
    agree = row["records"] == minute and row["in_minutes_of_hour"] == hour
    return agree and day is not None and bool(day >= hour)
