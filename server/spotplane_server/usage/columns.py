"""Values of many records as columns of numpy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np

Integers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


def integers(values: Sequence[int]) -> Integers:
    """A column of 64-bit integers."""
    return np.array(values, np.int64)


def micros(moments: Sequence[datetime]) -> Integers:
    """Unix microseconds of moments: n in, n out."""
    # Seconds as a float still tell microseconds apart, if they are rounded to them.
    return np.rint(np.array([at.timestamp() for at in moments]) * 1e6).astype(np.int64)
