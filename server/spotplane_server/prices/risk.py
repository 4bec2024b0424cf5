"""How likely a pool is to take its instances back: ``risk-v1`` (contract, section 9.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from spotplane_server.kernel.db.database import Conn

NAME: Final = "risk-v1"
BUCKETS: Final = 10
WINDOW: Final = timedelta(days=30)

LIST_INPUTS: Final = """
    SELECT p.pool_id,
           (SELECT count(*)
              FROM pool_interruptions i
             WHERE i.pool_id = p.pool_id
               AND i.occurred_at > $2
               AND i.occurred_at <= $3) AS interruptions,
           ARRAY(SELECT c.price_nanousd
                   FROM clean_prices c
                  WHERE c.pool_id = p.pool_id
                    AND c.bucket_at <= $3
                  ORDER BY c.bucket_at DESC
                  LIMIT $4) AS newest
      FROM unnest($1::text[]) AS p (pool_id)
"""


@dataclass(frozen=True, slots=True)
class Risk:
    """A pool's risk and what it comes from; kept with every decision.

    Attributes:
        interruptions: Instances interrupted there in 30 days, by any tenant.
        price_change: Relative change over the last ten clean buckets, 0.1 for a tenth more.
        value: The risk, 0 to 1.
    """

    interruptions: int
    price_change: float
    value: float


ON_DEMAND: Final = Risk(0, 0.0, 0.0)


def risk_v1(interruptions: int, prices: Sequence[int]) -> Risk:
    """Weigh interruptions and a rising price.

    Args:
        interruptions: Instances interrupted in the pool in the last 30 days, >= 0.
        prices: Last clean prices, oldest first, at most ten, any unit.

    Returns:
        ``min(1, interruptions / 30 + 0.3 x min(1, max(0, change)))``; the change is 0 with fewer
        than two prices.
    """
    change = (prices[-1] - prices[0]) / prices[0] if len(prices) >= 2 else 0.0
    value = min(1.0, interruptions / 30 + 0.3 * min(1.0, max(0.0, change)))
    return Risk(interruptions, change, value)


async def assess(conn: Conn, pool_ids: Iterable[str], *, now: datetime) -> dict[str, Risk]:
    """The risk of every pool named, known or not, in one query."""
    rows = await conn.fetch(LIST_INPUTS, sorted(set(pool_ids)), now - WINDOW, now, BUCKETS)
    return {
        row["pool_id"]: risk_v1(row["interruptions"], list(reversed(row["newest"]))) for row in rows
    }
