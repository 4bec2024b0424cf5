"""Spot prices for simulated clouds: synthetic, or replayed from a recording."""

import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

NANOUSD = 1_000_000_000


class Market(Protocol):
    """Source of spot prices."""

    def prices(self, now: datetime) -> Mapping[str, int]:
        """Return the spot price of every pool at ``now``, nano-USD per hour."""


class SyntheticMarket:
    """Synthetic prices around 0.3 of on-demand, independent per pool, the same for one seed.

    The logarithm follows an Ornstein-Uhlenbeck process in steps of a minute, so that prices stay
    positive and return to their mean.

    Args:
        on_demand: Pools and the on-demand price of their type, nano-USD per hour.
        start: Time of the first step.
        seed: Selects the path.

    Source: Uhlenbeck & Ornstein, "On the Theory of the Brownian Motion", 1930.
    """

    STEP = timedelta(minutes=1)
    MEAN_SHARE = 0.3
    REVERSION_PER_STEP = 0.02
    SIGMA_PER_STEP = 0.01

    def __init__(self, on_demand: Mapping[str, int], *, start: datetime, seed: int = 0) -> None:
        self._on_demand = dict(on_demand)
        self._at = start
        self._random = random.Random(seed)
        self._offset = {pool: self._random.gauss(0, 0.1) for pool in self._on_demand}

    def prices(self, now: datetime) -> Mapping[str, int]:
        """See ``Market.prices``; an earlier ``now`` returns the latest step."""
        while self._at + self.STEP <= now:
            self._at += self.STEP
            for pool, offset in self._offset.items():
                noise = self._random.gauss(0, self.SIGMA_PER_STEP)
                self._offset[pool] = offset * (1 - self.REVERSION_PER_STEP) + noise
        return {
            # Never above on-demand, as on EC2 since 2017.
            pool: max(1, min(full, int(full * self.MEAN_SHARE * math.exp(self._offset[pool]))))
            for pool, full in self._on_demand.items()
        }


class ReplayedMarket:
    """Prices from a recording, shifted so that it begins at ``start``.

    Args:
        rows: Time, pool id and nano-USD per hour, in any order; at least one.
        start: Begin of the replay. After its end the last prices stay.
    """

    def __init__(self, rows: Iterable[tuple[datetime, str, int]], *, start: datetime) -> None:
        ordered = sorted(rows)
        if not ordered:
            raise ValueError("the recording is empty")
        shift = start - ordered[0][0]
        self._times: dict[str, list[datetime]] = {}
        self._prices: dict[str, list[int]] = {}
        for at, pool, price in ordered:
            self._times.setdefault(pool, []).append(at + shift)
            self._prices.setdefault(pool, []).append(price)

    def prices(self, now: datetime) -> Mapping[str, int]:
        """See ``Market.prices``; a pool without a price yet is absent."""
        found = {}
        for pool, times in self._times.items():
            index = bisect_right(times, now)
            if index:
                found[pool] = self._prices[pool][index - 1]
        return found
