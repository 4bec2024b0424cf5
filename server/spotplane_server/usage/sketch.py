"""Latency sketches: counts of logarithmic buckets, from which percentiles are read.

Buckets are numbered for storage: 0 holds latencies of 0 ms, ``n >= 1`` holds those in
``(gamma**(n - 2), gamma**(n - 1)]`` ms. A sketch is a list of parts, each ``bucket << 32 | count``;
a bucket may occur more than once, so that merging is concatenation.

Source: Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees", VLDB 2019, with relative accuracy 0.01.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from spotplane_server.usage.columns import Integers

ALPHA: Final = 0.01
GAMMA: Final = (1 + ALPHA) / (1 - ALPHA)
_LOG_GAMMA: Final = math.log(GAMMA)
_COUNT_BITS: Final = 32
_COUNT_MASK: Final = (1 << _COUNT_BITS) - 1

MAX_LATENCY_MS: Final = 3_600_000
# Above the number of every bucket.
MAX_BUCKETS: Final = 1024


def bucket(latency_ms: int) -> int:
    """Number of the bucket that holds a latency, 0..757 for 0 ms..1 h."""
    if latency_ms <= 0:
        return 0
    return math.ceil(math.log(latency_ms) / _LOG_GAMMA) + 1


def buckets(latencies_ms: Integers) -> Integers:
    """`bucket` of many latencies, none of them negative: n in, n out."""
    logs = np.log(np.maximum(latencies_ms, 1))
    return np.where(latencies_ms > 0, np.ceil(logs / _LOG_GAMMA).astype(np.int64) + 1, 0)


def parts(numbers: Integers, counts: Integers) -> Integers:
    """The parts that say how often each bucket counts: n buckets and n counts in, n parts out."""
    return numbers << _COUNT_BITS | counts


def split(parts: Integers) -> tuple[Integers, Integers]:
    """The buckets and the counts of parts: n in, n and n out."""
    return parts >> _COUNT_BITS, parts & _COUNT_MASK


def estimate(number: int) -> float:
    """A latency in milliseconds within 1 % of all that a bucket holds."""
    return 0.0 if number == 0 else 2 * GAMMA ** (number - 1) / (GAMMA + 1)


def unpack(parts: Iterable[int]) -> dict[int, int]:
    """Counts by bucket, parts of one bucket added up."""
    counts: dict[int, int] = {}
    for part in parts:
        number = part >> _COUNT_BITS
        counts[number] = counts.get(number, 0) + (part & _COUNT_MASK)
    return counts


def percentiles(counts: dict[int, int], quantiles: Sequence[float]) -> list[float]:
    """Read quantiles by linear interpolation between the estimates of the two nearest ranks.

    Args:
        counts: By bucket.
        quantiles: Ascending, each in [0, 1].

    Returns:
        One latency in milliseconds for each; all 0 when there are no latencies.
    """
    total = sum(counts.values())
    if total == 0:
        return [0.0] * len(quantiles)
    ranks = [quantile * (total - 1) for quantile in quantiles]
    wanted = sorted({k for rank in ranks for k in (math.floor(rank), math.ceil(rank))})
    values = _at_ranks(counts, wanted)
    return [_between(values, rank) for rank in ranks]


def _at_ranks(counts: dict[int, int], ranks: Sequence[int]) -> dict[int, float]:
    found: dict[int, float] = {}
    waiting = iter(ranks)
    rank, seen = next(waiting, None), 0
    for number in sorted(counts):
        seen += counts[number]
        while rank is not None and rank < seen:
            found[rank] = estimate(number)
            rank = next(waiting, None)
    return found


def _between(values: dict[int, float], rank: float) -> float:
    low, high = math.floor(rank), math.ceil(rank)
    fraction = rank - low
    return values[low] * (1 - fraction) + values[high] * fraction
