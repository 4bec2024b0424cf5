"""Latency sketches: counts of logarithmic buckets, from which percentiles are read.

Buckets are numbered for storage: 0 holds latencies of 0 ms, ``n >= 1`` holds those in
``(gamma**(n - 2), gamma**(n - 1)]`` ms. A sketch is a list of parts, each ``bucket << 32 | count``;
a bucket may occur more than once, so that merging is concatenation. To be read it becomes counts by
bucket, `MAX_BUCKETS` of them, as floats, which are exact below 2**53; merging those is adding.

Source: Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees", VLDB 2019, with relative accuracy 0.01.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, TypeAlias, cast

import numpy as np

from spotplane_server.usage.columns import Integers

Counts: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

ALPHA: Final = 0.01
GAMMA: Final = (1 + ALPHA) / (1 - ALPHA)
_LOG_GAMMA: Final = math.log(GAMMA)
_COUNT_BITS: Final = 32
_COUNT_MASK: Final = (1 << _COUNT_BITS) - 1
_SENT: Final = np.dtype([("length", ">i4"), ("part", ">i8")])

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


def nothing() -> Counts:
    """Counts of no latency at all."""
    return np.zeros(MAX_BUCKETS)


def merge(sent: bytes) -> Counts:
    """Counts by bucket of many sketches: their parts as PostgreSQL's `array_send` puts them.

    That is each with its length before it. Where an array begins it puts a head of 20 bytes, which
    must have been cut off.
    """
    numbers, counts = split(np.frombuffer(sent, _SENT)["part"].astype(np.int64))
    found: Any = np.bincount(numbers, counts, MAX_BUCKETS)
    return cast("Counts", found)


def percentiles(sketches: Sequence[Counts], quantiles: Sequence[float]) -> list[list[float]]:
    """Read quantiles by linear interpolation between the estimates of the two nearest ranks.

    Args:
        sketches: n of them.
        quantiles: Each in [0, 1].

    Returns:
        n lists of one latency in milliseconds for each quantile; 0 where there are no latencies.
    """
    if not sketches:
        return []
    seen = np.cumsum(np.stack(sketches), axis=1)
    totals = seen[:, -1:]
    ranks = np.maximum(totals - 1, 0) * quantiles
    nearest = np.stack([np.floor(ranks), np.ceil(ranks)])
    # One ascending line of all, each beginning where the one before it ends.
    begins = np.cumsum(totals, axis=0) - totals
    found = np.searchsorted((seen + begins).ravel(), nearest + begins, side="right")
    numbers = found - MAX_BUCKETS * np.arange(len(sketches))[:, None]
    low, high = _ESTIMATES[np.minimum(numbers, MAX_BUCKETS - 1)]
    fraction = ranks - nearest[0]
    latencies: list[list[float]]
    latencies = np.where(totals > 0, low * (1 - fraction) + high * fraction, 0.0).tolist()
    return latencies


_ESTIMATES: Final = np.array([estimate(number) for number in range(MAX_BUCKETS)])
