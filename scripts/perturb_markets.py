"""Replays the hedging engine through markets made from recordings: how far do its results carry?

    python scripts/perturb_markets.py FILE=ON_DEMAND_PRICE... [--seeds N] [--days N]

Each recording is cut, thinned, spread, made scarce and plentiful, repriced and replayed faster and
slower, with a seed; besides, markets are drawn without memory, against which the engine's
prior is wrong. One line per kind: how many were served as aimed at, the worst and middle figures.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from spotplane_server.decisions.backtest import optimum, recording
from spotplane_server.decisions.backtest.fleet import Rules
from spotplane_server.decisions.backtest.recording import NANO, Recording
from spotplane_server.decisions.backtest.simulator import Replay
from spotplane_server.decisions.backtest.view import MarketView
from spotplane_server.decisions.engine import Engine
from spotplane_server.decisions.engines.hedge import HedgeEngine
from spotplane_server.decisions.engines.hedge_risk import region_of

AVAILABILITY = 0.9995
COST = 1.6

Draw: TypeAlias = Callable[[Recording, random.Random], Recording]


@dataclass(frozen=True, slots=True)
class Result:
    """One replay: share of seconds served, and cost against the optimum's and on-demand's."""

    availability: float
    ratio: float
    share: float
    switches_per_day: float

    @property
    def good(self) -> bool:
        """Whether it is what is aimed at."""
        return self.availability >= AVAILABILITY and self.ratio <= COST


def measure(market: Recording, on_demand: int, make: Callable[[], Engine] = HedgeEngine) -> Result:
    """Replay one market with the default rules."""
    rules = Rules(on_demand)
    outcome = Replay(market, MarketView(market), make(), rules).run()
    least = optimum.cheapest(market, on_demand, rules.boot_seconds)
    return Result(
        outcome.served_seconds / outcome.seconds,
        outcome.cost / least,
        outcome.cost / (on_demand * outcome.seconds),
        outcome.switches / (outcome.seconds / 86_400),
    )


def cut(market: Recording, draw: random.Random, days: float = 12.0) -> Recording:
    """A part of it, without a break."""
    ticks = min(len(market.available), round(days * 86_400 / _step(market)))
    start = draw.randrange(len(market.available) - ticks + 1)
    return _rows(market, range(start, start + ticks), range(start, start + ticks))


def blocks(market: Recording, draw: random.Random) -> Recording:
    """Days in another order, some twice: moving-block bootstrap, all zones together."""
    order = _blocks(market, draw)
    return _rows(market, order, order)


def regions_apart(market: Recording, draw: random.Random) -> Recording:
    """Days in another order, another one for every region: regions fail independently."""
    orders = {region_of(zone): _blocks(market, draw) for zone in market.zones}
    return _by_zone(market, lambda zone: orders[region_of(market.zones[zone])])


def zones_apart(market: Recording, draw: random.Random) -> Recording:
    """Another order for every zone: all zones fail independently."""
    orders = [_blocks(market, draw) for _ in market.zones]
    return _by_zone(market, lambda zone: orders[zone])


def few_zones(market: Recording, draw: random.Random) -> Recording:
    """Three to five of the zones."""
    chosen = sorted(draw.sample(range(len(market.zones)), draw.randint(3, 5)))
    return _zones(blocks(market, draw), chosen)


def one_region(market: Recording, draw: random.Random) -> Recording:
    """The zones of one region that has at least two."""
    regions = [region_of(zone) for zone in market.zones]
    region = draw.choice(sorted({r for r in regions if regions.count(r) > 1}))
    return _zones(blocks(market, draw), [n for n, r in enumerate(regions) if r == region])


def scarce(market: Recording, draw: random.Random) -> Recording:
    """Capacity only where two orders of days both have it."""
    return _merge(blocks(market, draw), blocks(market, draw), lambda a, b: a and b)


def plentiful(market: Recording, draw: random.Random) -> Recording:
    """Capacity where any of two orders of days has it."""
    return _merge(blocks(market, draw), blocks(market, draw), lambda a, b: a or b)


def repriced(market: Recording, draw: random.Random) -> Recording:
    """Each zone at 0.6 to 1.6 times its price."""
    scale = [draw.uniform(0.6, 1.6) for _ in market.zones]
    again = blocks(market, draw)
    prices = [
        tuple(None if p is None else int(p * s) for p, s in zip(row, scale, strict=True))
        for row in again.prices
    ]
    return replace(again, prices=prices)


def faster(market: Recording, draw: random.Random) -> Recording:
    """All of it in a third of the time."""
    return _paced(blocks(market, draw), 1 / 3)


def slower(market: Recording, draw: random.Random) -> Recording:
    """Every tick three times as long."""
    return _paced(blocks(market, draw), 3)


def coarse(market: Recording, draw: random.Random) -> Recording:
    """Every third tick only, which lasts as long as three."""
    again = blocks(market, draw)
    kept = range(0, len(again.available), 3)
    return _paced(_rows(again, kept, kept), 3)


def without_memory(market: Recording, draw: random.Random) -> Recording:
    """Drawn: spells of exponential length, whose age tells nothing, as available as recorded."""
    step, ticks = _step(market), len(market.available)
    columns = []
    for zone in range(len(market.zones)):
        share = sum(row[zone] for row in market.available) / ticks
        up = draw.uniform(2, 24) * 3600 / step
        down = up * (1 - share) / max(share, 0.01)
        columns.append(list(_spells(ticks, up, max(1.0, down), draw)))
    return replace(market, available=list(zip(*columns, strict=True)))


KINDS: dict[str, Draw] = {
    "cut": cut,
    "blocks": blocks,
    "regions apart": regions_apart,
    "zones apart": zones_apart,
    "few zones": few_zones,
    "one region": one_region,
    "scarce": scarce,
    "plentiful": plentiful,
    "repriced": repriced,
    "faster": faster,
    "slower": slower,
    "coarse": coarse,
    "without memory": without_memory,
}


def _spells(ticks: int, up: float, down: float, draw: random.Random) -> Iterator[bool]:
    state = draw.random() < up / (up + down)
    for _ in range(ticks):
        yield state
        if draw.random() < 1 / (up if state else down):
            state = not state


def _step(market: Recording) -> float:
    return market.seconds / len(market.available)


def _blocks(market: Recording, draw: random.Random) -> list[int]:
    """Ticks in blocks of one to three days, as many as there are."""
    ticks, order = len(market.available), list[int]()
    while len(order) < ticks:
        length = min(ticks, round(draw.uniform(1, 3) * 86_400 / _step(market)))
        start = draw.randrange(ticks - length + 1)
        order.extend(range(start, start + length))
    return order[:ticks]


def _rows(market: Recording, available: Sequence[int], prices: Sequence[int]) -> Recording:
    step = round(_step(market))
    # What has capacity has a price; one that was recorded without is given by another tick.
    return replace(
        market,
        starts=[step * n for n in range(len(available) + 1)],
        available=[market.available[n] for n in available],
        prices=[market.prices[n] for n in prices],
    )


def _by_zone(market: Recording, order: Callable[[int], Sequence[int]]) -> Recording:
    zones, ticks = range(len(market.zones)), range(len(market.available))
    orders = [order(zone) for zone in zones]
    return replace(
        market,
        available=[tuple(market.available[orders[z][n]][z] for z in zones) for n in ticks],
        prices=[tuple(market.prices[orders[z][n]][z] for z in zones) for n in ticks],
    )


def _zones(market: Recording, chosen: Sequence[int]) -> Recording:
    return replace(
        market,
        zones=tuple(market.zones[n] for n in chosen),
        available=[tuple(row[n] for n in chosen) for row in market.available],
        prices=[tuple(row[n] for n in chosen) for row in market.prices],
    )


def _merge(one: Recording, other: Recording, join: Callable[[bool, bool], bool]) -> Recording:
    return replace(
        one,
        available=[
            tuple(join(a, b) for a, b in zip(row, more, strict=True))
            for row, more in zip(one.available, other.available, strict=True)
        ],
    )


def _paced(market: Recording, factor: float) -> Recording:
    return replace(market, starts=[round(at * factor) for at in market.starts])


def main() -> None:
    """Print a line for each recording and kind of market."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("markets", nargs="+", metavar="FILE=ON_DEMAND_PRICE")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--days", type=float, default=15.0, help="of each recording, at most")
    given = parser.parse_args()
    for text in given.markets:
        file, _, price = text.rpartition("=")
        whole = recording.read(Path(file))
        for kind, draw_market in KINDS.items():
            results = []
            for seed in range(given.seeds):
                draw = random.Random(f"{kind}/{seed}")
                part = cut(whole, draw, given.days)
                results.append(measure(draw_market(part, draw), int(float(price) * NANO)))
            print(_line(whole.name[:4], kind, results), flush=True)


def _line(name: str, kind: str, results: Sequence[Result]) -> str:
    good = sum(result.good for result in results)
    availability = [100 * result.availability for result in results]
    ratio = [result.ratio for result in results]
    moves = statistics.median(result.switches_per_day for result in results)
    return (
        f"{name} {kind:16} {good:2}/{len(results)}  availability "
        f"{min(availability):7.3f} {statistics.median(availability):7.3f} %  cost/optimum "
        f"{max(ratio):5.2f} {statistics.median(ratio):5.2f}  switches/day {moves:4.1f}"
    )


if __name__ == "__main__":
    main()
