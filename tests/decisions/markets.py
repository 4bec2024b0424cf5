"""Snapshots made by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from spotplane_server.decisions.engine import Limits, PoolView, Snapshot

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
AGENT = UUID(int=7)
TYPE = "g5.xlarge"


def pool(zone: str, price: float | None, risk: float = 0.05, **more: Any) -> PoolView:
    """A pool of the type."""
    return PoolView(f"{TYPE}.{zone}", zone, price, risk, **more)


def snapshot(*pools: PoolView, at: str | None = "a", **more: Any) -> Snapshot:
    """A service on spot in zone ``at``, or on demand for None, at 1 dollar an hour on demand."""
    limits = {
        name: more.pop(name)
        for name in ("min_savings_percent", "risk_threshold", "min_pool_duration_hours")
        if name in more
    }
    fields: dict[str, Any] = {
        "agent_id": AGENT,
        "instance_type": TYPE,
        "region": "us-east-1",
        "mode": "spot" if at else "ondemand",
        "pool_id": f"{TYPE}.{at}" if at else None,
        "serving_since": NOW - timedelta(hours=6),
        "standby_pool_id": None,
        "on_demand_price": 1.0,
        "pools": sorted(pools, key=lambda view: view.id),
        "limits": Limits(**limits),
        "now": NOW,
    }
    return Snapshot(**(fields | more))


def rising(zone: str, *prices: float, every: timedelta = timedelta(minutes=5)) -> PoolView:
    """A pool whose clean prices, oldest first, end now."""
    first = NOW - every * (len(prices) - 1)
    history = [(first + every * n, price) for n, price in enumerate(prices)]
    return pool(zone, prices[-1], history=history)
