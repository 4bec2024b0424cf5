"""Choosing where a replica is launched."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from spotplane_server.instances.store import Instance
from spotplane_server.kernel.db import Conn
from spotplane_server.market import store as market
from spotplane_server.market.store import Pool
from spotplane_server.replicas import errors, rules, store
from spotplane_server.replicas.store import Placement


async def for_manual(
    conn: Conn,
    primary: Instance,
    *,
    created_by: str,
    now: datetime,
    pool_id: str | None = None,
    exclude_zones: Sequence[str] = (),
    max_nanousd: int | None = None,
) -> Placement:
    """The named pool, or the cheapest other one of the primary's type and region.

    Raises:
        UnknownPool: The named one is not of the primary's type and region. NoPoolAvailable.
    """
    pools = await market.list_pools(conn, primary.region, primary.instance_type, now=now)
    failed = await store.list_failed_pools(
        conn,
        primary.tenant_id,
        primary.agent_id,
        since=now - rules.EXCLUDED_FOR,
        at_least=rules.EXCLUDED_AFTER,
    )
    if pool_id is not None:
        chosen = next((pool for pool in pools if pool.id == pool_id), None)
        if chosen is None:
            raise errors.UnknownPool(
                "pool_id is no known pool of the agent's type and region", field="pool_id"
            )
    else:
        chosen = rules.cheapest(
            [pool for pool in pools if pool.id not in failed],
            current=primary.pool_id,
            now=now,
            exclude_zones=exclude_zones,
            max_nanousd=max_nanousd,
        )
    if chosen is None:
        raise errors.NoPoolAvailable("no other pool of the agent's type and region fits")
    return _placement(chosen, "manual", created_by)


async def for_emergency(
    conn: Conn, primary: Instance, *, kind: str, since: datetime, now: datetime
) -> Placement | None:
    """The safest other pool in which no launch has failed since the emergency began; or None."""
    pools = await market.list_pools(conn, primary.region, primary.instance_type, now=now)
    failed = await store.list_failed_pools(
        conn, primary.tenant_id, primary.agent_id, since=since, at_least=1
    )
    left = [pool for pool in pools if pool.id not in failed]
    chosen = rules.safest(left, current=primary.pool_id, now=now)
    return None if chosen is None else _placement(chosen, kind, "emergency")


def _placement(pool: Pool, kind: str, created_by: str) -> Placement:
    return Placement(
        kind,
        pool.id,
        pool.instance_type,
        pool.region,
        pool.az,
        created_by,
        pool.price_nanousd,
    )
