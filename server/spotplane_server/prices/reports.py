"""Taking price reports: what is believable goes into the market's history, the rest is counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from spotplane_server.kernel.db.database import Conn, Database
from spotplane_server.kernel.jobs.notify import Notifier
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.prices import instance_prices, raw_store, rules, store
from spotplane_server.prices.instance_prices import OwnPrices
from spotplane_server.prices.raw_store import OnDemand, Raw
from spotplane_server.prices.rules import Source

# Hints that raw prices wait for the pipeline.
TOPIC: Final = "raw_prices"
MAX_NAME: Final = 64


@dataclass(frozen=True, slots=True)
class Told:
    """A price as an agent told it: of a pool, or on demand when ``az`` is None.

    Attributes:
        observed_at: When it was seen, by the agent's clock; None when it did not say.
    """

    instance_type: str
    az: str | None
    price_nanousd: int
    observed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who told.

    Attributes:
        instance_id: The instance that told; None when none is known by that name.
        pool_id: The pool it runs in; None on demand.
        source: Its part in the fleet.
    """

    tenant_id: TenantId
    agent_id: UUID
    instance_id: str | None
    instance_type: str | None
    pool_id: str | None
    source: Source


@dataclass(frozen=True, slots=True)
class Report:
    """A report.

    Attributes:
        region: Of all its prices.
        spot: Prices of pools.
        on_demand: On-demand prices.
        submission_id: What the agent calls it; None to go by its content.
        dropped: Prices in it that could not even be read.
    """

    region: str
    spot: Sequence[Told]
    on_demand: Sequence[Told]
    submission_id: str | None = None
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """How many prices of a report were accepted, and how many dropped."""

    accepted: int
    dropped: int


class PriceReports:
    """Takes reports into the market's history and wakes the pipeline."""

    def __init__(self, db: Database, wakeups: Notifier) -> None:
        self._db = db
        self._wakeups = wakeups

    async def take(self, reporter: Reporter, report: Report, now: datetime) -> Taken:
        """Remember what is believable; a bad price is dropped and does not fail the report.

        Pools are made at first sight. The raw prices are as lasting as the report when this
        returns; the pipeline makes them clean within moments.
        """
        spot = [told for told in report.spot if _acceptable(told) and told.az and _name(told.az)]
        on_demand = [told for told in report.on_demand if _acceptable(told)]
        accepted = len(spot) + len(on_demand)
        told = len(report.spot) + len(report.on_demand) + report.dropped
        rows = _raw(reporter, report, spot, now)
        prices = [OnDemand(t.instance_type, _seen(t, now), t.price_nanousd) for t in on_demand]
        taken = Taken(accepted, told - accepted)
        async with self._db.transaction(reporter.tenant_id) as conn:
            await store.put_spot_prices(conn, report.region, rows, now=now)
            await raw_store.append(conn, rows, agent_id=reporter.agent_id, now=now)
            await raw_store.append_on_demand(conn, report.region, prices)
            await _note(conn, reporter, _own(reporter, rows, prices, now), taken, now)
        if rows:
            self._wakeups.signal(TOPIC, "")
        return taken


async def _note(
    conn: Conn, reporter: Reporter, own: OwnPrices, taken: Taken, now: datetime
) -> None:
    """Remember that an agent reported, and what its instance costs."""
    if reporter.instance_id is not None:
        await instance_prices.put(conn, reporter.tenant_id, reporter.instance_id, own)
    await instance_prices.record_report(
        conn,
        reporter.tenant_id,
        reporter.agent_id,
        reporter.instance_id,
        own,
        accepted=taken.accepted,
        dropped=taken.dropped,
        now=now,
    )


def _raw(reporter: Reporter, report: Report, spot: Sequence[Told], now: datetime) -> list[Raw]:
    """Rows with a submission id each: a pool's second price in a report is another submission."""
    base = report.submission_id or _content_id(reporter, report)
    seen: Counter[str] = Counter()
    rows = []
    for told in spot:
        pool_id = f"{told.instance_type}.{told.az}"
        number = seen[pool_id]
        seen[pool_id] += 1
        rows.append(
            Raw(
                pool_id=pool_id,
                instance_type=told.instance_type,
                az=told.az or "",
                price_nanousd=told.price_nanousd,
                observed_at=_seen(told, now),
                source=reporter.source,
                submission_id=f"{base}#{number}" if number else base,
            )
        )
    return rows


def _content_id(reporter: Reporter, report: Report) -> str:
    """The same for the same prices of the same instants; without instants every report is new."""
    told = [*report.spot, *report.on_demand]
    if any(one.observed_at is None for one in told):
        return str(uuid4())
    content = repr(
        (
            reporter.tenant_id,
            str(reporter.agent_id),
            reporter.instance_id,
            report.region,
            [(t.instance_type, t.az, t.price_nanousd, str(t.observed_at)) for t in told],
        )
    )
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _own(
    reporter: Reporter, rows: Sequence[Raw], on_demand: Sequence[OnDemand], now: datetime
) -> OwnPrices:
    """What the report says of the reporter's own pool and type, the newest of each."""
    spot = max(
        (row for row in rows if row.pool_id == reporter.pool_id),
        key=lambda row: row.observed_at,
        default=None,
    )
    base = max(
        (price for price in on_demand if price.instance_type == reporter.instance_type),
        key=lambda price: price.observed_at,
        default=None,
    )
    seen = [found.observed_at for found in (spot, base) if found is not None]
    return OwnPrices(
        spot_nanousd=spot.price_nanousd if spot else None,
        on_demand_nanousd=base.price_nanousd if base else None,
        observed_at=max(seen, default=now),
    )


def _acceptable(told: Told) -> bool:
    return _name(told.instance_type) and rules.acceptable(told.price_nanousd)


def _seen(told: Told, now: datetime) -> datetime:
    return now if told.observed_at is None else rules.believed(told.observed_at, now)


def _name(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME and text.isprintable()
