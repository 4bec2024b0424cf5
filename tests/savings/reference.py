"""The ledger as plain Python: every span, cut by buckets and priced, in exact integers.

Written from the contract and not from the statements that it checks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

import asyncpg

from tests.savings.world import BUCKET, Amounts, Rows, bucket

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(hours=24)
MS: Final = timedelta(milliseconds=1)
FOREVER: Final = datetime.max.replace(tzinfo=UTC)
NEVER: Final = datetime.min.replace(tzinfo=UTC) + DAY
DEFAULT_PRICE: Final = 41_600_000
_PARTS: Final = {
    "running_primary": 1,
    "launching": 2,
    "running_replica": 2,
    "promoting": 2,
    "zombie": 3,
    "terminating": 3,
}


@dataclass
class Facts:
    """What a tenant's history is made of."""

    spans: Sequence[Any]
    heard: dict[str, datetime]
    baselines: dict[str, int | None]
    spot: dict[str, list[tuple[datetime, int]]]
    on_demand: dict[tuple[str, str], list[tuple[datetime, int]]]


async def read(conn: asyncpg.Connection[asyncpg.Record], tenant_id: UUID) -> Facts:
    """Read a tenant's history."""
    spot: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for row in await conn.fetch(
        "SELECT pool_id, bucket_at, price_nanousd FROM clean_prices ORDER BY bucket_at"
    ):
        spot[row["pool_id"]].append((row["bucket_at"], row["price_nanousd"]))
    on_demand: dict[tuple[str, str], list[tuple[datetime, int]]] = defaultdict(list)
    for row in await conn.fetch("SELECT * FROM on_demand_price_history ORDER BY observed_at"):
        key = (row["region"], row["instance_type"])
        on_demand[key].append((row["observed_at"], row["price_nanousd"]))
    instances = await conn.fetch("SELECT * FROM instances WHERE tenant_id = $1", tenant_id)
    sessions = await conn.fetch("SELECT * FROM agent_sessions WHERE tenant_id = $1", tenant_id)
    return Facts(
        await conn.fetch("SELECT * FROM instance_spans WHERE tenant_id = $1", tenant_id),
        {row["instance_id"]: row["last_heartbeat_at"] for row in sessions},
        {row["id"]: row["baseline_price_nanousd"] for row in instances},
        spot,
        on_demand,
    )


def horizon(facts: Facts, agent_id: UUID, now: datetime) -> datetime:
    """Until when an agent's time counts."""
    spans = [span for span in facts.spans if span["agent_id"] == agent_id]
    signs = [facts.heard.get(span["instance_id"], NEVER) for span in spans]
    signs += [span["started_at"] for span in spans if span["status"] == "running_primary"]
    return min(now, max(signs, default=NEVER) + HOUR)


def integrate(facts: Facts, agent_id: UUID, start: datetime, end: datetime) -> Rows:
    """What an agent's instances cost between two instants, bucket by bucket."""
    sums: dict[tuple[UUID, str, datetime], list[Fraction]] = {}
    for span in facts.spans:
        if span["agent_id"] != agent_id:
            continue
        until = min(span["ended_at"] or FOREVER, end)
        if span["status"] == "running_primary":
            heard = facts.heard.get(span["instance_id"], NEVER)
            until = min(until, max(heard, span["started_at"]) + HOUR)
        at, until = _whole(max(span["started_at"], start)), _whole(until)
        while at < until:
            cell = bucket(at)
            piece = min(until, cell + BUCKET)
            hours = Fraction((piece - at) // MS, 3_600_000)
            amounts = sums.setdefault((agent_id, span["instance_id"], cell), [Fraction()] * 4)
            on_demand, own = _prices(facts, span, cell)
            amounts[_PARTS[span["status"]]] += own * hours
            if span["status"] == "running_primary":
                amounts[0] += on_demand * hours
            at = piece
    return {key: _rounded(amounts) for key, amounts in sums.items()}


def sums(rows: Rows, unit: str) -> Rows:
    """Sums of buckets by day or month."""
    found: dict[tuple[UUID, str, datetime], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for (agent_id, instance_id, at), amounts in rows.items():
        start = at.replace(hour=0, minute=0)
        start = start.replace(day=1) if unit == "month" else start
        total = found[agent_id, instance_id, start]
        for part, amount in enumerate(amounts):
            total[part] += amount
    return {key: (a, b, c, d) for key, (a, b, c, d) in found.items()}


def _prices(facts: Facts, span: Any, cell: datetime) -> tuple[int, int]:
    told = facts.on_demand.get((span["region"], span["instance_type"]), [])
    at = bisect_right(told, cell + BUCKET - timedelta(microseconds=1), key=lambda price: price[0])
    baseline = facts.baselines[span["instance_id"]]
    on_demand = told[at - 1][1] if at else baseline or DEFAULT_PRICE
    if span["mode"] != "spot":
        return on_demand, on_demand
    series = facts.spot.get(span["pool_id"], [])
    at = bisect_right(series, cell, key=lambda price: price[0])
    return on_demand, series[at - 1][1] if at else on_demand * 3 // 10


def _whole(at: datetime) -> datetime:
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def _rounded(amounts: list[Fraction]) -> Amounts:
    a, b, c, d = (int(amount + Fraction(1, 2)) for amount in amounts)
    return a, b, c, d
