"""What a control plane sees of a recorded market at an instant: the present and the past."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, TypeVar, overload

from spotplane_server.decisions.backtest.recording import NANO, Recording
from spotplane_server.decisions.engine import PoolView
from spotplane_server.prices import risk

INSTANCE_TYPE: Final = "recorded"
BUCKET_SECONDS: Final = 300
HISTORY_SECONDS: Final = 7 * 86_400
INTERRUPTIONS_SECONDS: Final = 30 * 86_400

T = TypeVar("T")


class Window(Sequence[T]):
    """A part of a longer sequence, which is neither copied nor seen beyond its ends."""

    __slots__ = ("_end", "_start", "_whole")

    def __init__(self, whole: Sequence[T], start: int, end: int) -> None:
        self._whole = whole
        self._start = start
        self._end = max(start, end)

    def __len__(self) -> int:
        return self._end - self._start

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self._whole[self._start + i] for i in range(*index.indices(len(self)))]
        at = index if index >= 0 else index + len(self)
        if not 0 <= at < len(self):
            raise IndexError(index)
        return self._whole[self._start + at]


class MarketView:
    """A recorded market as an engine is shown it.

    Availability is that of the tick, as a launch that is tried would tell. An interruption is the
    end of a zone's availability, as the notices of whoever was there tell. Prices are shown in the
    clean buckets of five minutes in which the live market keeps them.
    """

    def __init__(self, market: Recording) -> None:
        self._market = market
        self._zones = [_Zone(market, index) for index in range(len(market.zones))]
        self._tick = -1
        self._pools: tuple[PoolView, ...] = ()

    def instant(self, second: int) -> datetime:
        """The time at which a second of the recording begins."""
        return self._market.origin + timedelta(seconds=second)

    def pools(self, tick: int, lost: frozenset[int] = frozenset()) -> tuple[PoolView, ...]:
        """Every zone as of the beginning of a tick, in the recording's order.

        Args:
            tick: Which.
            lost: Zones where a notice has announced, since, that capacity ends.
        """
        if tick != self._tick:
            self._pools = tuple(zone.view(self._market, tick) for zone in self._zones)
            self._tick = tick
        if not lost:
            return self._pools
        return tuple(
            replace(pool, available=False) if zone in lost else pool
            for zone, pool in enumerate(self._pools)
        )


class _Zone:
    """One zone's past, prepared once for all of the recording."""

    def __init__(self, market: Recording, index: int) -> None:
        self._index = index
        self._name = market.zones[index]
        self._ends = [
            market.starts[tick]
            for tick in range(1, len(market.available))
            if market.available[tick - 1][index] and not market.available[tick][index]
        ]
        self._interruptions = [market.origin + timedelta(seconds=at) for at in self._ends]
        self._buckets: list[int] = []
        self._prices: list[int] = []
        self._history: list[tuple[datetime, float]] = []
        self._clean(market)

    def _clean(self, market: Recording) -> None:
        """Keep the first price of every bucket of five minutes, where there was one."""
        for tick, prices in enumerate(market.prices):
            price = prices[self._index]
            if price is None:
                continue
            first = -(-market.starts[tick] // BUCKET_SECONDS) * BUCKET_SECONDS
            for at in range(first, market.starts[tick + 1], BUCKET_SECONDS):
                self._buckets.append(at)
                self._prices.append(price)
                self._history.append((market.origin + timedelta(seconds=at), price / NANO))

    def view(self, market: Recording, tick: int) -> PoolView:
        now = market.starts[tick]
        price = market.prices[tick][self._index]
        until = bisect_right(self._buckets, now)
        history = Window(
            self._history, bisect_left(self._buckets, now - HISTORY_SECONDS, 0, until), until
        )
        ended = bisect_right(self._ends, now)
        interruptions = Window(
            self._interruptions,
            bisect_left(self._ends, now - INTERRUPTIONS_SECONDS, 0, ended),
            ended,
        )
        return PoolView(
            id=f"{INSTANCE_TYPE}.{self._name}",
            az=self._name,
            price=None if price is None else price / NANO,
            risk=risk.risk_v1(
                len(interruptions), self._prices[max(0, until - risk.BUCKETS) : until]
            ).value,
            available=market.available[tick][self._index],
            interruptions=interruptions,
            history=history,
        )
