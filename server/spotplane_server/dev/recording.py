"""Recorded spot markets: a row per tick, `ZONE:available` and `ZONE:price` for every zone."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final

NANO: Final = 1_000_000_000
DEFAULT_TYPE: Final = "p3.2xlarge"


class BadRecording(ValueError):
    """A file is no recording of a market; the text says where."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One moment: where spot instances were to be had, and what they cost, nano-USD per hour."""

    available: frozenset[str]
    prices: dict[str, int]


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded market; zones in the file's order, at least one, and at least one tick."""

    zones: tuple[str, ...]
    ticks: Sequence[Tick]


def read(path: Path) -> Recording:
    """Read a recording, plain or gzipped.

    Raises:
        BadRecording: It is not of this form.
        OSError: It cannot be read.
    """
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
        rows = csv.DictReader(io.StringIO(text))
        names = rows.fieldnames or ()
        zones = tuple(n.removesuffix(":price") for n in names if n.endswith(":price"))
        missing = [zone for zone in zones if f"{zone}:available" not in names]
        if not zones or missing:
            raise BadRecording(f"{path}: columns must be ZONE:available and ZONE:price")
        ticks = [_tick(zones, row) for row in rows]
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, InvalidOperation, TypeError) as err:
        raise BadRecording(f"{path}: {err}") from err
    if not ticks:
        raise BadRecording(f"{path}: has no rows")
    return Recording(zones, ticks)


def region_of(zone: str) -> str:
    """The region of a zone: `us-east-1a` and `us-central1-a` lose their last part."""
    return re.sub(r"-?[a-z]$", "", zone)


def type_in(name: str, known: Sequence[str]) -> str:
    """The known instance type that a file's name mentions, else a V100."""
    return next((kind for kind in known if kind in name), DEFAULT_TYPE)


def _tick(zones: Sequence[str], row: dict[str, str]) -> Tick:
    prices = {}
    for zone in zones:
        text = row[f"{zone}:price"].strip()
        if text and (price := int(Decimal(text) * NANO)) > 0:
            prices[zone] = price
    return Tick(
        frozenset(z for z in zones if row[f"{z}:available"].strip() in {"1", "1.0", "True"}),
        prices,
    )
