"""Plain policies to hold an engine against; each is an engine like any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from spotplane_server.decisions.engine import Decision, PoolView, Snapshot

VERSION: Final = "1"


class AlwaysOnDemand:
    """Never leaves on-demand."""

    name = "always-on-demand"
    version = VERSION
    hedges = False

    def decide(self, snapshot: Snapshot) -> Decision:
        """Stay, or come back."""
        if snapshot.mode == "ondemand":
            return _stay(snapshot)
        return _go(snapshot, None)


class Greedy:
    """Takes the cheapest spot pool whenever it needs one, and stays until that is taken."""

    name = "greedy"
    version = VERSION
    hedges = False

    def decide(self, snapshot: Snapshot) -> Decision:
        """Leave on-demand for the cheapest pool; leave a pool only when it is lost."""
        if not _needs_place(snapshot):
            return _stay(snapshot)
        return _go(snapshot, min(_free(snapshot), key=_by_price, default=None))


class OneZone:
    """Runs in one zone only, the cheapest at the beginning, and waits while it has no capacity."""

    name = "one-zone"
    version = VERSION
    hedges = False

    def decide(self, snapshot: Snapshot) -> Decision:
        """Choose once; come back whenever the zone has capacity again."""
        chosen = snapshot.memory.get("zone")
        if chosen is None:
            free = [
                (_by_price(pool), n)
                for n, pool in enumerate(snapshot.pools)
                if pool.available and pool.price is not None
            ]
            if not free:
                return _stay(snapshot)
            chosen = float(min(free)[1])
            return _go(snapshot, snapshot.pools[int(chosen)], {"zone": chosen})
        zone = snapshot.pools[int(chosen)]
        if snapshot.serving or snapshot.moving_to is not None or not zone.available:
            return _stay(snapshot)
        return _go(snapshot, zone, snapshot.memory)


class RoundRobin:
    """Gives every new instance to the next zone in the order of names that has capacity."""

    name = "round-robin"
    version = VERSION
    hedges = False

    def decide(self, snapshot: Snapshot) -> Decision:
        """Go on from the zone of the last spot instance."""
        if not _needs_place(snapshot):
            return _stay(snapshot)
        order = [pool.id for pool in snapshot.pools]
        last = int(snapshot.memory.get("last", -1))
        free = {pool.id: pool for pool in _free(snapshot)}
        for step in range(1, len(order) + 1):
            index = (last + step) % len(order)
            if order[index] in free:
                return _go(snapshot, free[order[index]], {"last": float(index)})
        return _go(snapshot, None, snapshot.memory)


def _needs_place(snapshot: Snapshot) -> bool:
    threatened = not snapshot.serving or snapshot.notice_time is not None
    if snapshot.moving_to is not None:
        return False
    return threatened or snapshot.mode == "ondemand"


def _free(snapshot: Snapshot) -> Sequence[PoolView]:
    return [
        pool
        for pool in snapshot.pools
        if pool.available
        and pool.price is not None
        and pool.id != snapshot.standby_pool_id
        and (pool.id != snapshot.pool_id or not snapshot.serving)
    ]


def _by_price(pool: PoolView) -> tuple[float, str]:
    return pool.price or 0.0, pool.id


def _stay(snapshot: Snapshot) -> Decision:
    return Decision("stay", snapshot.mode, snapshot.pool_id, 1, 0, 0, "", memory=snapshot.memory)


def _go(
    snapshot: Snapshot, pool: PoolView | None, memory: dict[str, float] | None = None
) -> Decision:
    memory = snapshot.memory if memory is None else memory
    if pool is None:
        if snapshot.mode == "ondemand" and snapshot.serving:
            return Decision("stay", "ondemand", None, 1, 0, 0, "", memory=memory)
        return Decision("switch", "ondemand", None, 1, 0, 0, "", memory=memory)
    return Decision("switch", "spot", pool.id, 1, 0, 0, "", memory=memory)
