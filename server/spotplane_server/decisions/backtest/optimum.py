"""The omniscient optimum: the least that a service without any downtime could have cost."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Final

from spotplane_server.decisions.backtest.recording import Recording

ON_DEMAND: Final = -1
_NEVER: Final = 1 << 100


def cheapest(market: Recording, on_demand: int, boot_seconds: int) -> int:
    """Least cost of serving every second, for one who knows the whole recording.

    The rules are the simulator's: the service begins on demand, booted; an instance is billed from
    its launch and serves ``boot_seconds`` later; a spot instance needs capacity from its launch to
    its end; on-demand is always to be had.

    Formulation. At any second one instance serves and is billed; a move to ``j`` at ``t`` costs,
    besides, ``j``'s price over its boot ``[t - boot, t)``, in which it must have capacity. Prices
    and capacity change at the ends of ticks only, so the cost of a plan is linear in each of its
    moving times between the ends of ticks and the ends of ticks plus one boot, and some best plan
    moves at such instants only. (Two moves at one instant leave an instance that serves for no
    time, and the plan without it costs no more.) Over that grid ``0 = g0 < g1 < ...``, with
    ``V(k, j)`` the least cost of all before ``g_k`` if ``j`` serves there from ``g_k`` on:

        V(0, on demand) = 0, and infinite for the others
        V(k + 1, j) = cost(j, g_k, g_k+1)
                      + min(V(k, j), min over i of V(k, i) + cost(j, g_k - boot, g_k))

    where a cost without capacity is infinite. The minimum over ``i`` is the same for every ``j``,
    so a step takes time linear in the number of pools.

    Returns:
        The cost in nano-USD an hour times seconds: exact; divide by 3600 for nano-USD.
    """
    lags = (0, boot_seconds)
    moments = {at + lag for at in market.starts for lag in lags}
    grid = sorted(at for at in moments if at <= market.seconds)
    pools = [_Spot(market, zone) for zone in range(len(market.zones))]
    best_spot = [_NEVER] * len(pools)
    best_on_demand = 0
    tick = 0
    for start, end in pairwise(grid):
        while market.starts[tick + 1] <= start:
            tick += 1
        booted = start >= boot_seconds
        anywhere = min(best_on_demand, *best_spot)
        for zone, pool in enumerate(pools):
            price = market.prices[tick][zone]
            if price is None or not market.available[tick][zone]:
                best_spot[zone] = _NEVER
                continue
            least = best_spot[zone]
            if booted and (boot := pool.cost(start - boot_seconds, start)) is not None:
                least = min(least, anywhere + boot)
            best_spot[zone] = least + price * (end - start)
        if booted:
            best_on_demand = min(best_on_demand, anywhere + on_demand * boot_seconds)
        best_on_demand += on_demand * (end - start)
    return min(best_on_demand, *best_spot)


class _Spot:
    """What one zone costs over a span of time."""

    def __init__(self, market: Recording, zone: int) -> None:
        self._market = market
        self._zone = zone

    def cost(self, start: int, end: int) -> int | None:
        """Of an instance over ``[start, end)``; None where there was no capacity throughout."""
        starts = self._market.starts
        tick = bisect_right(starts, start) - 1
        total = 0
        at = start
        while at < end:
            price = self._market.prices[tick][self._zone]
            if price is None or not self._market.available[tick][self._zone]:
                return None
            until = min(end, starts[tick + 1])
            total += price * (until - at)
            at = until
            tick += 1
        return total
