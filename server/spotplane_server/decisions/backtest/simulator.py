"""A service that must always have one serving instance, replayed through a recorded market."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from spotplane_server.decisions import candidates
from spotplane_server.decisions.backtest.fleet import Fleet, Instance, Rules
from spotplane_server.decisions.backtest.optimum import ON_DEMAND
from spotplane_server.decisions.backtest.recording import NANO, Recording
from spotplane_server.decisions.backtest.view import INSTANCE_TYPE, MarketView
from spotplane_server.decisions.engine import Decision, Engine, Limits, PoolView, Snapshot

_SERVICE: Final = UUID(int=1)
_DAY: Final = timedelta(days=1)


@dataclass(slots=True)
class Outcome:
    """What a replay came to; costs in nano-USD an hour times seconds, exact.

    Attributes:
        seconds: Length of the recording.
        served_seconds: Seconds with a serving instance.
        cost: All that was billed.
        standby_cost: Part of it for booted instances that did not serve.
        boot_cost: Part of it for instances that booted.
        switches: Times that another instance began to serve.
        losses: Notices (without notices: losses) that befell the serving instance.
        outages: Times that no instance served.
        refusals: Launches for which there was no capacity.
        launches: Instances started, the first one not counted.
        decisions: Times that the engine was asked.
        on_demand_seconds: Seconds that were served on demand.
        standby_seconds: Seconds of booted instances that did not serve.
    """

    seconds: int
    served_seconds: int = 0
    cost: int = 0
    standby_cost: int = 0
    boot_cost: int = 0
    switches: int = 0
    losses: int = 0
    outages: int = 0
    refusals: int = 0
    launches: int = 0
    decisions: int = 0
    on_demand_seconds: int = 0
    standby_seconds: int = 0


@dataclass(slots=True)
class Replay:
    """One engine's service in one market.

    The service begins on demand, booted, at the recording's first second. The engine is asked at
    every tick and whenever something befalls the service: a notice, a loss, a boot that ended, a
    launch that was refused; but while a switch is under way only once the serving instance is
    lost or will be. Its answer is carried out as the plane does it: make before break, a ready
    standby takes over at once, and where the engine has no answer to a notice the safest other
    pool is taken.

    Args:
        market: What happened.
        view: What is seen of it.
        engine: Who decides.
        rules: Boot, notice and on-demand price.
        standbys: Standbys to hold at all times, whatever the engine says; None leaves it to
            the engine.
        rescue: Whether the plane answers a notice or a loss to which the engine has no answer.
    """

    market: Recording
    view: MarketView
    engine: Engine
    rules: Rules
    standbys: int | None = None
    rescue: bool = True
    fleet: Fleet = field(init=False)
    outcome: Outcome = field(init=False)
    _memory: dict[str, float] = field(default_factory=dict)
    _lost: set[int] = field(default_factory=set)
    _ids: dict[str, int] = field(init=False)
    _pools: tuple[PoolView, ...] = ()
    _tick: int = 0

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.market, self.rules)
        self.outcome = Outcome(self.market.seconds)
        self._ids = {f"{INSTANCE_TYPE}.{zone}": n for n, zone in enumerate(self.market.zones)}
        self._ids[candidates.ON_DEMAND] = ON_DEMAND

    def run(self) -> Outcome:
        """Replay the whole recording."""
        now, end = 0, self.market.seconds
        while now < end:
            self._at(now)
            following = min(self.market.starts[self._tick + 1], self.fleet.next_event(now))
            self._bill(now, following - now)
            now = following
        return self.outcome

    def _at(self, now: int) -> None:
        """Let happen what happens at a second, and carry out what the engine makes of it."""
        ticked = now == 0
        if now and now == self.market.starts[self._tick + 1]:
            self._tick += 1
            self._lost.clear()
            ticked = True
        # What is carried out may be done at once, as a move to a ready standby; that is news again.
        for _ in range(len(self.market.zones) + 2):
            news = self._happen(now)
            fleet = self.fleet
            if fleet.moving is not None and not fleet.threatened:
                # A switch is under way; it is let be, as it is live.
                return
            if not (news or ticked):
                return
            ticked = False
            self._ask(now)

    def _happen(self, now: int) -> bool:
        """Let time do its work on the instances; whether the engine should hear of it."""
        events = self.fleet.advance(now)
        self._lost.update(pool for pool in events.noticed if pool != ON_DEMAND)
        self.outcome.losses += events.threats
        self.outcome.switches += events.switched
        self.outcome.outages += events.went_down
        self._pools = self.view.pools(self._tick, frozenset(self._lost))
        return events.any

    def _ask(self, now: int) -> None:
        """Ask until an answer could be carried out; each refusal is shown to the engine."""
        for _ in range(len(self.market.zones) + 1):
            decision = self._decide(now)
            if self._carry_out(decision, now):
                break
        fleet = self.fleet
        helped = fleet.moving is not None or fleet.standby(now) is not None
        if self.rescue and fleet.threatened and not helped:
            self._rescue(now)

    def _decide(self, now: int) -> Decision:
        fleet = self.fleet
        serving, standby = fleet.serving, fleet.standby(now)
        place = serving or fleet.last
        at_spot = place.pool != ON_DEMAND
        snapshot = Snapshot(
            agent_id=_SERVICE,
            instance_type=INSTANCE_TYPE,
            region="",
            mode="spot" if at_spot else "ondemand",
            pool_id=self._pools[place.pool].id if at_spot else None,
            serving_since=self.view.instant(fleet.serving_since),
            standby_pool_id=None if standby is None else self._id(standby.pool),
            on_demand_price=self.rules.on_demand / NANO,
            pools=self._pools,
            limits=Limits(),
            now=self.view.instant(now),
            memory=self._memory,
            serving=serving is not None,
            notice_time=(
                self.view.instant(serving.loss_at) if serving and serving.doomed(now) else None
            ),
            standby_ready=standby is not None and standby.ready_at <= now,
            moving_to=None if fleet.moving is None else self._id(fleet.moving.pool),
            boot=timedelta(seconds=self.rules.boot_seconds),
            notice=timedelta(seconds=self.rules.notice_seconds),
        )
        decision = self.engine.decide(snapshot)
        self._memory = decision.memory
        self.outcome.decisions += 1
        return decision

    def _id(self, pool: int) -> str:
        return candidates.ON_DEMAND if pool == ON_DEMAND else self._pools[pool].id

    def _carry_out(self, decision: Decision, now: int) -> bool:
        """Start and end instances as the decision says; False when a launch was refused."""
        fleet = self.fleet
        accepted = True
        if decision.action != "stay":
            target = ON_DEMAND
            if decision.target_mode == "spot":
                target = self._ids[decision.target_pool_id or ""]
            accepted = self._move(target, now)
        wanted = self._standbys(decision)
        for pool in wanted:
            if not fleet.will_hold(pool, now):
                accepted = self._launch_spare(pool, now) and accepted
        fleet.keep(wanted, now)
        return accepted

    def _move(self, target: int, now: int) -> bool:
        fleet = self.fleet
        place = fleet.serving
        if place is not None and place.pool == target and not place.doomed(now):
            return True
        if fleet.moving is not None and fleet.moving.pool == target:
            return True
        spare = fleet.take_spare(target, now) or self._launch(target, now)
        if spare is None:
            return False
        fleet.move_to(spare, now)
        return True

    def _launch_spare(self, pool: int, now: int) -> bool:
        instance = self._launch(pool, now)
        if instance is None:
            return False
        self.fleet.spares.append(instance)
        return True

    def _launch(self, pool: int, now: int) -> Instance | None:
        instance = self.fleet.launch(pool, now, self._tick)
        if instance is None:
            self.outcome.refusals += 1
            self._lost.add(pool)
            self._pools = self.view.pools(self._tick, frozenset(self._lost))
        else:
            self.outcome.launches += 1
        return instance

    def _standbys(self, decision: Decision) -> list[int]:
        """Pools in which a standby should be live; one on demand is enough, it is never lost."""
        said: list[int] = []
        if decision.standby is not None and (self.engine.hedges or self.standbys):
            said = [self._ids[decision.standby]]
        if self.standbys is None:
            return said
        fleet = self.fleet
        serving = fleet.moving or fleet.serving
        taken = serving.pool if serving is not None else None
        held = [spare.pool for spare in fleet.spares if self._has_capacity(spare.pool)]
        free = sorted(
            (pool.price or 0.0, index)
            for index, pool in enumerate(self._pools)
            if pool.available and pool.price is not None
        )
        chosen: list[int] = []
        for pool in [*said, *held, *(index for _, index in free), ON_DEMAND]:
            if pool != taken and pool not in chosen:
                chosen.append(pool)
        return chosen[: self.standbys]

    def _has_capacity(self, pool: int) -> bool:
        return pool != ON_DEMAND and self._pools[pool].available

    def _rescue(self, now: int) -> None:
        """The plane's own answer: the safest other pool, else on demand.

        Safest is what has been interrupted least in 24 hours, then cheapest.
        """
        since = self.view.instant(now) - _DAY
        place = self.fleet.serving or self.fleet.last
        order = sorted(
            (
                (sum(at > since for at in pool.interruptions), pool.price, index)
                for index, pool in enumerate(self._pools)
                if pool.available and pool.price is not None and index != place.pool
            ),
        )
        for pool in [*(index for _, _, index in order), ON_DEMAND]:
            if self._move(pool, now):
                return

    def _bill(self, now: int, seconds: int) -> None:
        out, fleet = self.outcome, self.fleet
        prices = self.market.prices[self._tick]
        for instance, role in fleet.roles(now):
            price = self.rules.on_demand if instance.pool == ON_DEMAND else prices[instance.pool]
            cost = (price or 0) * seconds
            out.cost += cost
            if role == "serving":
                out.served_seconds += seconds
                out.on_demand_seconds += seconds if instance.pool == ON_DEMAND else 0
            elif role == "standby":
                out.standby_cost += cost
                out.standby_seconds += seconds
            else:
                out.boot_cost += cost
