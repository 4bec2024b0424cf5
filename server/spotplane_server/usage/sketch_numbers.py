"""Sketches as numbers, which PostgreSQL adds up by itself.

Bucket ``b`` counts in the twelve decimal digits from digit ``12 b`` on, so merging is adding.
Twelve digits are three of those to the base of 10,000 that PostgreSQL keeps numbers in.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from spotplane_server.usage import columns, sketch

_HEADER: Final = struct.Struct(">hhHH")
_BASE: Final = 10_000
_DIGITS: Final = 3
_DECIMALS: Final = 12


def counts(sent: bytes) -> dict[int, int]:
    """Counts by bucket of a number as PostgreSQL's `numeric_send` puts it; empty for 0."""
    count, weight, _, _ = _HEADER.unpack_from(sent)
    if not count:
        return {}
    digits: Any = np.frombuffer(sent, ">i2", count, _HEADER.size).astype(np.int64)
    powers = weight - np.arange(count)
    # Below 2**53 a float is exact, and twelve digits are.
    totals = np.bincount(powers // _DIGITS, digits * _BASE ** (powers % _DIGITS))
    (buckets,) = np.nonzero(totals)
    return dict(zip(buckets.tolist(), totals[buckets].astype(np.int64).tolist(), strict=True))


def numerals(parts: Sequence[int], starts: Sequence[int], ends: Sequence[int]) -> list[str]:
    """Sketches, at least one, as PostgreSQL reads numbers.

    Args:
        parts: Of all sketches, one behind the other; of each with its buckets ascending.
        starts: Where each begins, counted from 1.
        ends: Where each ends; one less for an empty one.

    Returns:
        As many numerals as there are sketches.
    """
    buckets, counts = sketch.split(columns.integers(parts))
    first, last = columns.integers(starts) - 1, columns.integers(ends) - 1
    filled = first <= last
    low = np.zeros(len(first), np.int64)
    high = np.full(len(first), -1)
    low[filled], high[filled] = buckets[first[filled]], buckets[last[filled]]
    # Each sketch is a run of cells of twelve digits, from its highest bucket down to its lowest.
    cells_end = np.cumsum(high - low + 1)
    cells = np.full((cells_end[-1], _DECIMALS), ord("0"), np.uint8)
    row = np.repeat(np.arange(len(first)), last - first + 1)
    at = cells_end[row] - 1 - (buckets - low[row])
    for digit in range(len(str(counts.max(initial=0)))):
        cells[at, _DECIMALS - 1 - digit] += (counts // 10**digit % 10).astype(np.uint8)
    digits = cells.tobytes().decode()
    begin = 0
    found = []
    for end, lowest in zip((cells_end * _DECIMALS).tolist(), low.tolist(), strict=True):
        found.append(f"{digits[begin:end]}e{_DECIMALS * lowest}" if end > begin else "0")
        begin = end
    return found
