"""What pools cost on average, by the hour or the day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from spotplane_server.kernel.db.database import Conn

Interval: TypeAlias = Literal["hour", "day"]
INTERVALS: Final[dict[Interval, timedelta]] = {"hour": timedelta(hours=1), "day": timedelta(days=1)}

# Pool by pool, each from its own stretch of the index alone; a mean for a chart may be a float.
LIST_MEANS: Final = """
    SELECT m.start, p.pool_id, m.mean_nanousd
      FROM unnest($1::text[]) AS p (pool_id)
     CROSS JOIN LATERAL
           (SELECT date_bin($4, bucket_at, '1970-01-01Z') AS start,
                   round(avg(price_nanousd::float8))::bigint AS mean_nanousd
              FROM clean_prices
             WHERE pool_id = p.pool_id
               AND bucket_at >= $2
               AND bucket_at < $3
             GROUP BY 1) AS m
     ORDER BY 1
"""


async def list_means(
    conn: Conn, pool_ids: Iterable[str], frm: datetime, to: datetime, interval: Interval
) -> dict[datetime, dict[str, int]]:
    """Mean clean price by start of the hour or day, oldest first, and by pool.

    Hours and days are those of UTC; one in which no pool has a price is absent.
    """
    rows = await conn.fetch(LIST_MEANS, sorted(set(pool_ids)), frm, to, INTERVALS[interval])
    means: dict[datetime, dict[str, int]] = defaultdict(dict)
    for row in rows:
        means[row["start"]][row["pool_id"]] = row["mean_nanousd"]
    return dict(means)
