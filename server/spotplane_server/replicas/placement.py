"""Where a replica is launched: the market's choice among the pools that it may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from spotplane_server.instances.rules import pool_id as pool_of
from spotplane_server.instances.store import Instance
from spotplane_server.kernel.db.database import Conn
from spotplane_server.prices import pool_selection
from spotplane_server.prices import store as market
from spotplane_server.prices.store import Pool
from spotplane_server.replicas import errors, rules, store
from spotplane_server.replicas.store import Placement


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a place, and by whom.

    Attributes:
        created_by: Who asks.
        pool_id: The pool to use; None for the market's choice.
        preferred_zones: Zones to use if possible.
        exclude_zones: Zones not to use.
        max_nanousd: Most it may cost an hour; None for any price.
        for_manual_mode: Whether it is wanted only while the agent is in manual mode.
        tags: Kept with the replica.
    """

    created_by: str
    pool_id: str | None = None
    preferred_zones: Sequence[str] = ()
    exclude_zones: Sequence[str] = ()
    max_nanousd: int | None = None
    for_manual_mode: bool = False
    tags: Mapping[str, Any] = field(default_factory=dict)


async def for_manual(conn: Conn, primary: Instance, wish: Wish, now: datetime) -> Placement:
    """The named pool, or the cheapest other one of the primary's type and region.

    Raises:
        UnknownPool: There is no such pool. TypeMismatch: It is of another type or region.
        NoPoolAvailable: None fits.
    """
    pools = await market.list_pools(conn, primary.region, primary.instance_type, now=now)
    if wish.pool_id is not None:
        named = await _named(conn, pools, wish.pool_id)
        # Whoever names a pool needs no fresh price to choose by.
        chosen = pool_selection.safest(
            [named],
            current=None,
            exclude_zones=wish.exclude_zones,
            max_nanousd=wish.max_nanousd,
            now=now,
        )
    else:
        failed = await store.list_failed_pools(
            conn,
            primary.tenant_id,
            primary.agent_id,
            since=now - rules.EXCLUDED_FOR,
            at_least=rules.EXCLUDED_AFTER,
        )
        chosen = pool_selection.manual_replica(
            [pool for pool in pools if pool.id not in failed],
            current=primary.pool_id,
            now=now,
            exclude_zones=wish.exclude_zones,
            max_nanousd=wish.max_nanousd,
        )
    if chosen is None:
        raise errors.NoPoolAvailable("no other pool of the agent's type and region fits")
    return _placement(chosen, "manual", wish)


async def for_emergency(
    conn: Conn, primary: Instance, wish: Wish, *, kind: str, since: datetime, now: datetime
) -> Placement | None:
    """The safest other pool in which no launch has failed since the emergency began; or None.

    A wished pool is used if it is one of those; a wish never stops a rescue.
    """
    pools = await market.list_pools(conn, primary.region, primary.instance_type, now=now)
    failed = await store.list_failed_pools(
        conn, primary.tenant_id, primary.agent_id, since=since, at_least=1
    )
    left = [pool for pool in pools if pool.id not in failed and pool.id != primary.pool_id]
    chosen = next(
        (pool for pool in left if pool.id == wish.pool_id), None
    ) or pool_selection.safest(
        left,
        current=primary.pool_id,
        now=now,
        preferred_zones=wish.preferred_zones,
        exclude_zones=wish.exclude_zones,
    )
    return None if chosen is None else _placement(chosen, kind, wish)


async def list_preferred(conn: Conn, primary: Instance, now: datetime) -> list[str]:
    """Pools that a manual replica would be placed in, best first."""
    pools = await market.list_pools(conn, primary.region, primary.instance_type, now=now)
    best: list[str] = []
    while pools:
        chosen = pool_selection.manual_replica(pools, current=primary.pool_id, now=now)
        if chosen is None:
            break
        best.append(chosen.id)
        pools = [pool for pool in pools if pool.id != chosen.id]
    return best


def of_instance(instance: Instance, kind: str, wish: Wish) -> Placement:
    """The place of an instance that runs already, in the wished pool or where it is."""
    pool = wish.pool_id or instance.pool_id or pool_of(instance.instance_type, instance.az)
    return Placement(
        kind,
        pool,
        instance.instance_type,
        instance.region,
        pool.rpartition(".")[2],
        wish.created_by,
        None,
        wish.for_manual_mode,
        wish.tags,
    )


async def _named(conn: Conn, pools: Sequence[Pool], pool_id: str) -> Pool:
    for pool in pools:
        if pool.id == pool_id:
            return pool
    if await store.pool_exists(conn, pool_id):
        raise errors.TypeMismatch(
            "pool_id is a pool of another type or region than the agent's", field="pool_id"
        )
    raise errors.UnknownPool(
        "pool_id is no known pool of the agent's type and region", field="pool_id"
    )


def _placement(pool: Pool, kind: str, wish: Wish) -> Placement:
    return Placement(
        kind,
        pool.id,
        pool.instance_type,
        pool.region,
        pool.az,
        wish.created_by,
        pool_selection.planned_nanousd(pool),
        wish.for_manual_mode,
        wish.tags,
    )
