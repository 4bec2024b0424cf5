"""Latency sketches (DDSketch): counts per logarithmic bucket, from which percentiles are estimated.

Bucket 0 holds latencies of 0 ms, bucket ``n >= 1`` those in ``(gamma**(n - 2), gamma**(n - 1)]``
ms. PostgreSQL stores a sketch as one ``numeric``: bucket ``b`` counts in the twelve decimal digits
from digit ``12 b`` on, so that ``sum`` merges sketches. In Python a sketch is an array of
`MAX_BUCKETS` counts, as floats, which are exact below 2**53.

Source: Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees", VLDB 2019, with relative accuracy 0.01.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from spotplane_server.usage.columns import Integers

Counts: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

ALPHA: Final = 0.01
GAMMA: Final = (1 + ALPHA) / (1 - ALPHA)
_LOG_GAMMA: Final = math.log(GAMMA)

MAX_LATENCY_MS: Final = 3_600_000
# Above the number of every bucket.
MAX_BUCKETS: Final = 1024

_DECIMALS: Final = 12
# The binary form of PostgreSQL's `numeric`: digits to the base of 10,000, three of them per bucket.
_HEADER: Final = struct.Struct(">hhHH")
_BASE: Final = 10_000
_DIGITS: Final = 3
_POWERS: Final = np.array([float(_BASE**power) for power in reversed(range(_DIGITS))])
_ZERO: Final = b"\0\0"


def bucket(latency_ms: int) -> int:
    """Return the bucket of a latency, 0..757 for 0 ms..1 h."""
    if latency_ms <= 0:
        return 0
    return math.ceil(math.log(latency_ms) / _LOG_GAMMA) + 1


def buckets(latencies_ms: Integers) -> Integers:
    """Return the `bucket` of each of n non-negative latencies."""
    logs = np.log(np.maximum(latencies_ms, 1))
    return np.where(latencies_ms > 0, np.ceil(logs / _LOG_GAMMA).astype(np.int64) + 1, 0)


def estimate(number: int) -> float:
    """Return a latency in milliseconds within 1 % of every latency of a bucket."""
    return 0.0 if number == 0 else 2 * GAMMA ** (number - 1) / (GAMMA + 1)


def empty() -> Counts:
    """Return the sketch of no latencies."""
    return np.zeros(MAX_BUCKETS)


def from_numerics(numerics: Sequence[bytes]) -> list[Counts]:
    """Read n sketches in the binary form that PostgreSQL's ``numeric_send`` returns."""
    # The lowest bucket of each, the one above its highest, and its digits padded to whole buckets.
    spans: list[tuple[int, int]] = []
    digits: list[bytes] = []
    for numeric in numerics:
        count, weight, _, _ = _HEADER.unpack_from(numeric)
        lowest = weight - count + 1
        spans.append((lowest // _DIGITS, weight // _DIGITS + 1) if count else (0, 0))
        if count:
            digits += (
                _ZERO * (_DIGITS - 1 - weight % _DIGITS),
                numeric[_HEADER.size :],
                _ZERO * (lowest % _DIGITS),
            )
    descending = np.frombuffer(b"".join(digits), ">i2").reshape(-1, _DIGITS) @ _POWERS
    sketches, begin = [], 0
    for low, high in spans:
        counts = empty()
        counts[low:high] = descending[begin : begin + high - low][::-1]
        begin += high - low
        sketches.append(counts)
    return sketches


def to_numerals(row: Integers, number: Integers, count: Integers, rows: int) -> list[str]:
    """Write sketches as decimal numerals.

    Args:
        row: The sketch of each of n counts, ascending.
        number: The bucket of each count, ascending within its sketch.
        count: How often the bucket occurs.
        rows: How many sketches there are; those without counts become ``0``.
    """
    begins = np.searchsorted(row, np.arange(rows))
    ends = np.searchsorted(row, np.arange(rows), side="right")
    filled = ends > begins
    low, high = np.zeros(rows, np.int64), np.full(rows, -1)
    low[filled], high[filled] = number[begins[filled]], number[ends[filled] - 1]
    # Each sketch is a run of cells of twelve digits, from its highest bucket down to its lowest.
    cell_ends = np.cumsum(high - low + 1)
    cells = np.full((int(cell_ends[-1]) if rows else 0, _DECIMALS), ord("0"), np.uint8)
    at = cell_ends[row] - 1 - (number - low[row])
    for digit in range(len(str(count.max(initial=0)))):
        cells[at, _DECIMALS - 1 - digit] += (count // 10**digit % 10).astype(np.uint8)
    digits = cells.tobytes().decode()
    numerals, begin = [], 0
    for end, lowest in zip((cell_ends * _DECIMALS).tolist(), low.tolist(), strict=True):
        numerals.append(f"{digits[begin:end]}e{_DECIMALS * lowest}" if end > begin else "0")
        begin = end
    return numerals


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
    cumulative = np.cumsum(np.stack(sketches), axis=1)
    totals = cumulative[:, -1:]
    ranks = np.maximum(totals - 1, 0) * quantiles
    nearest = np.stack([np.floor(ranks), np.ceil(ranks)])
    # One ascending line of all sketches, each beginning where the previous one ends.
    begins = np.cumsum(totals, axis=0) - totals
    found = np.searchsorted((cumulative + begins).ravel(), nearest + begins, side="right")
    numbers = found - MAX_BUCKETS * np.arange(len(sketches))[:, None]
    low, high = _ESTIMATES[np.minimum(numbers, MAX_BUCKETS - 1)]
    fraction = ranks - nearest[0]
    latencies: list[list[float]]
    latencies = np.where(totals > 0, low * (1 - fraction) + high * fraction, 0.0).tolist()
    return latencies


_ESTIMATES: Final = np.array([estimate(number) for number in range(MAX_BUCKETS)])
