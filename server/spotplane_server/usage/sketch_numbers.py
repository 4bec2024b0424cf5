"""Sketches as numbers, which PostgreSQL adds up by itself.

Bucket ``b`` counts in the twelve decimal digits from digit ``12 b`` on, so merging is adding.
Twelve digits are three of those to the base of 10,000 that PostgreSQL keeps numbers in.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np

from spotplane_server.usage import columns, sketch

_HEADER: Final = struct.Struct(">hhHH")
_BASE: Final = 10_000
_DIGITS: Final = 3
_DECIMALS: Final = 12
_POWERS: Final = np.array([float(_BASE**power) for power in reversed(range(_DIGITS))])
_ZERO: Final = b"\0\0"


def counts(numbers: Sequence[bytes]) -> list[sketch.Counts]:
    """Counts by bucket of each of n numbers as PostgreSQL's `numeric_send` puts them."""
    # Of each the lowest bucket and the one above its highest, and its digits in whole buckets.
    spans: list[tuple[int, int]] = []
    digits: list[bytes] = []
    for sent in numbers:
        count, weight, _, _ = _HEADER.unpack_from(sent)
        lowest = weight - count + 1
        spans.append((lowest // _DIGITS, weight // _DIGITS + 1) if count else (0, 0))
        if count:
            digits += (
                _ZERO * (_DIGITS - 1 - weight % _DIGITS),
                sent[_HEADER.size :],
                _ZERO * (lowest % _DIGITS),
            )
    descending = np.frombuffer(b"".join(digits), ">i2").reshape(-1, _DIGITS) @ _POWERS
    found, begin = [], 0
    for low, high in spans:
        one = sketch.nothing()
        one[low:high] = descending[begin : begin + high - low][::-1]
        begin += high - low
        found.append(one)
    return found


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
