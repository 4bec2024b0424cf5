"""Which pool to use: pure functions over the pools of one type and region (contract, section 8).

``store.list_pools`` yields the candidates in one query. None of these functions depends on the
order in which pools are listed, and ties go to the smaller id.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final

from spotplane_server.prices.rules import PLANNED_NANOUSD
from spotplane_server.prices.store import Pool

FRESH: Final = timedelta(minutes=10)
MANUAL_FRESH: Final = timedelta(hours=1)
EMERGENCY_FRESH: Final = timedelta(hours=24)


def cheapest(
    pools: Sequence[Pool],
    *,
    current: str | None,
    now: datetime,
    exclude_zones: Collection[str] = (),
    max_nanousd: int | None = None,
    fresh: timedelta = FRESH,
) -> Pool | None:
    """The cheapest pool with a price of the last 10 minutes; the second when it is the current one.

    Args:
        pools: Of the agent's type and region.
        current: Where the agent serves, never chosen; None when it serves on demand.
        now: For the age of prices.
        exclude_zones: Zones not to use.
        max_nanousd: Most it may cost an hour; None for any price.
        fresh: How old a price may be.

    Returns:
        None when none fits.
    """
    fit = [
        pool
        for pool in _allowed(pools, current, exclude_zones, max_nanousd)
        if is_fresh(pool, now, fresh)
    ]
    return min(fit, key=lambda pool: (pool.price_nanousd or 0, pool.id), default=None)


def manual_replica(
    pools: Sequence[Pool],
    *,
    current: str | None,
    now: datetime,
    exclude_zones: Collection[str] = (),
    max_nanousd: int | None = None,
) -> Pool | None:
    """The cheapest other pool with a price of the last hour; None when none fits."""
    return cheapest(
        pools,
        current=current,
        now=now,
        exclude_zones=exclude_zones,
        max_nanousd=max_nanousd,
        fresh=MANUAL_FRESH,
    )


def safest(
    pools: Sequence[Pool],
    *,
    current: str | None,
    now: datetime,
    preferred_zones: Collection[str] = (),
    exclude_zones: Collection[str] = (),
    max_nanousd: int | None = None,
) -> Pool | None:
    """The other pool to flee to: preferred zones, then fewest interruptions in 24 h, then price.

    A pool without a price of the last 24 hours comes after its equals that have one; it is planned
    at 0.05 dollars an hour.
    """

    def order(pool: Pool) -> tuple[bool, int, bool, int, str]:
        known = is_fresh(pool, now, EMERGENCY_FRESH)
        price = (pool.price_nanousd or 0) if known else 0
        return pool.az not in preferred_zones, pool.interruptions, not known, price, pool.id

    return min(_allowed(pools, current, exclude_zones, max_nanousd), key=order, default=None)


def planned_nanousd(pool: Pool) -> int:
    """What an hour in the pool is planned to cost; 0.05 dollars when its price is unknown."""
    return PLANNED_NANOUSD if pool.price_nanousd is None else pool.price_nanousd


def is_fresh(pool: Pool, now: datetime, within: timedelta) -> bool:
    """Whether the pool's price is known and not older than ``within``."""
    return pool.price_observed_at is not None and pool.price_observed_at >= now - within


def _allowed(
    pools: Sequence[Pool],
    current: str | None,
    exclude_zones: Collection[str],
    max_nanousd: int | None,
) -> list[Pool]:
    return [
        pool
        for pool in pools
        if pool.id != current
        and pool.az not in exclude_zones
        and (max_nanousd is None or planned_nanousd(pool) <= max_nanousd)
    ]
