"""How steady prices of pools are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from spotplane_server.kernel.db.database import Conn

Category: TypeAlias = Literal["very_low", "low", "medium", "high", "unknown"]

DAY: Final = timedelta(hours=24)
WEEK: Final = timedelta(days=7)
# Upper bounds, each excluded.
BOUNDS: Final[tuple[tuple[float, Category], ...]] = (
    (0.05, "very_low"),
    (0.10, "low"),
    (0.20, "medium"),
)

# Null with fewer than two prices: one price says nothing of how it moves.
LIST_SPREADS: Final = """
    SELECT p.pool_id,
           CASE WHEN count(c.price_nanousd) FILTER (WHERE c.bucket_at > $3) >= 2
                THEN (stddev_pop(c.price_nanousd::float8) FILTER (WHERE c.bucket_at > $3)
                      / avg(c.price_nanousd::float8) FILTER (WHERE c.bucket_at > $3))
           END AS day,
           CASE WHEN count(c.price_nanousd) >= 2
                THEN stddev_pop(c.price_nanousd::float8) / avg(c.price_nanousd::float8)
           END AS week
      FROM unnest($1::text[]) AS p (pool_id)
      LEFT JOIN clean_prices c
        ON c.pool_id = p.pool_id AND c.bucket_at > $2 AND c.bucket_at <= $4
     GROUP BY p.pool_id
"""

COUNT_INTERRUPTIONS: Final = """
    SELECT pool_id, count(*) AS interruptions
      FROM pool_interruptions
     WHERE pool_id = ANY($1)
       AND occurred_at > $2
       AND occurred_at <= $3
     GROUP BY pool_id
"""


@dataclass(frozen=True, slots=True)
class Spread:
    """Standard deviation over mean of a pool's clean prices; None with fewer than two."""

    day: float | None
    week: float | None

    @property
    def stability(self) -> float | None:
        """``max(0, 1 - spread)`` of the week."""
        return None if self.week is None else max(0.0, 1.0 - self.week)


def category(spread: float | None) -> Category:
    """What to call a day's spread."""
    if spread is None:
        return "unknown"
    return next((name for bound, name in BOUNDS if spread < bound), "high")


def interruption_rate(interruptions: int, instance_days: float) -> float:
    """Interruptions per instance and day, 0 to 1; a pool where nobody ran counts one day."""
    if not interruptions:
        return 0.0
    return min(1.0, interruptions / (instance_days or 1.0))


async def list_spreads(conn: Conn, pool_ids: Iterable[str], *, now: datetime) -> dict[str, Spread]:
    """The spread of every pool named, known or not."""
    rows = await conn.fetch(LIST_SPREADS, sorted(set(pool_ids)), now - WEEK, now - DAY, now)
    return {row["pool_id"]: Spread(row["day"], row["week"]) for row in rows}


async def count_interruptions(
    conn: Conn, pool_ids: Iterable[str], frm: datetime, to: datetime
) -> dict[str, int]:
    """Instances interrupted in each pool in (frm, to]; pools without any are absent."""
    rows = await conn.fetch(COUNT_INTERRUPTIONS, sorted(set(pool_ids)), frm, to)
    return {row["pool_id"]: row["interruptions"] for row in rows}
