"""An engine beside plain policies and the optimum, in one market under the same rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from spotplane_server.decisions import validation
from spotplane_server.decisions.backtest import baselines, optimum
from spotplane_server.decisions.backtest.fleet import Rules
from spotplane_server.decisions.backtest.recording import NANO, Recording
from spotplane_server.decisions.backtest.simulator import Outcome, Replay
from spotplane_server.decisions.backtest.view import MarketView
from spotplane_server.decisions.engine import Decision, Engine, Snapshot

_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Result:
    """How one policy did.

    Attributes:
        engine: Its name.
        market: Name of the recording.
        availability: Share of seconds with a serving instance, 0 to 1.
        cost_share: Everything billed, as a share of always on-demand.
        optimum_cost_share: The same of the omniscient optimum, which is never down.
        optimum_ratio: The first of these as a multiple of the second.
        switches: Times that another instance began to serve.
        losses: Times that the serving instance was taken, or told so.
        losses_survived: Those after which service went on without a second's break.
        downtime_seconds: Seconds without a serving instance.
        standby_cost_share: Part of the cost share for booted instances that did not serve.
        boot_cost_share: Part of it for instances that booted.
        on_demand_time_share: Share of all seconds that were served on demand.
        launches: Instances started after the first.
        refused_launches: Launches for which there was no capacity.
    """

    engine: str
    market: str
    availability: float
    cost_share: float
    optimum_cost_share: float
    optimum_ratio: float
    switches: int
    losses: int
    losses_survived: int
    downtime_seconds: int
    standby_cost_share: float
    boot_cost_share: float
    on_demand_time_share: float
    launches: int
    refused_launches: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """An engine's result, what it was asked under, and the baselines'.

    Attributes:
        standbys: Standbys held at all times; None where the engine said.
    """

    result: Result
    engine_version: str
    rules: Rules
    standbys: int | None
    zones: Sequence[str]
    ticks: int
    seconds: int
    baselines: Sequence[Result]

    def as_json(self) -> dict[str, Any]:
        """The result at the top level, then its circumstances, then the baselines."""
        return {
            **asdict(self.result),
            "engine_version": self.engine_version,
            "on_demand_price": self.rules.on_demand / NANO,
            "boot_seconds": self.rules.boot_seconds,
            "notice_seconds": self.rules.notice_seconds,
            "standbys": self.standbys,
            "zones": list(self.zones),
            "ticks": self.ticks,
            "seconds": self.seconds,
            "baselines": [asdict(baseline) for baseline in self.baselines],
        }


@dataclass(frozen=True, slots=True)
class Baseline:
    """A plain policy: its name, and how it is replayed."""

    name: str
    make: Callable[[], Engine]
    standbys: int | None = None
    rescue: bool = True


BASELINES: Final = (
    Baseline("always-on-demand", baselines.AlwaysOnDemand),
    Baseline("greedy", baselines.Greedy),
    Baseline("greedy-with-standby", baselines.Greedy, standbys=1),
    Baseline("one-zone", baselines.OneZone, rescue=False),
    Baseline("round-robin", baselines.RoundRobin),
)


class Checked:
    """An engine whose answers are held to what is asked of engines that run live."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self.version = engine.version
        # Engines that are installed need not say.
        self.hedges = bool(getattr(engine, "hedges", False))
        self._engine = engine

    def decide(self, snapshot: Snapshot) -> Decision:
        """The engine's answer.

        Raises:
            EngineFault: It makes no sense for what was asked.
        """
        try:
            return validation.checked(self._engine.decide(snapshot), snapshot)
        except validation.EngineFault as err:
            at = snapshot.now.isoformat()
            raise validation.EngineFault(f"engine {self.name} at {at}: {err}") from err


def compare(
    market: Recording, engine: Engine, rules: Rules, *, standbys: int | None = None
) -> Comparison:
    """Replay a market for an engine and for every baseline.

    Raises:
        EngineFault: The engine answered what would count as its failure.
    """
    view = MarketView(market)
    least = optimum.cheapest(market, rules.on_demand, rules.boot_seconds)
    outcome = Replay(market, view, Checked(engine), rules, standbys).run()
    others = [
        _result(
            baseline.name,
            market,
            rules,
            least,
            Replay(market, view, baseline.make(), rules, baseline.standbys, baseline.rescue).run(),
        )
        for baseline in BASELINES
    ]
    return Comparison(
        result=_result(engine.name, market, rules, least, outcome),
        engine_version=engine.version,
        rules=rules,
        standbys=standbys,
        zones=market.zones,
        ticks=len(market.available),
        seconds=market.seconds,
        baselines=others,
    )


def _result(name: str, market: Recording, rules: Rules, least: int, outcome: Outcome) -> Result:
    whole = rules.on_demand * market.seconds
    return Result(
        engine=name,
        market=market.name,
        availability=round(outcome.served_seconds / outcome.seconds, _DIGITS + 2),
        cost_share=round(outcome.cost / whole, _DIGITS),
        optimum_cost_share=round(least / whole, _DIGITS),
        optimum_ratio=round(outcome.cost / least, 4),
        switches=outcome.switches,
        losses=outcome.losses,
        losses_survived=outcome.losses - outcome.outages,
        downtime_seconds=outcome.seconds - outcome.served_seconds,
        standby_cost_share=round(outcome.standby_cost / whole, _DIGITS),
        boot_cost_share=round(outcome.boot_cost / whole, _DIGITS),
        on_demand_time_share=round(outcome.on_demand_seconds / outcome.seconds, _DIGITS),
        launches=outcome.launches,
        refused_launches=outcome.refusals,
    )
