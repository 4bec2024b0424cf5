"""Reading pools for decisions; prices, risk and series come from the market's own functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from spotplane_server.kernel.db.database import Conn
from spotplane_server.prices.queries import Kind

# A pool that refused a launch is not tried again before this.
REFUSED: Final = timedelta(minutes=10)
INTERRUPTIONS: Final = timedelta(days=30)

LIST_POOLS: Final = """
    SELECT p.id, p.az, p.region, p.instance_type
      FROM unnest($1::text[], $2::text[]) AS k (region, instance_type)
      JOIN pools p USING (region, instance_type)
     ORDER BY p.id
"""

LIST_INTERRUPTIONS: Final = """
    SELECT pool_id, array_agg(occurred_at ORDER BY occurred_at) AS at
      FROM pool_interruptions
     WHERE pool_id = ANY($1) AND occurred_at > $2 AND occurred_at <= $3
     GROUP BY pool_id
"""

LIST_REFUSING: Final = """
    SELECT DISTINCT pool_id
      FROM replicas
     WHERE status = 'failed' AND updated_at > $1
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A pool, without its prices."""

    id: str
    az: str
    region: str
    instance_type: str


async def list_sites(conn: Conn, kinds: Iterable[Kind]) -> list[Site]:
    """All pools of each (region, type), by their ids."""
    wanted = sorted(set(kinds))
    rows = await conn.fetch(
        LIST_POOLS, [region for region, _ in wanted], [kind for _, kind in wanted]
    )
    return [Site(**row) for row in rows]


async def list_interruptions(
    conn: Conn, pool_ids: Iterable[str], frm: datetime, to: datetime
) -> dict[str, list[datetime]]:
    """When instances were interrupted in (frm, to], by pool, oldest first."""
    rows = await conn.fetch(LIST_INTERRUPTIONS, sorted(set(pool_ids)), frm, to)
    return {row["pool_id"]: row["at"] for row in rows}


async def list_refusing(conn: Conn, now: datetime) -> set[str]:
    """Pools in which a launch failed a moment ago, of any tenant."""
    rows = await conn.fetch(LIST_REFUSING, now - REFUSED)
    return {row["pool_id"] for row in rows}
