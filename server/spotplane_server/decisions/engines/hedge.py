"""Spread and hedge: the cheapest safe pool, and a standby for as long as it is worth its price."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from spotplane_server.decisions import candidates
from spotplane_server.decisions.engine import Decision, ReasonClass, Snapshot
from spotplane_server.decisions.engines import hedge_risk
from spotplane_server.decisions.engines.hedge_risk import Market, Pool

# A change that saves nothing more than it costs is as likely wrong as right.
_LEAST_CONFIDENCE: Final = 0.6
_MOST_CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Settings:
    """What the policy trades; meant to be the same for every market.

    Attributes:
        downtime_hours: Hours of on-demand that a second of downtime is worth while the budget is
            neither overspent nor saved.
        budget: Share of time that may be without service.
        scale_seconds: Seconds over or under the budget that make downtime dearer or cheaper by e,
            at first.
        scale_share: Share of the budget so far that is added to that scale.
        least_pressure, most_pressure: Bounds of how much cheaper and dearer.
        horizon_hours: A change must earn what it costs within this time.
        keep_standby: A standby is given up only when its worth falls below this share of its price.
        least_gain: Share of what a place, or a standby, costs that another must save to be taken.
        hasty_gain: The same for a place that has not been served in for as long as the agent's
            configuration asks.
        stay_hours: How long a refuge is reckoned to be kept.
    """

    downtime_hours: float = 0.06
    budget: float = 0.0003
    scale_seconds: float = 90.0
    scale_share: float = 0.15
    least_pressure: float = 0.3
    most_pressure: float = 8.0
    horizon_hours: float = 2.0
    keep_standby: float = 0.7
    least_gain: float = 0.05
    hasty_gain: float = 0.25
    stay_hours: float = 0.5


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where to serve, and the standby; None is on demand, or no standby.

    Attributes:
        rate: What it costs, dollars an hour, downtime and changes included.
    """

    rate: float
    place: Pool | None
    standby: Pool | None


class HedgeEngine:
    """Weighs, for every place and every standby, its price against the downtime that it leaves.

    A pool's losses an hour are measured (``hedge_risk``). Each of them takes service away for what
    a boot takes longer than a notice; with a standby only if that is lost too. A second of
    downtime has a price, and the price follows the budget: what was overspent makes it dearer,
    what was saved cheaper. So a market that is worse than measured is met with more standbys,
    and in the end with on-demand, and a calm one is not charged for standbys it does not need. A
    change costs a boot and must earn it, so places are not changed for noise.
    """

    name = "hedge"
    version = "1"
    hedges = True

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()

    def decide(self, snapshot: Snapshot) -> Decision:
        """Answer for a snapshot; it never raises."""
        market = hedge_risk.observe(snapshot)
        choice = _Choice(self._settings, snapshot, market)
        if not snapshot.serving or snapshot.notice_time is not None:
            return choice.refuge()
        return choice.best()


class _Choice:
    """One decision in the making."""

    def __init__(self, settings: Settings, snapshot: Snapshot, market: Market) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self._market = market
        self._boot_hours = snapshot.boot.total_seconds() / 3600
        self._gap_seconds = max(0.0, (snapshot.boot - snapshot.notice).total_seconds())
        self._downtime_price = self._price_of_downtime()
        self._free = [
            pool
            for pool in market.pools.values()
            if pool.view.available
            and pool.view.price is not None
            and pool.view.price < snapshot.on_demand_price
        ]
        self._here = market.pools.get(snapshot.pool_id or "") if snapshot.mode == "spot" else None
        held = market.pools.get(snapshot.standby_pool_id or "")
        self._held = held if held is not None and held.view.available else None
        self._scores: dict[str, float] = {candidates.ON_DEMAND: snapshot.on_demand_price}

    def best(self) -> Decision:
        """The best place while nothing is wrong."""
        snapshot = self._snapshot
        if snapshot.moving_to is not None:
            there = self._market.pools.get(snapshot.moving_to)
            return self._stay(self._hedged(there, self._held), "a switch is under way")
        if snapshot.mode == "spot" and candidates.current_price(snapshot) is None:
            return self._stay(
                _Plan(0.0, self._here, self._held), "the current pool has no fresh price"
            )
        now = self._hedged(self._here, self._held)
        best = now
        for pool in self._free:
            if pool is not self._here:
                plan = self._moved(pool)
                best = plan if plan.rate < best.rate else best
        if snapshot.mode == "spot":
            rate = snapshot.on_demand_price * (1 + self._boot_hours / self._settings.horizon_hours)
            best = _Plan(rate, None, None) if rate < best.rate else best
        if best is now or best.rate > now.rate * (1 - self._gain_asked()):
            return self._stay(now, "no place is better by enough")
        return self._go(best, now.rate, emergency=False)

    def refuge(self) -> Decision:
        """Where to go when the serving instance is lost or will be."""
        snapshot = self._snapshot
        coming = self._market.pools.get(snapshot.moving_to or "") or self._held
        if coming is not None or snapshot.moving_to is not None:
            return self._stay(self._hedged(coming, None), "another instance takes over")
        if snapshot.standby_pool_id == candidates.ON_DEMAND:
            return self._stay(_Plan(0.0, None, None), "the standby on demand takes over")
        stay_hours = self._settings.stay_hours
        best = _Plan(snapshot.on_demand_price * stay_hours, None, None)
        for pool in self._free:
            if pool is self._here and snapshot.serving:
                continue
            plan = self._hedged(pool, None)
            self._scores[pool.view.id] = plan.rate
            # It may be lost before it has booted, and then the next one boots in its stead.
            lost = pool.hazard * self._boot_hours * snapshot.boot.total_seconds()
            cost = lost * self._downtime_price + plan.rate * stay_hours
            best = _Plan(cost, pool, plan.standby) if cost < best.rate else best
        return self._go(best, best.rate, emergency=True)

    def _price_of_downtime(self) -> float:
        """Dollars a second, by what is left of the budget."""
        settings, market = self._settings, self._market
        allowed = settings.budget * market.elapsed_seconds
        scale = settings.scale_seconds + settings.scale_share * allowed
        bounds = math.log(settings.least_pressure), math.log(settings.most_pressure)
        pressure = min(bounds[1], max(bounds[0], (market.down_seconds - allowed) / scale))
        return settings.downtime_hours * math.exp(pressure) * self._snapshot.on_demand_price

    def _gain_asked(self) -> float:
        """Share of the current rate that a change must save besides its cost."""
        served = self._snapshot.now - self._snapshot.serving_since
        dwell = timedelta(hours=self._snapshot.limits.min_pool_duration_hours)
        hasty = self._snapshot.mode == "spot" and served < dwell
        return self._settings.hasty_gain if hasty else self._settings.least_gain

    def _moved(self, pool: Pool) -> _Plan:
        """Serving in another pool, what the change costs spread over the horizon."""
        to_standby = pool is self._held and self._snapshot.standby_ready
        plan = self._hedged(pool, None if pool is self._held else self._held)
        self._scores[pool.view.id] = plan.rate
        boot = 0.0 if to_standby else self._boot_hours * candidates.price(pool.view)
        return _Plan(plan.rate + boot / self._settings.horizon_hours, pool, plan.standby)

    def _hedged(self, place: Pool | None, held: Pool | None) -> _Plan:
        """The cheapest way to serve in a place: alone, or with the best standby.

        Args:
            place: None is on demand, which is never lost and needs none.
            held: The standby that is there already, which costs no boot.
        """
        if place is None:
            return _Plan(self._snapshot.on_demand_price, None, None)
        settings, boot_hours = self._settings, self._boot_hours
        price = place.view.price
        base = math.inf if price is None else price * (1 + place.hazard * boot_hours)
        downtime = place.hazard * self._gap_seconds * self._downtime_price
        least = downtime if held is None else downtime / settings.keep_standby
        standby = None
        for pool in self._free:
            if pool is place:
                continue
            # Both are lost: together, or the second while a standby that was lost is replaced.
            both = self._market.together_with(place, pool) + 2 * pool.hazard * boot_hours
            changes = pool.hazard * boot_hours
            if pool is not held:
                changes += boot_hours / settings.horizon_hours
                changes += 0.0 if held is None else settings.least_gain
            rate = candidates.price(pool.view) * (1 + changes) + downtime * min(1.0, both)
            if rate < least:
                least, standby = rate, pool
        return _Plan(base + (downtime if standby is None else least), place, standby)

    def _stay(self, plan: _Plan, why: str) -> Decision:
        snapshot = self._snapshot
        if plan.place is not None:
            self._scores[plan.place.view.id] = plan.rate
        return Decision(
            action="stay",
            target_mode=snapshot.mode,
            target_pool_id=snapshot.pool_id if snapshot.mode == "spot" else None,
            confidence=_LEAST_CONFIDENCE,
            risk_score=self._risk(),
            expected_savings=0.0,
            reasoning=f"{why}; {self._told(plan)}",
            standby=None if plan.standby is None else plan.standby.view.id,
            scores=_finite(self._scores),
            memory=self._market.memory,
        )

    def _go(self, plan: _Plan, before: float, *, emergency: bool) -> Decision:
        snapshot = self._snapshot
        if plan.place is None and snapshot.mode == "ondemand":
            return self._stay(plan, "no pool is worth leaving on-demand")
        here = candidates.current_price(snapshot)
        there = (
            snapshot.on_demand_price if plan.place is None else candidates.price(plan.place.view)
        )
        saved = 0.0 if here is None else here - there
        reason: ReasonClass = "savings" if saved > 0 else "risk"
        gain = 0.0 if emergency or not math.isfinite(before) else 1 - plan.rate / before
        return Decision(
            action="emergency" if emergency else "switch",
            target_mode="ondemand" if plan.place is None else "spot",
            target_pool_id=None if plan.place is None else plan.place.view.id,
            confidence=min(_MOST_CONFIDENCE, _LEAST_CONFIDENCE + gain),
            risk_score=self._risk(),
            expected_savings=saved,
            reasoning=self._told(plan),
            reason_class="availability" if emergency else reason,
            standby=None if plan.standby is None else plan.standby.view.id,
            scores=_finite(self._scores),
            memory=self._market.memory,
        )

    def _risk(self) -> float:
        """Chance that the serving instance is lost within an hour."""
        return 0.0 if self._here is None else 1 - math.exp(-self._here.hazard)

    def _told(self, plan: _Plan) -> str:
        worth = f"a second of downtime is worth {self._downtime_price:.3g} $"
        if plan.place is None:
            return f"on demand; {worth}"
        losses = f"{plan.place.view.id} expects {plan.place.hazard:.3f} losses an hour"
        if plan.standby is None:
            return f"{losses}, which no standby is worth; {worth}"
        return f"{losses}, with a standby in {plan.standby.view.id}; {worth}"


def _finite(scores: dict[str, float]) -> dict[str, float]:
    return {place: score for place, score in scores.items() if math.isfinite(score)}
