"""The built-in rules: always loaded, and what stands in for any other engine that fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from spotplane_server.decisions import candidates
from spotplane_server.decisions.engine import Decision, PoolView, ReasonClass, Snapshot

# A spot price beyond this part of on-demand is no advantage worth an interruption.
LOW_ADVANTAGE: Final = 0.80
# What leaving on-demand must save at least, a part of it.
WORTH_LEAVING: Final = 0.30
# Prices are decimals, and their floats miss a limit by as much.
EXACT: Final = 1e-9


class BuiltInRules:
    """Six rules, of which the first that applies decides.

    A target is always a pool with a fresh price whose risk the agent's threshold allows.
    """

    name = "rules"
    version = "1"
    hedges = False

    def decide(self, snapshot: Snapshot) -> Decision:
        """Answer for a snapshot; it never raises."""
        targets = candidates.targets(snapshot)
        if snapshot.moving_to is not None:
            return candidates.stay(snapshot, 0.6, "a switch is under way")
        if snapshot.mode == "spot":
            return _on_spot(snapshot, targets)
        return _on_demand(snapshot, targets)


def _on_spot(snapshot: Snapshot, targets: Sequence[PoolView]) -> Decision:
    current = candidates.current_pool(snapshot)
    if current is None or current.price is None:
        return candidates.stay(snapshot, 0.5, "the current pool has no fresh price")
    limit = snapshot.limits.risk_threshold
    if current.price > LOW_ADVANTAGE * snapshot.on_demand_price + EXACT:
        cheap = [
            pool
            for pool in targets
            if candidates.price(pool) <= LOW_ADVANTAGE * snapshot.on_demand_price + EXACT
        ]
        return _leave(
            snapshot,
            candidates.cheapest(cheap),
            f"spot costs {current.price / snapshot.on_demand_price:.0%} of on-demand",
            "low_advantage",
        )
    if current.risk > limit:
        return _leave(
            snapshot,
            candidates.safest(targets),
            f"the pool's risk {current.risk:.2f} is above {limit:.2f}",
            "risk",
        )
    best = candidates.cheapest(targets)
    if best is not None:
        saved = (current.price - candidates.price(best)) / current.price * 100
        if saved > 0 and saved >= snapshot.limits.min_savings_percent - EXACT:
            return candidates.switch(
                snapshot, best, 0.7, f"{best.id} is cheaper by {saved:.1f} %", "savings"
            )
    return candidates.stay(snapshot, 0.6, "no better place")


def _on_demand(snapshot: Snapshot, targets: Sequence[PoolView]) -> Decision:
    if all(pool.price is None for pool in snapshot.pools):
        return candidates.stay(snapshot, 0.5, "no pool has a fresh price")
    best = candidates.cheapest(targets)
    if best is not None:
        saved = 1 - candidates.price(best) / snapshot.on_demand_price
        if saved > WORTH_LEAVING + EXACT:
            return candidates.switch(
                snapshot, best, 0.8, f"{best.id} saves {saved:.0%} of on-demand", "savings"
            )
    return candidates.stay(snapshot, 0.6, "no pool saves enough")


def _leave(
    snapshot: Snapshot, pool: PoolView | None, why: str, reason_class: ReasonClass
) -> Decision:
    if pool is None:
        return candidates.switch(snapshot, None, 0.7, f"{why}; no pool is better", reason_class)
    return candidates.switch(snapshot, pool, 0.7, f"{why}; {pool.id} is better", reason_class)
