"""Reading clean prices: the newest, at an instant, over time, and what is new.

Prices are nano-USD an hour. Every function takes many pools at once, works by index, and needs no
tenant: prices belong to none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from spotplane_server.kernel.db.database import Conn
from spotplane_server.prices.rules import BUCKET, FALLBACK_ON_DEMAND_NANOUSD, CleanSource, bucket

# How long a price stands in for missing ones after it.
CARRIED: Final = timedelta(hours=24)

_NEVER: Final = datetime.min.replace(tzinfo=UTC)

# `(region, instance_type)`: what an on-demand price belongs to.
Kind: TypeAlias = tuple[str, str]

LIST_NEWEST: Final = """
    SELECT c.pool_id, c.bucket_at, c.price_nanousd, c.source, c.confidence, c.observed_at
      FROM unnest($1::text[]) AS p (pool_id)
     CROSS JOIN LATERAL
           (SELECT pool_id, bucket_at, price_nanousd, source, confidence, observed_at
              FROM clean_prices
             WHERE pool_id = p.pool_id
               AND bucket_at BETWEEN $2 AND $3
               AND ($4 OR source <> 'interpolated')
             ORDER BY bucket_at DESC
             LIMIT 1) AS c
"""

LIST_SERIES: Final = """
    SELECT pool_id, bucket_at, price_nanousd
      FROM clean_prices
     WHERE pool_id = ANY($1)
       AND bucket_at >= $2
       AND bucket_at < $3
     ORDER BY pool_id, bucket_at
"""

LIST_ON_DEMAND: Final = """
    SELECT k.region, k.instance_type, p.price_nanousd, p.observed_at
      FROM unnest($1::text[], $2::text[]) AS k (region, instance_type)
      JOIN on_demand_prices p USING (region, instance_type)
"""

# What held when the window began, and every change within it.
LIST_ON_DEMAND_SERIES: Final = """
    SELECT h.region, h.instance_type, h.observed_at, h.price_nanousd
      FROM unnest($1::text[], $2::text[]) AS k (region, instance_type)
      JOIN on_demand_price_history h USING (region, instance_type)
     WHERE h.observed_at < $4
       AND h.observed_at >= coalesce(
               (SELECT max(b.observed_at)
                  FROM on_demand_price_history b
                 WHERE b.region = k.region
                   AND b.instance_type = k.instance_type
                   AND b.observed_at <= $3), '-infinity')
     ORDER BY h.region, h.instance_type, h.observed_at
"""

RANK_PRICES: Final = """
    SELECT id, rank() OVER (PARTITION BY region, instance_type ORDER BY c.price_nanousd) AS place
      FROM pools p
     CROSS JOIN LATERAL
           (SELECT price_nanousd
              FROM clean_prices
             WHERE pool_id = p.id
               AND bucket_at BETWEEN $3 AND $4
             ORDER BY bucket_at DESC
             LIMIT 1) AS c
     WHERE p.region = $1
       AND p.instance_type = $2
"""

LIST_CLEAN_SINCE: Final = """
    SELECT revision, pool_id, bucket_at, price_nanousd, source
      FROM clean_prices
     WHERE (revision, pool_id, bucket_at) > ($1, $2, $3)
       AND source <> 'interpolated'
     ORDER BY revision, pool_id, bucket_at
     LIMIT $4
"""

READ_REVISION: Final = "SELECT revision FROM clean_revision"


@dataclass(frozen=True, slots=True)
class Price:
    """A clean price.

    Attributes:
        bucket_at: Start of its five minutes.
        confidence: 0 to 1.
        observed_at: When it was seen; measure its age from here.
    """

    pool_id: str
    bucket_at: datetime
    price_nanousd: int
    source: CleanSource
    confidence: float
    observed_at: datetime


@dataclass(frozen=True, slots=True)
class OnDemand:
    """The newest on-demand price of a type in a region, and when it was seen; None for never."""

    price_nanousd: int = FALLBACK_ON_DEMAND_NANOUSD
    observed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Prices over time, oldest first; ``times`` and ``prices`` are of equal length."""

    times: list[datetime] = field(default_factory=list)
    prices: list[int] = field(default_factory=list)

    def at(self, when: datetime, within: timedelta | None = CARRIED) -> int | None:
        """The newest price at or before ``when``, not older than ``within``; None without one."""
        place = bisect_right(self.times, when) - 1
        if place < 0 or (within is not None and self.times[place] < when - within):
            return None
        return self.prices[place]


@dataclass(frozen=True, slots=True)
class Book:
    """Every price that a window needs, with what held before it began.

    A missing bucket has the newest earlier price of at most 24 hours; an on-demand price holds
    until the next one is seen.
    """

    pools: Mapping[str, Series]
    types: Mapping[Kind, Series]

    def spot(self, pool_id: str, when: datetime) -> int | None:
        """Clean price of the pool in the bucket of ``when``; None when none holds."""
        series = self.pools.get(pool_id)
        return None if series is None else series.at(bucket(when))

    def on_demand(self, region: str, instance_type: str, when: datetime) -> int | None:
        """On-demand price at ``when``; None before the first one seen."""
        series = self.types.get((region, instance_type))
        return None if series is None else series.at(when, within=None)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """How far a reader of what is new has come; the default is the beginning."""

    revision: int = 0
    pool_id: str = ""
    bucket_at: datetime = _NEVER


@dataclass(frozen=True, slots=True)
class Fresh:
    """A price that became clean, in the order of ``list_clean_since``."""

    revision: int
    pool_id: str
    bucket_at: datetime
    price_nanousd: int
    source: CleanSource

    @property
    def place(self) -> Place:
        """Where to go on after this one."""
        return Place(self.revision, self.pool_id, self.bucket_at)


async def list_newest(
    conn: Conn,
    pool_ids: Iterable[str],
    *,
    now: datetime,
    within: timedelta,
    interpolated: bool = True,
) -> dict[str, Price]:
    """The newest clean price by pool, of buckets at most ``within`` old; others are absent.

    Args:
        conn: Any scope; prices are everybody's.
        pool_ids: Which pools.
        now: When.
        within: How old the start of the price's bucket may be.
        interpolated: Whether prices count that fill a gap.
    """
    ids = sorted(set(pool_ids))
    rows = await conn.fetch(LIST_NEWEST, ids, bucket(now - within), now + BUCKET, interpolated)
    return {row["pool_id"]: Price(**row) for row in rows}


async def list_at(
    conn: Conn, pool_ids: Iterable[str], *, at: datetime, within: timedelta = CARRIED
) -> dict[str, Price]:
    """The clean price by pool in the bucket of ``at``, or else the newest one before it."""
    ids = sorted(set(pool_ids))
    rows = await conn.fetch(LIST_NEWEST, ids, bucket(at - within), bucket(at), True)
    return {row["pool_id"]: Price(**row) for row in rows}


async def list_series(
    conn: Conn, pool_ids: Iterable[str], frm: datetime, to: datetime
) -> dict[str, Series]:
    """Clean prices of the buckets in [frm, to) by pool, oldest first; empty for those without."""
    ids = sorted(set(pool_ids))
    found = {pool_id: Series() for pool_id in ids}
    for row in await conn.fetch(LIST_SERIES, ids, frm, to):
        series = found[row["pool_id"]]
        series.times.append(row["bucket_at"])
        series.prices.append(row["price_nanousd"])
    return found


async def list_on_demand(conn: Conn, kinds: Iterable[Kind]) -> dict[Kind, int]:
    """The newest on-demand price of every (region, type); 0.0416 dollars where none was told."""
    told = await list_newest_on_demand(conn, kinds)
    return {kind: price.price_nanousd for kind, price in told.items()}


async def list_newest_on_demand(conn: Conn, kinds: Iterable[Kind]) -> dict[Kind, OnDemand]:
    """The newest on-demand price of every (region, type), with its age."""
    wanted = sorted(set(kinds))
    found = dict.fromkeys(wanted, OnDemand())
    for row in await conn.fetch(LIST_ON_DEMAND, *_columns(wanted)):
        told = OnDemand(row["price_nanousd"], row["observed_at"])
        found[row["region"], row["instance_type"]] = told
    return found


async def list_on_demand_series(
    conn: Conn, kinds: Iterable[Kind], frm: datetime, to: datetime
) -> dict[Kind, Series]:
    """On-demand prices by (region, type): the one in force at ``frm`` and later ones."""
    wanted = sorted(set(kinds))
    found: dict[Kind, Series] = defaultdict(Series)
    for row in await conn.fetch(LIST_ON_DEMAND_SERIES, *_columns(wanted), frm, to):
        series = found[row["region"], row["instance_type"]]
        series.times.append(row["observed_at"])
        series.prices.append(row["price_nanousd"])
    return dict(found)


async def book(
    conn: Conn, pool_ids: Iterable[str], kinds: Iterable[Kind], frm: datetime, to: datetime
) -> Book:
    """Prices of pools and of (region, type) for every instant of [frm, to), in two queries."""
    return Book(
        await list_series(conn, pool_ids, bucket(frm - CARRIED), to),
        await list_on_demand_series(conn, kinds, frm, to),
    )


async def list_ranks(
    conn: Conn, region: str, instance_type: str, *, now: datetime, within: timedelta = CARRIED
) -> dict[str, int]:
    """Place by newest clean price among the pools of one type and region, 1 the cheapest."""
    rows = await conn.fetch(RANK_PRICES, region, instance_type, bucket(now - within), now + BUCKET)
    return {row["id"]: row["place"] for row in rows}


async def list_clean_since(conn: Conn, after: Place, limit: int) -> list[Fresh]:
    """Prices that became clean after a place, interpolated ones left out.

    The order is that of commits, so no row is ever skipped. A price that is replaced before it is
    read is seen once, as what it became.
    """
    rows = await conn.fetch(LIST_CLEAN_SINCE, after.revision, after.pool_id, after.bucket_at, limit)
    return [Fresh(**row) for row in rows]


async def read_head(conn: Conn) -> Place:
    """The place behind all that is clean now, for a reader that wants news only."""
    revision: int = await conn.fetchval(READ_REVISION)
    # No pool has an empty id, so that all of the next revision comes after.
    return Place(revision + 1)


def _columns(kinds: Sequence[Kind]) -> tuple[list[str], list[str]]:
    return [region for region, _ in kinds], [instance_type for _, instance_type in kinds]
