"""The clean series in plain Python, as the contract says it: what the database must equal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from spotplane_server.prices import rules
from spotplane_server.prices.raw_store import Raw

Row = tuple[int, str, float]


def clean(told: Iterable[Raw]) -> dict[tuple[str, datetime], Row]:
    """Price, source and confidence by pool and bucket."""
    once = {(raw.submission_id, raw.pool_id): raw for raw in told}
    best: dict[tuple[str, datetime], Raw] = {}
    for raw in once.values():
        place = raw.pool_id, rules.bucket(raw.observed_at)
        held = best.get(place)
        if held is None or _rank(raw) < _rank(held):
            best[place] = raw
    return {
        place: (raw.price_nanousd, raw.source, rules.CONFIDENCE[raw.source])
        for place, raw in best.items()
    }


def _rank(raw: Raw) -> tuple[int, datetime, str]:
    return -rules.PRIORITY[raw.source], raw.observed_at, raw.submission_id
