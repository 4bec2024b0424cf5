"""Placement and states of replicas: pure decisions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from spotplane_server.market.store import Pool

Status: TypeAlias = Literal["launching", "syncing", "ready", "promoted", "terminated", "failed"]

LIVE: Final = ("launching", "syncing", "ready")
STATUSES: Final = (*LIVE, "promoted", "terminated", "failed")

# From which states a report may lead to which. `promoted` is the plane's own decision.
SOURCES: Final[dict[str, tuple[str, ...]]] = {
    "launching": ("launching",),
    "syncing": ("launching", "syncing", "ready"),
    "ready": ("launching", "syncing", "ready"),
    "failed": LIVE,
    "terminated": (*LIVE, "failed", "terminated"),
}

PRICE_AGE: Final = timedelta(hours=1)
EMERGENCY_PRICE_AGE: Final = timedelta(hours=24)

# So many failed launches within this time, and a pool is left alone.
EXCLUDED_AFTER: Final = 3
EXCLUDED_FOR: Final = timedelta(hours=1)

BACKOFF_FIRST: Final = timedelta(seconds=60)
BACKOFF_LAST: Final = timedelta(minutes=15)


def cheapest(
    pools: Sequence[Pool],
    *,
    current: str | None,
    now: datetime,
    exclude_zones: Collection[str] = (),
    max_nanousd: int | None = None,
) -> Pool | None:
    """The cheapest other pool with a price of the last hour; None when there is none.

    Args:
        pools: Of the agent's type and region.
        current: Pool of the primary, which is never chosen.
        now: For the age of prices.
        exclude_zones: Zones not to use.
        max_nanousd: Most it may cost an hour.
    """
    fit = [
        pool
        for pool in _others(pools, current, exclude_zones)
        if _fresh(pool, now - PRICE_AGE)
        and (max_nanousd is None or (pool.price_nanousd or 0) <= max_nanousd)
    ]
    return _first(fit, lambda pool: (pool.price_nanousd or 0, pool.id))


def safest(
    pools: Sequence[Pool],
    *,
    current: str | None,
    now: datetime,
    exclude_zones: Collection[str] = (),
) -> Pool | None:
    """The other pool with the fewest interruptions in 24 hours, then the cheapest.

    A pool whose price is older than 24 hours, or unknown, comes after every one with a price.
    """
    oldest = now - EMERGENCY_PRICE_AGE

    def order(pool: Pool) -> tuple[int, bool, int, str]:
        known = _fresh(pool, oldest)
        return pool.interruptions, not known, pool.price_nanousd or 0, pool.id

    return _first(_others(pools, current, exclude_zones), order)


def retry_at(failed_at: datetime, failures: int) -> datetime:
    """When to launch again after ``failures`` failures in a row: 60 s, doubling to 15 min."""
    if failures < 1:
        return failed_at
    doublings: int = 2 ** min(failures - 1, 10)
    return failed_at + min(BACKOFF_LAST, BACKOFF_FIRST * doublings)


def _others(
    pools: Sequence[Pool], current: str | None, exclude_zones: Collection[str]
) -> list[Pool]:
    return [pool for pool in pools if pool.id != current and pool.az not in exclude_zones]


def _fresh(pool: Pool, since: datetime) -> bool:
    return pool.price_observed_at is not None and pool.price_observed_at >= since


def _first(pools: Sequence[Pool], key: Callable[[Pool], Any]) -> Pool | None:
    return min(pools, key=key, default=None)
