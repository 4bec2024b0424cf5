"""Recorded spot markets: a row per tick, `ZONE:available` and `ZONE:price` for every zone."""

from __future__ import annotations

import csv
import gzip
import io
import statistics
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path
from typing import Final

NANO: Final = 1_000_000_000
AVAILABLE: Final = ":available"
PRICE: Final = ":price"
_TRUTHS: Final = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


class BadRecording(ValueError):
    """A file is no recording of a market; the text says where."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded market; at least one zone and one tick.

    Attributes:
        name: Of the file, without its endings.
        zones: In the file's order.
        origin: When the first tick began.
        starts: Seconds from the origin at which each tick begins, and the last one ends; one more
            than there are ticks, strictly ascending from 0.
        available: Per tick and zone, whether spot capacity was to be had.
        prices: Per tick and zone, nano-USD per hour; None where none was recorded.
    """

    name: str
    zones: tuple[str, ...]
    origin: datetime
    starts: Sequence[int]
    available: Sequence[tuple[bool, ...]]
    prices: Sequence[tuple[int | None, ...]]

    @property
    def seconds(self) -> int:
        """How long it is."""
        return self.starts[-1]

    def first(self, ticks: int) -> Recording:
        """The market as if it had been recorded for ``ticks`` only, at least one."""
        return Recording(
            self.name,
            self.zones,
            self.origin,
            self.starts[: ticks + 1],
            self.available[:ticks],
            self.prices[:ticks],
        )


@dataclass(frozen=True, slots=True)
class _Zone:
    name: str
    available: int
    price: int


def read(path: Path, step_seconds: int | None = None) -> Recording:
    """Read a recording, plain or gzipped.

    Args:
        path: A CSV file; a column called `time` holds RFC 3339 instants.
        step_seconds: How long a tick lasts, for files without such a column; where there is one it
            is not used.

    Raises:
        BadRecording: It is not of this form; the text names line and column.
        OSError: It cannot be read.
    """
    rows = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        header = [name.strip() for name in next(rows, [])]
        zones = _zones(path, header)
        clock = header.index("time") if "time" in header else None
        if clock is None and step_seconds is None:
            raise BadRecording(f"{path}: line 1: no column `time`; say how long a tick lasts")
        times, available, prices = [], [], []
        for row in rows:
            if not row:
                continue
            where = f"{path}: line {rows.line_num}"
            if len(row) != len(header):
                raise BadRecording(f"{where}: {len(row)} fields, the header has {len(header)}")
            if clock is not None:
                times.append(_instant(row[clock], where))
                if len(times) > 1 and times[-1] <= times[-2]:
                    raise BadRecording(f"{where}: column time: not later than the line before")
            states, costs = _cells(row, zones, where)
            available.append(states)
            prices.append(costs)
    except csv.Error as err:
        raise BadRecording(f"{path}: line {rows.line_num}: {err}") from err
    if not available:
        raise BadRecording(f"{path}: has no rows")
    return Recording(
        name=path.name.removesuffix(".gz").removesuffix(".csv"),
        zones=tuple(zone.name for zone in zones),
        origin=datetime.fromtimestamp(times[0] if times else 0, UTC),
        starts=_starts(path, times, len(available), step_seconds),
        available=available,
        prices=prices,
    )


def _text(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as err:
        raise BadRecording(f"{path}: neither text nor gzipped text: {err}") from err


def _zones(path: Path, header: Sequence[str]) -> list[_Zone]:
    """Every zone of the header, in its order.

    Raises:
        BadRecording: A column is missing, comes twice, or there is no zone.
    """
    for name in header:
        if header.count(name) > 1:
            raise BadRecording(f"{path}: line 1: column {name} comes twice")
    zones = []
    for index, name in enumerate(header):
        zone = name.removesuffix(AVAILABLE)
        if zone in {name, ""}:
            continue
        if zone + PRICE not in header:
            raise BadRecording(f"{path}: line 1: column {name} has no {zone}{PRICE} beside it")
        zones.append(_Zone(zone, index, header.index(zone + PRICE)))
    known = {zone.price for zone in zones}
    for index, name in enumerate(header):
        if name.endswith(PRICE) and index not in known:
            zone = name.removesuffix(PRICE)
            raise BadRecording(f"{path}: line 1: column {name} has no {zone}{AVAILABLE} beside it")
    if not zones:
        raise BadRecording(f"{path}: line 1: columns must be ZONE{AVAILABLE} and ZONE{PRICE}")
    return zones


def _cells(
    row: Sequence[str], zones: Sequence[_Zone], where: str
) -> tuple[tuple[bool, ...], tuple[int | None, ...]]:
    states, costs = [], []
    for zone in zones:
        state = _TRUTHS.get(row[zone.available].strip().lower())
        if state is None:
            text = row[zone.available]
            raise BadRecording(f"{where}: column {zone.name}{AVAILABLE}: {text!r} is not 0 or 1")
        price = _price(row[zone.price].strip(), f"{where}: column {zone.name}{PRICE}")
        if state and price is None:
            raise BadRecording(
                f"{where}: column {zone.name}{PRICE}: empty where spot was to be had"
            )
        states.append(state)
        costs.append(price)
    return tuple(states), tuple(costs)


def _price(text: str, where: str) -> int | None:
    if not text:
        return None
    try:
        price = Decimal(text)
    except InvalidOperation as err:
        raise BadRecording(f"{where}: {text!r} is not a price") from err
    if not price.is_finite() or price <= 0:
        raise BadRecording(f"{where}: {text!r} is not a price above 0")
    return int(price * NANO)


def _instant(text: str, where: str) -> int:
    """Whole seconds of the epoch."""
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError as err:
        raise BadRecording(f"{where}: column time: {text!r} is not an RFC 3339 time") from err
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return int(instant.timestamp())


def _starts(path: Path, times: Sequence[int], ticks: int, step: int | None) -> list[int]:
    """Where ticks begin; the last one lasts as long as the middle one of the others."""
    if not times:
        return [index * (step or 1) for index in range(ticks + 1)]
    if ticks > 1:
        last = int(statistics.median(b - a for a, b in pairwise(times)))
    elif step is not None:
        last = step
    else:
        raise BadRecording(f"{path}: one row does not tell how long a tick lasts")
    return [at - times[0] for at in times] + [times[-1] - times[0] + last]
