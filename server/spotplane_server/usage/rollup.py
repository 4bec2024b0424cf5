"""Hourly sums of records: what a batch adds to each of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

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
    """What a batch adds to one hour of one combination of dimensions.

    Attributes:
        latencies: Counts by sketch bucket.
        latency_min: In milliseconds; None when no latency is known.
    """

    dimensions: Dimensions
    hour: datetime
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
            if self.latency_min is None or latency < self.latency_min:
                self.latency_min = latency
            if self.latency_max is None or latency > self.latency_max:
                self.latency_max = latency
            number = bucket(latency)
            self.latencies[number] = self.latencies.get(number, 0) + 1


def sum_hours(records: Iterable[Priced]) -> list[Delta]:
    """Add records up by hour and dimensions; one delta for each, in key order."""
    deltas: dict[tuple[int, datetime], Delta] = {}
    for record in records:
        at = record.draft.at
        hour = at.replace(minute=0, second=0, microsecond=0)
        key = (id(record.place), hour)
        delta = deltas.get(key)
        if delta is None:
            delta = deltas[key] = Delta(record.place.dimensions, hour, at, at)
        delta.add(record)
    return sorted(deltas.values(), key=lambda d: (d.hour, d.dimensions.order))
