"""All pools at a glance, for administrators."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from spotplane_server.kernel.db.database import Conn

ACTIVE: Final = timedelta(hours=24)
PRICED: Final = timedelta(hours=1)
INTERRUPTED: Final = timedelta(days=30)

LIST_ALL: Final = """
    SELECT p.id, p.instance_type, p.region, p.az,
           CASE WHEN c.bucket_at > $1 THEN c.price_nanousd END AS price_nanousd,
           c.bucket_at IS NOT NULL AS active
      FROM pools p
      LEFT JOIN LATERAL
           (SELECT bucket_at, price_nanousd
              FROM clean_prices
             WHERE pool_id = p.id
               AND bucket_at > $2
             ORDER BY bucket_at DESC
             LIMIT 1) AS c ON true
     ORDER BY p.region, p.az, p.instance_type
"""

LIST_INTERRUPTIONS: Final = """
    SELECT to_char(i.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, p.instance_type,
           count(*) AS count
      FROM pool_interruptions i
      JOIN pools p ON p.id = i.pool_id
     WHERE i.occurred_at > $1
     GROUP BY 1, 2
     ORDER BY 1, 2
"""

LIST_ON_DEMAND_MEANS: Final = """
    SELECT instance_type, round(avg(price_nanousd))::bigint AS price_nanousd
      FROM on_demand_prices
     GROUP BY instance_type
"""


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool now.

    Attributes:
        price_nanousd: Newest clean price of the last hour; None without one.
        active: Whether it has a clean price of the last 24 hours.
    """

    id: str
    instance_type: str
    region: str
    az: str
    price_nanousd: int | None
    active: bool


@dataclass(frozen=True, slots=True)
class Interrupted:
    """How many instances of a type were interrupted on a day, ``YYYY-MM-DD``, UTC."""

    day: str
    instance_type: str
    count: int


def mean(pools: list[PoolState]) -> int:
    """Mean of the prices that are known; 0 when none is."""
    prices = [pool.price_nanousd for pool in pools if pool.price_nanousd is not None]
    return round(sum(prices) / len(prices)) if prices else 0


async def list_all(conn: Conn, now: datetime) -> list[PoolState]:
    """Every pool, by region, zone and type."""
    rows = await conn.fetch(LIST_ALL, now - PRICED, now - ACTIVE)
    return [PoolState(**row) for row in rows]


async def list_interruptions(conn: Conn, now: datetime) -> list[Interrupted]:
    """Interruptions of 30 days, oldest first, then by type."""
    rows = await conn.fetch(LIST_INTERRUPTIONS, now - INTERRUPTED)
    return [Interrupted(**row) for row in rows]


async def list_on_demand_means(conn: Conn) -> dict[str, int]:
    """Mean on-demand price by type over all regions."""
    rows = await conn.fetch(LIST_ON_DEMAND_MEANS)
    return {row["instance_type"]: row["price_nanousd"] for row in rows}
