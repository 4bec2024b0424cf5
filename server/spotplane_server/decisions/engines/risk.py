"""Price and risk weighed together, with hysteresis and dwell against chasing noise."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from spotplane_server.decisions import candidates
from spotplane_server.decisions.candidates import ON_DEMAND
from spotplane_server.decisions.engine import Decision, PoolView, ReasonClass, Snapshot

# What certain interruption is taken to cost an hour, as a part of on-demand: work that is done
# twice, and a start beside the old instance.
RISK_COST: Final = 0.5
# A pool is entered below this part of the threshold and left above all of it, so that one whose
# risk moves around the threshold is not entered and left in turn.
ENTER: Final = 0.8
# Another place must have been the best for so long before it is worth a move.
DWELL: Final = timedelta(minutes=10)
# Against so small a gain nothing is moved, whatever the configuration says.
LEAST_GAIN_PERCENT: Final = 5.0


class PriceAndRisk:
    """Serves where price plus the price of risk is least, and moves only for a lasting gain."""

    name = "risk"
    version = "1"
    hedges = False

    def decide(self, snapshot: Snapshot) -> Decision:
        """Answer for a snapshot; it never raises."""
        scores = _scores(snapshot)
        here = scores.get(_here(snapshot))
        if here is None:
            return candidates.stay(
                snapshot, 0.5, "the current pool has no fresh price", scores=scores
            )
        if snapshot.moving_to is not None:
            return candidates.stay(snapshot, 0.6, "a switch is under way", scores=scores)
        best = _best(snapshot, scores)
        current = candidates.current_pool(snapshot)
        if current is not None and current.risk > snapshot.limits.risk_threshold:
            why = f"the pool's risk is {current.risk:.2f}"
            return candidates.switch(snapshot, best, 0.8, why, "risk", scores=scores)
        return _for_gain(snapshot, best, here, scores)


def _for_gain(
    snapshot: Snapshot, best: PoolView | None, here: float, scores: dict[str, float]
) -> Decision:
    there = best.id if best else ON_DEMAND
    gain = (here - scores[there]) / here * 100
    if gain < max(LEAST_GAIN_PERCENT, snapshot.limits.min_savings_percent):
        return candidates.stay(snapshot, 0.7, "no place is better by enough", scores=scores)
    key, now = f"since:{there}", snapshot.now.timestamp()
    since = snapshot.memory.get(key, now)
    lasting = {key: since}
    if now - since < DWELL.total_seconds():
        why = f"{there} is better by {gain:.1f} %, but not for long yet"
        return candidates.stay(snapshot, 0.6, why, scores=scores, memory=lasting)
    why = f"{there} has been better by {gain:.1f} % or more"
    kind: ReasonClass = "savings" if best else "low_advantage"
    return candidates.switch(snapshot, best, 0.75, why, kind, scores=scores, memory=lasting)


def _scores(snapshot: Snapshot) -> dict[str, float]:
    """Price plus the price of risk, by pool id and ``ondemand``."""
    weight = RISK_COST * snapshot.on_demand_price
    known = {
        pool.id: pool.price + weight * pool.risk
        for pool in snapshot.pools
        if pool.price is not None
    }
    return {**known, ON_DEMAND: snapshot.on_demand_price}


def _here(snapshot: Snapshot) -> str:
    return (snapshot.pool_id or "") if snapshot.mode == "spot" else ON_DEMAND


def _best(snapshot: Snapshot, scores: dict[str, float]) -> PoolView | None:
    """The other pool that scores best; None when on demand is not worse."""
    enter = ENTER * snapshot.limits.risk_threshold
    fit = [pool for pool in candidates.targets(snapshot) if pool.risk <= enter]
    best = min(fit, key=lambda pool: (scores[pool.id], pool.id), default=None)
    return best if best is not None and scores[best.id] < scores[ON_DEMAND] else None
