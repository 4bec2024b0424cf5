"""Prices as they were told: appended, never changed but for being taken by the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from spotplane_server.kernel.db.database import Conn
from spotplane_server.prices.rules import Source

INSERT_RAW: Final = """
    INSERT INTO raw_prices (received_at, id, pool_id, price_nanousd, observed_at, source,
                            submission_id, agent_id)
    SELECT $1, gen_random_uuid(), r.pool_id, r.price, r.observed_at, r.source, r.submission_id, $2
      FROM unnest($3::text[], $4::bigint[], $5::timestamptz[], $6::text[], $7::text[])
           AS r (pool_id, price, observed_at, source, submission_id)
"""

# Sorted, so that reports of many agents lock rows in one order and never deadlock.
PUT_ON_DEMAND: Final = """
    INSERT INTO on_demand_prices AS p (region, instance_type, price_nanousd, observed_at)
    SELECT DISTINCT ON (o.instance_type) $1, o.instance_type, o.price, o.observed_at
      FROM unnest($2::text[], $3::bigint[], $4::timestamptz[])
           AS o (instance_type, price, observed_at)
     ORDER BY o.instance_type, o.observed_at DESC
    ON CONFLICT (region, instance_type) DO UPDATE
       SET price_nanousd = excluded.price_nanousd,
           observed_at = excluded.observed_at
     WHERE p.observed_at < excluded.observed_at
"""

# A price equal to the one before it says nothing new.
APPEND_ON_DEMAND: Final = """
    INSERT INTO on_demand_price_history (region, instance_type, observed_at, price_nanousd)
    SELECT $1, o.instance_type, o.observed_at, o.price
      FROM unnest($2::text[], $3::bigint[], $4::timestamptz[])
           AS o (instance_type, price, observed_at)
     WHERE o.price IS DISTINCT FROM
               (SELECT h.price_nanousd
                  FROM on_demand_price_history h
                 WHERE h.region = $1
                   AND h.instance_type = o.instance_type
                   AND h.observed_at <= o.observed_at
                 ORDER BY h.observed_at DESC
                 LIMIT 1)
     ORDER BY 2, 3
    ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Raw:
    """A believable price of a pool.

    Attributes:
        observed_at: When it was seen, or received if the agent's clock was off.
        submission_id: The same for the same price told twice.
    """

    pool_id: str
    instance_type: str
    az: str
    price_nanousd: int
    observed_at: datetime
    source: Source
    submission_id: str


@dataclass(frozen=True, slots=True)
class OnDemand:
    """A believable on-demand price."""

    instance_type: str
    observed_at: datetime
    price_nanousd: int


async def append(conn: Conn, rows: Sequence[Raw], *, agent_id: UUID | None, now: datetime) -> None:
    """Append prices for the pipeline to take."""
    if not rows:
        return
    await conn.execute(
        INSERT_RAW,
        now,
        agent_id,
        [row.pool_id for row in rows],
        [row.price_nanousd for row in rows],
        [row.observed_at for row in rows],
        [row.source for row in rows],
        [row.submission_id for row in rows],
    )


async def append_on_demand(conn: Conn, region: str, prices: Sequence[OnDemand]) -> None:
    """Remember the newest on-demand prices of a region, and every change of one."""
    if not prices:
        return
    columns = (
        region,
        [price.instance_type for price in prices],
        [price.price_nanousd for price in prices],
        [price.observed_at for price in prices],
    )
    await conn.execute(PUT_ON_DEMAND, *columns)
    await conn.execute(APPEND_ON_DEMAND, *columns)
