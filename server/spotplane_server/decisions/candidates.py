"""Places that an engine may choose from, and the decisions that name one."""

from __future__ import annotations

from collections.abc import Sequence

from spotplane_server.decisions.engine import Decision, PoolView, ReasonClass, Snapshot

ON_DEMAND = "ondemand"


def current_pool(snapshot: Snapshot) -> PoolView | None:
    """Pool of the serving instance; None on demand, and for a pool that is not known."""
    if snapshot.mode != "spot":
        return None
    return next((pool for pool in snapshot.pools if pool.id == snapshot.pool_id), None)


def current_price(snapshot: Snapshot) -> float | None:
    """What the serving instance costs; None on spot without a fresh price."""
    if snapshot.mode != "spot":
        return snapshot.on_demand_price
    pool = current_pool(snapshot)
    return pool.price if pool else None


def current_risk(snapshot: Snapshot) -> float:
    """Risk of the current place; 0 on demand."""
    pool = current_pool(snapshot)
    return pool.risk if pool else 0.0


def targets(snapshot: Snapshot) -> list[PoolView]:
    """Other pools that may be switched to: priced, to be had, and within the risk threshold."""
    here = snapshot.pool_id if snapshot.mode == "spot" else None
    return [
        pool
        for pool in snapshot.pools
        if pool.id != here
        and pool.price is not None
        and pool.available
        and pool.risk <= snapshot.limits.risk_threshold
    ]


def price(pool: PoolView) -> float:
    """Price of a pool that has one."""
    if pool.price is None:
        raise ValueError(f"{pool.id} has no price")
    return pool.price


def cheapest(pools: Sequence[PoolView]) -> PoolView | None:
    """The cheapest of priced pools, the safer of equals; None of none."""
    return min(pools, key=lambda pool: (price(pool), pool.risk, pool.id), default=None)


def safest(pools: Sequence[PoolView]) -> PoolView | None:
    """The one of least risk of priced pools, the cheaper of equals; None of none."""
    return min(pools, key=lambda pool: (pool.risk, price(pool), pool.id), default=None)


def stay(
    snapshot: Snapshot,
    confidence: float,
    reasoning: str,
    *,
    scores: dict[str, float] | None = None,
    memory: dict[str, float] | None = None,
) -> Decision:
    """Stay where the service is."""
    return Decision(
        action="stay",
        target_mode=snapshot.mode,
        target_pool_id=snapshot.pool_id if snapshot.mode == "spot" else None,
        confidence=confidence,
        risk_score=current_risk(snapshot),
        expected_savings=0.0,
        reasoning=reasoning,
        standby=snapshot.standby_pool_id,
        scores=prices(snapshot) if scores is None else scores,
        memory=memory or {},
    )


def switch(
    snapshot: Snapshot,
    pool: PoolView | None,
    confidence: float,
    reasoning: str,
    reason_class: ReasonClass | None,
    *,
    scores: dict[str, float] | None = None,
    memory: dict[str, float] | None = None,
) -> Decision:
    """Go to a pool, or on demand; staying when that is where the service is."""
    if pool is None and snapshot.mode != "spot":
        return stay(snapshot, confidence, reasoning, scores=scores, memory=memory)
    here = current_price(snapshot)
    there = snapshot.on_demand_price if pool is None else price(pool)
    return Decision(
        action="switch",
        target_mode="spot" if pool else "ondemand",
        target_pool_id=pool.id if pool else None,
        confidence=confidence,
        risk_score=current_risk(snapshot),
        expected_savings=0.0 if here is None else here - there,
        reasoning=reasoning,
        reason_class=reason_class,
        standby=snapshot.standby_pool_id,
        scores=prices(snapshot) if scores is None else scores,
        memory=memory or {},
    )


def prices(snapshot: Snapshot) -> dict[str, float]:
    """What each place costs, by pool id and ``ondemand``."""
    known = {pool.id: pool.price for pool in snapshot.pools if pool.price is not None}
    return {**known, ON_DEMAND: snapshot.on_demand_price}
