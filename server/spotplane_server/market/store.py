"""Pools, prices and interruptions. They belong to no tenant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from spotplane_server.kernel.db import Conn

# Sorted, so that reports of many agents lock rows in one order and never deadlock.
PUT_SPOT_PRICES: Final = """
    INSERT INTO pools AS p (id, instance_type, region, az, price_nanousd, price_observed_at,
                            created_at)
    SELECT s.instance_type || '.' || s.az, s.instance_type, $1, s.az, s.price, $2, $3
      FROM unnest($4::text[], $5::text[], $6::bigint[]) AS s (instance_type, az, price)
     ORDER BY 1
    ON CONFLICT (id) DO UPDATE
       SET price_nanousd = excluded.price_nanousd,
           price_observed_at = excluded.price_observed_at
     WHERE p.price_observed_at IS NULL OR p.price_observed_at < excluded.price_observed_at
"""

PUT_ON_DEMAND_PRICES: Final = """
    INSERT INTO on_demand_prices AS p (region, instance_type, price_nanousd, observed_at)
    SELECT $1, o.instance_type, o.price, $2
      FROM unnest($3::text[], $4::bigint[]) AS o (instance_type, price)
     ORDER BY 2
    ON CONFLICT (region, instance_type) DO UPDATE
       SET price_nanousd = excluded.price_nanousd,
           observed_at = excluded.observed_at
     WHERE p.observed_at < excluded.observed_at
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


@dataclass(frozen=True, slots=True)
class SpotPrice:
    """A price seen in a pool, nano-USD per hour."""

    instance_type: str
    az: str
    price_nanousd: int


async def put_spot_prices(
    conn: Conn, region: str, prices: Sequence[SpotPrice], *, observed_at: datetime, now: datetime
) -> None:
    """Remember prices, creating pools at first sight; an older observation changes nothing."""
    newest = {(p.instance_type, p.az): p.price_nanousd for p in prices}
    await conn.execute(
        PUT_SPOT_PRICES,
        region,
        observed_at,
        now,
        [key[0] for key in newest],
        [key[1] for key in newest],
        list(newest.values()),
    )


async def put_on_demand_prices(
    conn: Conn, region: str, prices: dict[str, int], *, observed_at: datetime
) -> None:
    """Remember on-demand prices by type, nano-USD per hour."""
    await conn.execute(
        PUT_ON_DEMAND_PRICES, region, observed_at, list(prices), list(prices.values())
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
