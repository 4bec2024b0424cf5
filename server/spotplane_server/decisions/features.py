"""What models and rules are told of a place: one definition for all of them, and for training."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from spotplane_server.decisions import candidates as candidates_module
from spotplane_server.decisions.engine import PoolView, Snapshot

# Columns of a model's input, in this order.
COLUMNS: Final = (
    "price",
    "on_demand_price",
    "ratio",
    "delta_1h",
    "delta_24h",
    "sigma_6h",
    "rank",
    "risk",
    "interruptions_30d",
    "is_current",
    "is_spot",
    "hour",
    "weekday",
)

SIGMA_WINDOW: Final = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Trend:
    """How a pool's price has moved until an instant.

    Attributes:
        delta_1h: Change within an hour as a part of the price before, 0 when that is not known.
        delta_24h: The same within a day.
        sigma_6h: Standard deviation of the last six hours' prices, dollars an hour.
    """

    delta_1h: float = 0.0
    delta_24h: float = 0.0
    sigma_6h: float = 0.0


def trend(pool: PoolView, now: datetime) -> Trend:
    """How a pool's price has moved; all zero without a price or a history."""
    if pool.price is None or not pool.history:
        return Trend()
    recent = [price for at, price in _since(pool.history, now - SIGMA_WINDOW)]
    return Trend(
        delta_1h=_change(pool, now - timedelta(hours=1)),
        delta_24h=_change(pool, now - timedelta(hours=24)),
        sigma_6h=_deviation(recent),
    )


def ranks(snapshot: Snapshot) -> dict[str, int]:
    """Place of each priced pool by price, the cheapest 1."""
    priced = [pool for pool in snapshot.pools if pool.price is not None]
    ordered = sorted(priced, key=lambda pool: (candidates_module.price(pool), pool.id))
    return {pool.id: number for number, pool in enumerate(ordered, 1)}


def rows(snapshot: Snapshot) -> tuple[list[PoolView | None], list[list[float]]]:
    """A model's candidates and their features.

    Returns:
        n candidates and n rows of `COLUMNS`, in the same order: first staying, then on demand
        (None), then each pool with a fresh price. The first candidate is the current pool, None on
        demand.
    """
    rank = ranks(snapshot)
    current = candidates_module.current_pool(snapshot)
    priced = [pool for pool in snapshot.pools if pool.price is not None]
    candidates = [current, None, *priced]
    return candidates, [_row(snapshot, pool, rank) for pool in candidates]


def _row(snapshot: Snapshot, pool: PoolView | None, rank: dict[str, int]) -> list[float]:
    now, on_demand = snapshot.now, snapshot.on_demand_price
    here = snapshot.pool_id if snapshot.mode == "spot" else None
    clock = [float(now.hour), float(now.weekday())]
    if pool is None:
        return [on_demand, on_demand, 1.0, 0, 0, 0, 0, 0, 0, float(here is None), 0.0, *clock]
    price = pool.price or 0.0
    moved = trend(pool, now)
    return [
        price,
        on_demand,
        price / on_demand,
        moved.delta_1h,
        moved.delta_24h,
        moved.sigma_6h,
        float(rank.get(pool.id, 0)),
        pool.risk,
        float(len(pool.interruptions)),
        float(pool.id == here),
        1.0,
        *clock,
    ]


def _since(
    history: Sequence[tuple[datetime, float]], start: datetime
) -> Sequence[tuple[datetime, float]]:
    return history[bisect_right(history, start, key=lambda point: point[0]) :]


def _deviation(prices: Sequence[float]) -> float:
    """Standard deviation of all of them; 0 of fewer than two."""
    # `statistics.pstdev` is exact in fractions, and takes a hundred times as long.
    if len(prices) < 2:
        return 0.0
    mean = math.fsum(prices) / len(prices)
    return math.sqrt(math.fsum((price - mean) ** 2 for price in prices) / len(prices))


def _change(pool: PoolView, at: datetime) -> float:
    """Change since the last price at or before an instant, if that is not older than an hour."""
    index = bisect_right(pool.history, at, key=lambda point: point[0])
    if index == 0 or pool.price is None:
        return 0.0
    when, before = pool.history[index - 1]
    if at - when > timedelta(hours=1) or before <= 0:
        return 0.0
    return (pool.price - before) / before
