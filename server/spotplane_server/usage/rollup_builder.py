"""Rollup builder: what a batch of records adds to each rollup.

Computed in columns by numpy, because a batch of thousands of records is summed a dozen ways before
it is stored; with objects this took longer than everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
DIMENSIONS: Final = ("environment_id", "model_id", "api_key_id", "region_id")
# Rollup name: unit of time, and the dimensions it is grouped by besides the tenant. Equal to the
# view `usage_rollup_definitions`. The order is the order in which rows are locked.
ROLLUPS: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "hour_all": (HOUR_US, DIMENSIONS),
    "hour": (HOUR_US, ()),
    "hour_model": (HOUR_US, ("model_id",)),
    "hour_api_key": (HOUR_US, ("api_key_id",)),
    "hour_region": (HOUR_US, ("region_id",)),
    "day": (DAY_US, ()),
    "day_model": (DAY_US, ("model_id",)),
    "day_api_key": (DAY_US, ("api_key_id",)),
    "day_region": (DAY_US, ("region_id",)),
    "day_model_api_key": (DAY_US, ("model_id", "api_key_id")),
    "day_model_region": (DAY_US, ("model_id", "region_id")),
    "day_api_key_region": (DAY_US, ("api_key_id", "region_id")),
    "minute_model": (MINUTE_US, ("model_id",)),
}
# Above every latency, as the identity of the minimum.
_HUGE: Final = 2**62


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The dimensions of usage; ids in their canonical text."""

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

    def project(self, fields: Sequence[str]) -> Dimensions:
        """Return the tenant and the named dimensions; the others become None."""
        return Dimensions(
            self.tenant_id,
            self.environment_id if "environment_id" in fields else None,
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


@dataclass(slots=True)
class RollupRows:
    """What a batch adds to the rollups: n rows in lock order, all columns of length n.

    Attributes:
        rollups: The name of each row's rollup.
        dimensions: Those of each row.
        starts: The start of each row's minute, hour or day; as all times in Unix µs.
        measures: requests, successes, prompt, completion and cached tokens, cost in nano-USD,
            count and sum of latencies in ms; each a column.
        latency_min: In milliseconds; None when no latency is known.
        latency_max: Likewise.
        latencies: Sketches as decimal numerals.
        first_at: Time of the earliest record.
        last_at: Time of the latest record.
    """

    rollups: list[str] = field(default_factory=list)
    dimensions: list[Dimensions] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    measures: list[list[int]] = field(default_factory=lambda: [[] for _ in range(8)])
    latency_min: list[int | None] = field(default_factory=list)
    latency_max: list[int | None] = field(default_factory=list)
    latencies: list[str] = field(default_factory=list)
    first_at: list[int] = field(default_factory=list)
    last_at: list[int] = field(default_factory=list)


def build_rollups(records: Sequence[Priced]) -> RollupRows:
    """Sum records, at least one, by all rollups."""
    batch, rows = _Columns.of(records), RollupRows()
    for name, (unit_us, fields) in ROLLUPS.items():
        batch.add_rows(rows, name, unit_us, fields)
    return rows


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

    def add_rows(self, rows: RollupRows, name: str, unit_us: int, fields: Sequence[str]) -> None:
        """Append the rows of one rollup."""
        projected = [of.project(fields) for of in self.dimensions]
        distinct = sorted(set(projected), key=lambda of: of.order)
        rank = {of: index for index, of in enumerate(distinct)}
        unit = self.at // unit_us
        key = unit * len(distinct) + columns.integers([rank[of] for of in projected])[self.place]

        order = np.argsort(key, kind="stable")
        key, at, latency = key[order], self.at[order], self.latency[order]
        begins = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
        row = np.repeat(np.arange(len(begins)), np.diff(np.append(begins, len(key))))
        known = latency >= 0

        keys = key[begins]
        rows.rollups.extend([name] * len(begins))
        rows.dimensions.extend([distinct[index] for index in (keys % len(distinct)).tolist()])
        rows.starts.extend((keys // len(distinct) * unit_us).tolist())
        sums = np.add.reduceat(self.measures[:, order], begins, axis=1).tolist()
        for column, values in zip(rows.measures, sums, strict=True):
            column.extend(values)
        smallest = np.minimum.reduceat(np.where(known, latency, _HUGE), begins)
        rows.latency_min.extend(_or_none(smallest))
        rows.latency_max.extend(_or_none(np.maximum.reduceat(latency, begins)))
        rows.latencies.extend(_sketches(row[known], latency[known], len(begins)))
        rows.first_at.extend(np.minimum.reduceat(at, begins).tolist())
        rows.last_at.extend(np.maximum.reduceat(at, begins).tolist())


def _sketches(row: Integers, latency: Integers, rows: int) -> list[str]:
    wide = sketch.MAX_BUCKETS
    keys, counts = np.unique(row * wide + sketch.buckets(latency), return_counts=True)
    return sketch.to_numerals(keys // wide, keys % wide, counts, rows)


def _or_none(latencies: Integers) -> list[int | None]:
    return [value if 0 <= value < _HUGE else None for value in latencies.tolist()]
