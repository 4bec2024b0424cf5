"""Snapshots of many agents and their markets, read in a number of queries that does not grow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, cast

from spotplane_server.decisions import candidates, market_queries
from spotplane_server.decisions.agent_queries import Subject
from spotplane_server.decisions.engine import Limits, Mode, PoolView, Snapshot
from spotplane_server.kernel.db.database import Conn
from spotplane_server.prices import queries, risk
from spotplane_server.prices.pool_selection import FRESH
from spotplane_server.prices.queries import Kind, OnDemand, Price

HISTORY: Final = timedelta(days=7)
NANO: Final = 1_000_000_000
# Ages are shown in gates up to this; an older price is as good as none.
KNOWN: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Market:
    """Prices and pools of every (region, type) that was asked for.

    Attributes:
        observed: When each pool's newest price was seen.
    """

    pools: Mapping[Kind, Sequence[PoolView]]
    on_demand: Mapping[Kind, OnDemand]
    observed: Mapping[str, datetime]


@dataclass(frozen=True, slots=True)
class View:
    """One agent's snapshot, and what gates need besides.

    Attributes:
        observed: When each place's price was seen, by pool id and ``ondemand``; a place without a
            price is absent.
    """

    subject: Subject
    snapshot: Snapshot
    observed: Mapping[str, datetime] = field(default_factory=dict)


async def read_market(
    conn: Conn, kinds: Sequence[Kind], *, now: datetime, history: timedelta
) -> Market:
    """Read pools with prices, risk and interruptions of each (region, type), and its prices.

    Args:
        conn: In any scope: prices belong to no tenant.
        kinds: (region, type).
        now: The instant.
        history: How much of the past engines ask for; zero reads none.
    """
    sites = await market_queries.list_sites(conn, kinds)
    ids = [site.id for site in sites]
    newest = await queries.list_newest(conn, ids, now=now, within=KNOWN)
    risks = await risk.assess(conn, ids, now=now)
    refusing = await market_queries.list_refusing(conn, now)
    since = now - market_queries.INTERRUPTIONS
    interruptions = await market_queries.list_interruptions(conn, ids, since, now)
    past = await queries.list_series(conn, ids, now - history, now) if history else {}
    pools: dict[Kind, list[PoolView]] = defaultdict(list)
    for site in sites:
        series = past.get(site.id, queries.Series())
        view = PoolView(
            id=site.id,
            az=site.az,
            price=_fresh(newest.get(site.id), now),
            risk=risks[site.id].value,
            available=site.id not in refusing,
            interruptions=interruptions.get(site.id, ()),
            history=[(at, p / NANO) for at, p in zip(series.times, series.prices, strict=True)],
        )
        pools[site.region, site.instance_type].append(view)
    on_demand = await queries.list_newest_on_demand(conn, kinds)
    return Market(
        pools,
        on_demand,
        {pool_id: price.observed_at for pool_id, price in newest.items()},
    )


async def read(
    conn: Conn, subjects: Sequence[Subject], *, now: datetime, history: timedelta
) -> list[View]:
    """Views of the agents that an instance serves, in the same order; the others are left out."""
    served = [subject for subject in subjects if subject.instance_id is not None]
    kinds = sorted({kind_of(subject) for subject in served})
    if not kinds:
        return []
    market = await read_market(conn, kinds, now=now, history=history)
    return [view_of(subject, market, now) for subject in served]


def kind_of(subject: Subject) -> Kind:
    """Region and type of the serving instance."""
    return subject.region or "", subject.instance_type or ""


def view_of(subject: Subject, market: Market, now: datetime) -> View:
    """One agent's view of a market that has been read."""
    kind = kind_of(subject)
    pools, on_demand = market.pools.get(kind, ()), market.on_demand[kind]
    snapshot = Snapshot(
        agent_id=subject.agent_id,
        instance_type=kind[1],
        region=kind[0],
        mode=cast(Mode, subject.mode or "unknown"),
        pool_id=subject.pool_id if subject.mode == "spot" else None,
        serving_since=subject.serving_since or now,
        standby_pool_id=subject.standby_pool_id,
        on_demand_price=on_demand.price_nanousd / NANO,
        pools=pools,
        limits=limits_of(subject),
        now=now,
        standby_ready=subject.standby_ready,
    )
    observed = {p.id: market.observed[p.id] for p in pools if p.id in market.observed}
    if on_demand.observed_at is not None:
        observed[candidates.ON_DEMAND] = on_demand.observed_at
    return View(subject, snapshot, observed)


def remembering(view: View, engine: str) -> Snapshot:
    """The snapshot with the memory of an engine; another engine's memory is none of its own."""
    memory = view.subject.memory if view.subject.memory_of == engine else None
    return replace(view.snapshot, memory=memory) if memory else view.snapshot


def limits_of(subject: Subject) -> Limits:
    """What the agent's configuration asks of decisions."""
    return Limits(
        float(subject.min_savings_percent),
        float(subject.risk_threshold),
        subject.max_switches_per_day,
        subject.max_switches_per_week,
        subject.min_pool_duration_hours,
    )


def _fresh(price: Price | None, now: datetime) -> float | None:
    if price is None or price.observed_at < now - FRESH:
        return None
    return price.price_nanousd / NANO
