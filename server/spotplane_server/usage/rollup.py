"""Sums of records by hour, day and minute: what a batch adds to each of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from spotplane_server.usage.pricing import PriceBook, Rates
from spotplane_server.usage.rules import Draft
from spotplane_server.usage.sketch import bucket


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
class Delta:
    """What a batch adds to one hour, day or minute of one combination of dimensions.

    Attributes:
        dimensions: Of days and minutes only the tenant and the model.
        start: Of the hour, day or minute.
        latencies: Counts by sketch bucket.
        latency_min: In milliseconds; None when no latency is known.
    """

    dimensions: Dimensions
    start: datetime
    first_at: datetime
    last_at: datetime
    requests: int = 0
    successes: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost_nanos: int = 0
    latency_count: int = 0
    latency_sum: int = 0
    latency_min: int | None = None
    latency_max: int | None = None
    latencies: dict[int, int] = field(default_factory=dict)

    def add(self, record: Priced) -> None:
        """Count one record."""
        draft = record.draft
        self.requests += 1
        self.successes += draft.outcome == "success"
        self.prompt_tokens += draft.prompt_tokens
        self.completion_tokens += draft.completion_tokens
        self.cached_tokens += draft.cached_tokens
        self.cost_nanos += record.cost_nanos
        self.first_at = min(self.first_at, draft.at)
        self.last_at = max(self.last_at, draft.at)
        latency = draft.latency_ms
        if latency is not None:
            self.latency_count += 1
            self.latency_sum += latency
            self._bound(latency, latency)
            number = bucket(latency)
            self.latencies[number] = self.latencies.get(number, 0) + 1

    def merge(self, other: Delta) -> None:
        """Count all that another counts."""
        self.requests += other.requests
        self.successes += other.successes
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.cached_tokens += other.cached_tokens
        self.cost_nanos += other.cost_nanos
        self.first_at = min(self.first_at, other.first_at)
        self.last_at = max(self.last_at, other.last_at)
        self.latency_count += other.latency_count
        self.latency_sum += other.latency_sum
        if other.latency_min is not None and other.latency_max is not None:
            self._bound(other.latency_min, other.latency_max)
        for number, count in other.latencies.items():
            self.latencies[number] = self.latencies.get(number, 0) + count

    def _bound(self, low: int, high: int) -> None:
        if self.latency_min is None or low < self.latency_min:
            self.latency_min = low
        if self.latency_max is None or high > self.latency_max:
            self.latency_max = high


_Deltas: TypeAlias = dict[tuple[Dimensions, datetime], Delta]


@dataclass(frozen=True, slots=True)
class Rollups:
    """A batch's sums, each list with one delta a key, in key order."""

    hours: list[Delta]
    days: list[Delta]
    minutes: list[Delta]


def sum_up(records: Iterable[Priced]) -> Rollups:
    """Add records up by hour and dimensions, and by day and minute and model."""
    finest: dict[tuple[int, datetime], Delta] = {}
    for record in records:
        at = record.draft.at
        minute = at.replace(second=0, microsecond=0)
        key = (id(record.place), minute)
        delta = finest.get(key)
        if delta is None:
            delta = finest[key] = Delta(record.place.dimensions, minute, at, at)
        delta.add(record)
    hours: _Deltas = {}
    days: _Deltas = {}
    minutes: _Deltas = {}
    for delta in finest.values():
        of, hour = delta.dimensions, delta.start.replace(minute=0)
        model = Dimensions(of.tenant_id, None, None, of.model_id, None)
        _merge(hours, of, hour, delta)
        _merge(days, model, hour.replace(hour=0), delta)
        _merge(minutes, model, delta.start, delta)
    return Rollups(_ordered(hours), _ordered(days), _ordered(minutes))


def _merge(into: _Deltas, dimensions: Dimensions, start: datetime, delta: Delta) -> None:
    found = into.get((dimensions, start))
    if found is None:
        found = into[dimensions, start] = Delta(dimensions, start, delta.first_at, delta.last_at)
    found.merge(delta)


def _ordered(deltas: _Deltas) -> list[Delta]:
    return sorted(deltas.values(), key=lambda d: (d.start, d.dimensions.order))
