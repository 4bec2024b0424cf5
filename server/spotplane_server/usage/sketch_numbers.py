"""Sketches as numbers, which PostgreSQL adds up by itself.

Bucket ``b`` counts in the twelve decimal digits from digit ``12 b`` on, so merging is adding.
Twelve digits are three of those to the base of 10,000 that PostgreSQL keeps numbers in.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np

_HEADER: Final = struct.Struct(">hhHH")
_BASE: Final = 10_000
_DIGITS: Final = 3


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
