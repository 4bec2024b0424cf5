"""Costs of usage: exact, in integer nano-USD, with the prices in force at the record's time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from math import lcm
from typing import Any, Final

_NANOS_PER_PRICE: Final = (
    1000  # a price is USD per million tokens, so USD 1 is 1000 nano-USD a token
)
_ONE: Final = Decimal(1)


@dataclass(frozen=True, slots=True)
class ModelPrices:
    """USD per million tokens.

    Attributes:
        input: Of prompt tokens.
        cached: Of prompt tokens that came from a cache.
        output: Of completion tokens.
    """

    input: Decimal
    cached: Decimal
    output: Decimal

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ModelPrices:
        """Read `price_history.prices` of a model; cached tokens cost full unless priced."""
        full = Decimal(str(values["input"]))
        cached = values.get("cached")
        return cls(
            full,
            full if cached is None else Decimal(str(cached)),
            Decimal(str(values["output"])),
        )


class Rates:
    """Prices of one model in one region at one time, ready to multiply.

    Args:
        model: None for usage without a model, which costs nothing.
        multiplier: Of the region; 1 without a region.
    """

    __slots__ = ("_cached", "_input", "_output", "_scale", "model", "multiplier")

    def __init__(self, model: ModelPrices | None, multiplier: Decimal) -> None:
        self.model = model
        self.multiplier = multiplier
        prices = (model.input, model.cached, model.output) if model else (Decimal(0),) * 3
        exact = [Fraction(price * multiplier * _NANOS_PER_PRICE) for price in prices]
        # Integers over one denominator: as exact as Decimal and several times as fast.
        self._scale = lcm(*(ratio.denominator for ratio in exact))
        self._input, self._cached, self._output = (int(ratio * self._scale) for ratio in exact)

    def cost_nanos(self, prompt: int, cached: int, completion: int) -> int:
        """Cost of one record in nano-USD, rounded half to even.

        Args:
            prompt: Prompt tokens, cached ones included.
            cached: Those of them that came from a cache.
            completion: Completion tokens.
        """
        exact = (prompt - cached) * self._input + cached * self._cached + completion * self._output
        nanos, rest = divmod(exact, self._scale)
        if rest * 2 > self._scale or (rest * 2 == self._scale and nanos % 2):
            nanos += 1
        return nanos


# The same few in every batch, and making one takes longer than pricing ten records.
_rates: Final = lru_cache(4096)(Rates)


class PriceBook:
    """Rates of one model in one region over time.

    Args:
        model: Prices by the time from which they hold, ascending; empty for usage without a model.
        region: Multipliers likewise; empty for usage without a region.
    """

    __slots__ = ("_rates", "_starts")

    def __init__(
        self,
        model: Sequence[tuple[datetime, ModelPrices]],
        region: Sequence[tuple[datetime, Decimal]],
    ) -> None:
        starts = sorted({at for at, _ in model} | {at for at, _ in region})
        # The first price also holds before its time: what was served then must cost something.
        self._starts = starts[1:]
        self._rates = [_rates(_as_of(model, at, None), _as_of(region, at, _ONE)) for at in starts]
        self._rates = self._rates or [_rates(None, _ONE)]

    def at(self, moment: datetime) -> Rates:
        """Rates in force at a moment."""
        if not self._starts:
            return self._rates[0]
        return self._rates[bisect_right(self._starts, moment)]


def _as_of(history: Sequence[tuple[datetime, Any]], moment: datetime, missing: Any) -> Any:
    if not history:
        return missing
    index = bisect_right([at for at, _ in history], moment) - 1
    return history[max(index, 0)][1]
