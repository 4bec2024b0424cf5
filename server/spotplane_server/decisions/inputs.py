"""A snapshot as it is stored with its decision, and back.

Prices and interruptions before the instant are not stored: the clean series and the interruptions
of that time tell them again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from spotplane_server.decisions.engine import Limits, PoolView, Snapshot
from spotplane_server.prices import risk
from spotplane_server.prices.queries import Series

_NANO = 1_000_000_000


def to_json(snapshot: Snapshot) -> dict[str, Any]:
    """What is stored of a snapshot."""
    return {
        "instance_type": snapshot.instance_type,
        "region": snapshot.region,
        "mode": snapshot.mode,
        "pool_id": snapshot.pool_id,
        "serving_since": snapshot.serving_since.isoformat(),
        "standby_pool_id": snapshot.standby_pool_id,
        "standby_ready": snapshot.standby_ready,
        "on_demand_price": snapshot.on_demand_price,
        "pools": [
            {
                "id": pool.id,
                "az": pool.az,
                "price": pool.price,
                "risk": pool.risk,
                "available": pool.available,
                "interruptions_30d": len(pool.interruptions),
            }
            for pool in snapshot.pools
        ],
        "risk_model": risk.NAME,
        "limits": asdict(snapshot.limits),
        "memory": snapshot.memory,
    }


def pools_of(stored: Mapping[str, Any]) -> list[str]:
    """Ids of the pools of a stored snapshot."""
    return [pool["id"] for pool in stored["pools"]]


def from_json(
    stored: Mapping[str, Any],
    agent_id: UUID,
    now: datetime,
    *,
    series: Mapping[str, Series],
    interruptions: Mapping[str, Sequence[datetime]],
    history: timedelta,
) -> Snapshot:
    """The snapshot again, with the past as it is known today."""
    return Snapshot(
        agent_id=agent_id,
        instance_type=stored["instance_type"],
        region=stored["region"],
        mode=stored["mode"],
        pool_id=stored["pool_id"],
        serving_since=datetime.fromisoformat(stored["serving_since"]),
        standby_pool_id=stored["standby_pool_id"],
        on_demand_price=stored["on_demand_price"],
        pools=[
            PoolView(
                id=pool["id"],
                az=pool["az"],
                price=pool["price"],
                risk=pool["risk"],
                available=pool["available"],
                interruptions=_until(interruptions.get(pool["id"], ()), now),
                history=_past(series.get(pool["id"], Series()), now - history, now),
            )
            for pool in stored["pools"]
        ],
        limits=Limits(**stored["limits"]),
        now=now,
        memory=stored["memory"],
        standby_ready=stored["standby_ready"],
    )


def _until(times: Sequence[datetime], now: datetime) -> Sequence[datetime]:
    since = bisect_right(times, now - risk.WINDOW)
    return times[since : bisect_right(times, now)]


def _past(series: Series, frm: datetime, to: datetime) -> list[tuple[datetime, float]]:
    first, last = bisect_right(series.times, frm), bisect_right(series.times, to)
    return [
        (at, price / _NANO)
        for at, price in zip(series.times[first:last], series.prices[first:last], strict=True)
    ]
