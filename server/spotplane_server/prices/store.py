"""Pools, prices and interruptions. They belong to no tenant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from spotplane_server.kernel.db.database import Conn
from spotplane_server.prices.raw_store import Raw

# Sorted, so that reports of many agents lock rows in one order and never deadlock.
PUT_SPOT_PRICES: Final = """
    INSERT INTO pools AS p (id, instance_type, region, az, price_nanousd, price_observed_at,
                            created_at)
    SELECT DISTINCT ON (s.id) s.id, s.instance_type, $1, s.az, s.price, s.observed_at, $2
      FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[])
           AS s (id, instance_type, az, price, observed_at)
     ORDER BY s.id, s.observed_at DESC
    ON CONFLICT (id) DO UPDATE
       SET price_nanousd = excluded.price_nanousd,
           price_observed_at = excluded.price_observed_at
     WHERE p.price_observed_at IS NULL OR p.price_observed_at < excluded.price_observed_at
"""

# A pool whose first report has not become clean yet has that report's price.
LIST_POOLS: Final = """
    SELECT p.id, p.instance_type, p.region, p.az,
           coalesce(c.price_nanousd, p.price_nanousd) AS price_nanousd,
           coalesce(c.observed_at, p.price_observed_at) AS price_observed_at,
           (SELECT count(*)
              FROM pool_interruptions i
             WHERE i.pool_id = p.id
               AND i.occurred_at > $3) AS interruptions
      FROM pools p
      LEFT JOIN LATERAL
           (SELECT price_nanousd, observed_at
              FROM clean_prices
             WHERE pool_id = p.id
               AND bucket_at > $4
             ORDER BY bucket_at DESC
             LIMIT 1) AS c ON true
     WHERE p.region = $1
       AND p.instance_type = $2
     ORDER BY p.id
"""

PUT_INTERRUPTION: Final = """
    INSERT INTO pool_interruptions (pool_id, instance_id, occurred_at)
    VALUES ($1, $2, $3)
    ON CONFLICT (pool_id, instance_id) DO NOTHING
"""

INTERRUPTION_WINDOW: Final = timedelta(hours=24)
CLEAN_WINDOW: Final = timedelta(hours=25)


@dataclass(frozen=True, slots=True)
class Pool:
    """Spot capacity of one type in one zone.

    Attributes:
        price_nanousd: Newest clean price per hour; None when none was ever seen.
        price_observed_at: When that price was seen.
        interruptions: Instances interrupted there in the last 24 hours.
    """

    id: str
    instance_type: str
    region: str
    az: str
    price_nanousd: int | None
    price_observed_at: datetime | None
    interruptions: int = 0


async def put_spot_prices(conn: Conn, region: str, prices: Sequence[Raw], *, now: datetime) -> None:
    """Remember the newest prices of pools, making pools at first sight.

    An older observation changes nothing.
    """
    if not prices:
        return
    await conn.execute(
        PUT_SPOT_PRICES,
        region,
        now,
        [price.pool_id for price in prices],
        [price.instance_type for price in prices],
        [price.az for price in prices],
        [price.price_nanousd for price in prices],
        [price.observed_at for price in prices],
    )


async def list_pools(conn: Conn, region: str, instance_type: str, *, now: datetime) -> list[Pool]:
    """Pools of one type and region, by id: the candidates of every choice."""
    rows = await conn.fetch(
        LIST_POOLS, region, instance_type, now - INTERRUPTION_WINDOW, now - CLEAN_WINDOW
    )
    return [Pool(**row) for row in rows]


async def record_interruption(conn: Conn, pool_id: str, instance_id: str, now: datetime) -> None:
    """Count an interruption, once an instance."""
    await conn.execute(PUT_INTERRUPTION, pool_id, instance_id, now)
