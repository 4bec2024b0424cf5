"""Working missing prices out of their neighbours: pure functions (contract, section 8, "Gap").

A gap is a run of missing buckets between two known ones. Only real prices are known here, so that
the result does not depend on what was filled before; it is recomputed as a whole, and a real price
that comes late splits its gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from statistics import median
from typing import Final, TypeAlias

from spotplane_server.prices.rules import BUCKET

LINEAR: Final = 2
WEIGHTED: Final = 6
CARRIED: Final = 24
LINEAR_CONFIDENCE: Final = 0.85
WEIGHTED_CONFIDENCE: Final = 0.75
CARRIED_CONFIDENCE: Final = 0.70

NEIGHBOURS: Final = 6
REACH: Final = timedelta(hours=1)
# Beyond the window that is filled, this much before it decides what it holds.
CONTEXT: Final = CARRIED * BUCKET + REACH

# Prices are kept to the millionth of a dollar.
MICRO: Final = 1000

# Real prices by bucket, nano-USD an hour.
Known: TypeAlias = Mapping[datetime, int]


@dataclass(frozen=True, slots=True)
class Gap:
    """Missing buckets between two known ones.

    Attributes:
        before: The known bucket before the first missing one.
        count: How many are missing, >= 1.
    """

    before: datetime
    count: int

    @property
    def after(self) -> datetime:
        """The known bucket behind the last missing one."""
        return self.before + (self.count + 1) * BUCKET

    def __iter__(self) -> Iterator[datetime]:
        """The missing buckets, oldest first."""
        return (self.before + number * BUCKET for number in range(1, self.count + 1))


@dataclass(frozen=True, slots=True)
class Filled:
    """A price that was worked out."""

    bucket_at: datetime
    price_nanousd: int
    confidence: float


def find(known: Known) -> list[Gap]:
    """Gaps that may be filled, oldest first: at most 24 buckets long, known on both sides."""
    times = sorted(known)
    return [
        Gap(before, count)
        for before, after in pairwise(times)
        if 1 <= (count := (after - before) // BUCKET - 1) <= CARRIED
    ]


def fill(gap: Gap, known: Known, siblings: Sequence[Known]) -> list[Filled]:
    """Prices for all of a gap's buckets, oldest first.

    Args:
        gap: One that ``find`` found.
        known: Real prices of the pool: both ends, and all within an hour of the gap.
        siblings: Real prices of the other pools of the type and region.

    Returns:
        Up to 2 buckets: on the line between the ends. Up to 6: mean of the nearest 6 known prices
        within an hour, weighted by inverse distance. Up to 24: the last price, changed as the
        median of the siblings changed since; unchanged when none is known at both instants.
    """
    if gap.count <= LINEAR:
        return [Filled(at, _linear(gap, at, known), LINEAR_CONFIDENCE) for at in gap]
    if gap.count <= WEIGHTED:
        return [Filled(at, _weighted(at, known), WEIGHTED_CONFIDENCE) for at in gap]
    return [Filled(at, _carried(gap, at, known, siblings), CARRIED_CONFIDENCE) for at in gap]


def _linear(gap: Gap, at: datetime, known: Known) -> int:
    first, last = known[gap.before], known[gap.after]
    return _price(first + Fraction((at - gap.before) // BUCKET, gap.count + 1) * (last - first))


def _weighted(at: datetime, known: Known) -> int:
    """Both ends of a gap of up to 6 are within an hour, so there is always a neighbour."""
    reach = REACH // BUCKET
    near = [
        (abs(steps), when, known[when])
        for steps in range(-reach, reach + 1)
        if (when := at + steps * BUCKET) in known
    ]
    nearest = sorted(near)[:NEIGHBOURS]
    weights = sum((Fraction(1, steps) for steps, _, _ in nearest), Fraction(0))
    total = sum((Fraction(price, steps) for steps, _, price in nearest), Fraction(0))
    return _price(total / weights)


def _carried(gap: Gap, at: datetime, known: Known, siblings: Sequence[Known]) -> int:
    changes = [
        Fraction(sibling[at] - sibling[gap.before], sibling[gap.before])
        for sibling in siblings
        if at in sibling and gap.before in sibling
    ]
    change = Fraction(median(changes)) if changes else Fraction(0)
    return _price(known[gap.before] * (1 + change))


def _price(exact: Fraction) -> int:
    """To the millionth of a dollar, at least one."""
    return max(MICRO, round(exact / MICRO) * MICRO)
