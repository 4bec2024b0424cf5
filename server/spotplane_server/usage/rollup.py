"""Sums of records by hour, day and minute: what a batch adds to each of them.

In columns and by numpy, because a batch of thousands of records is summed a dozen ways before it is
stored: by objects that took longer than all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from spotplane_server.usage import columns, sketch
from spotplane_server.usage.columns import Integers
from spotplane_server.usage.pricing import PriceBook, Rates
from spotplane_server.usage.rules import Draft

MINUTE_US: Final = 60_000_000
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US
NO_LATENCY: Final = -1
# Sums by few dimensions: the unit of time, and the fields that tell rows apart.
CUTS: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "hour": (HOUR_US, ()),
    "hour_model": (HOUR_US, ("model_id",)),
    "hour_api_key": (HOUR_US, ("api_key_id",)),
    "hour_region": (HOUR_US, ("region_id",)),
    "day": (DAY_US, ()),
    "day_api_key": (DAY_US, ("api_key_id",)),
    "day_region": (DAY_US, ("region_id",)),
    "day_model_api_key": (DAY_US, ("model_id", "api_key_id")),
    "day_model_region": (DAY_US, ("model_id", "region_id")),
    "day_api_key_region": (DAY_US, ("api_key_id", "region_id")),
}
# Beyond every latency, where the smallest is looked for.
_HUGE: Final = 2**62


@dataclass(frozen=True, slots=True)
class Dimensions:
    """What usage is summed by; ids in their canonical text."""

    tenant_id: str
    environment_id: str | None
    api_key_id: str | None
    model_id: str | None
    region_id: str | None

    @property
    def order(self) -> tuple[str, ...]:
        """A total order, the same for every writer, so that two never wait for each other."""
        return (
            self.tenant_id,
            self.environment_id or "",
            self.model_id or "",
            self.api_key_id or "",
            self.region_id or "",
        )

    def only(self, *fields: str) -> Dimensions:
        """The tenant and some of the others, by the names of their fields, alone."""
        return Dimensions(
            self.tenant_id,
            None,
            self.api_key_id if "api_key_id" in fields else None,
            self.model_id if "model_id" in fields else None,
            self.region_id if "region_id" in fields else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Dimensions that exist, and what they cost over time; compared by identity."""

    dimensions: Dimensions
    prices: PriceBook


@dataclass(slots=True)
class Priced:
    """A record ready to be stored."""

    draft: Draft
    place: Place
    rates: Rates
    cost_nanos: int


@dataclass(frozen=True, slots=True)
class Sums:
    """What a batch adds to one table: n rows in key order, all columns of length n.

    Attributes:
        dimensions: Of each row.
        starts: Of each row's hour, day or minute; as all times in Unix µs.
        measures: requests, successes, prompt, completion and cached tokens, cost in nano-USD,
            count and sum of latencies in ms; each a column.
        latency_min: In milliseconds; None when no latency is known.
        latency_max: Likewise.
        sketch: The rows' sketches, one behind the other.
        sketch_from: Where each begins, counted from 1.
        sketch_to: Where each ends; one less for an empty one.
        first_at: Of the earliest record.
        last_at: Of the latest.
    """

    dimensions: list[Dimensions]
    starts: list[int]
    measures: list[list[int]]
    latency_min: list[int | None]
    latency_max: list[int | None]
    sketch: list[int]
    sketch_from: list[int]
    sketch_to: list[int]
    first_at: list[int]
    last_at: list[int]

    @classmethod
    def together(cls, several: Sequence[Sums]) -> Sums:
        """The rows of several, one behind the other."""
        found = cls([], [], [[] for _ in several[0].measures], [], [], [], [], [], [], [])
        for sums in several:
            begin = len(found.sketch)
            found.dimensions.extend(sums.dimensions)
            found.starts.extend(sums.starts)
            for column, more in zip(found.measures, sums.measures, strict=True):
                column.extend(more)
            found.latency_min.extend(sums.latency_min)
            found.latency_max.extend(sums.latency_max)
            found.sketch.extend(sums.sketch)
            found.sketch_from.extend([begin + start for start in sums.sketch_from])
            found.sketch_to.extend([begin + end for end in sums.sketch_to])
            found.first_at.extend(sums.first_at)
            found.last_at.extend(sums.last_at)
        return found


@dataclass(frozen=True, slots=True)
class Rollups:
    """A batch's sums; the cuts by name, always in the same order."""

    hours: Sums
    days: Sums
    minutes: Sums
    cuts: dict[str, Sums]


def sum_up(records: Sequence[Priced]) -> Rollups:
    """Add records up, at least one: by hour and dimensions, by day or minute and model, by cut."""
    batch = _Columns.of(records)
    return Rollups(
        batch.sum(None, HOUR_US),
        batch.sum(("model_id",), DAY_US),
        batch.sum(("model_id",), MINUTE_US),
        {name: batch.sum(fields, unit_us) for name, (unit_us, fields) in CUTS.items()},
    )


@dataclass(frozen=True, slots=True)
class _Columns:
    """Records in columns: ``place`` is an index into ``dimensions``, times are in Unix µs."""

    dimensions: list[Dimensions]
    place: Integers
    at: Integers
    latency: Integers
    measures: Integers

    @classmethod
    def of(cls, records: Sequence[Priced]) -> _Columns:
        drafts = [r.draft for r in records]
        places = {id(r.place): r.place for r in records}
        rank = {key: index for index, key in enumerate(places)}
        latency = columns.integers(
            [NO_LATENCY if d.latency_ms is None else d.latency_ms for d in drafts]
        )
        measures = np.stack(
            [
                np.ones(len(drafts), np.int64),
                columns.integers([d.outcome == "success" for d in drafts]),
                columns.integers([d.prompt_tokens for d in drafts]),
                columns.integers([d.completion_tokens for d in drafts]),
                columns.integers([d.cached_tokens for d in drafts]),
                columns.integers([r.cost_nanos for r in records]),
                (latency >= 0).astype(np.int64),
                np.maximum(latency, 0),
            ]
        )
        return cls(
            [place.dimensions for place in places.values()],
            columns.integers([rank[id(r.place)] for r in records]),
            columns.micros([d.at for d in drafts]),
            latency,
            measures,
        )

    def sum(self, fields: Sequence[str] | None, unit_us: int) -> Sums:
        """Sum by unit of time and by the tenant and some other dimensions; by all when None."""
        projected = self.dimensions
        if fields is not None:
            projected = [of.only(*fields) for of in projected]
        distinct = sorted(set(projected), key=lambda of: of.order)
        rank = {of: index for index, of in enumerate(distinct)}
        unit = self.at // unit_us
        key = unit * len(distinct) + columns.integers([rank[of] for of in projected])[self.place]

        order = np.argsort(key, kind="stable")
        key, at, latency = key[order], self.at[order], self.latency[order]
        begins = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
        row = np.repeat(np.arange(len(begins)), np.diff(np.append(begins, len(key))))

        keys = key[begins]
        known = latency >= 0
        parts, part_rows = _sketches(row[known], latency[known])
        return Sums(
            [distinct[index] for index in (keys % len(distinct)).tolist()],
            (keys // len(distinct) * unit_us).tolist(),
            np.add.reduceat(self.measures[:, order], begins, axis=1).tolist(),
            _known(np.minimum.reduceat(np.where(known, latency, _HUGE), begins)),
            _known(np.maximum.reduceat(latency, begins)),
            parts.tolist(),
            (np.searchsorted(part_rows, np.arange(len(begins))) + 1).tolist(),
            np.searchsorted(part_rows, np.arange(len(begins)), side="right").tolist(),
            np.minimum.reduceat(at, begins).tolist(),
            np.maximum.reduceat(at, begins).tolist(),
        )


def _sketches(row: Integers, latency: Integers) -> tuple[Integers, Integers]:
    """Parts of the sketches of all rows, in their order, and the row of each part."""
    wide = sketch.MAX_BUCKETS
    keys, counts = np.unique(row * wide + sketch.buckets(latency), return_counts=True)
    return sketch.parts(keys % wide, counts), keys // wide


def _known(latencies: Integers) -> list[int | None]:
    return [value if 0 <= value < _HUGE else None for value in latencies.tolist()]
