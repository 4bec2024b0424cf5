"""Costs: exact, half to even, as of the record's time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spotplane_server.usage.pricing import ModelPrices, PriceBook, Rates

T0 = datetime(2026, 1, 1, tzinfo=UTC)
PRICES = st.decimals(0, 999_999, places=6)
MULTIPLIERS = st.decimals(Decimal("0.0001"), 100, places=4)
TOKENS = st.integers(0, 1_000_000_000)


def prices(full: str, cached: str | None = None, output: str | None = None) -> ModelPrices:
    return ModelPrices.of({"input": full, "cached": cached, "output": output or full})


@pytest.mark.parametrize(
    ("rates", "tokens", "nanos"),
    [
        (Rates(prices("0.04"), Decimal(1)), (1, 0, 0), 40),
        (Rates(prices("0.60"), Decimal("0.7")), (1000, 0, 500), 630_000),
        (Rates(prices("0.000500"), Decimal(1)), (1, 0, 0), 0),  # half of one rounds to even 0
        (Rates(prices("0.000500"), Decimal(1)), (3, 0, 0), 2),  # one and a half to even 2
        (Rates(prices("0.60", "0.06"), Decimal(1)), (100, 40, 0), 38_400),
        (Rates(prices("0.60"), Decimal(1)), (100, 40, 0), 60_000),  # cached tokens cost full
        (Rates(None, Decimal("0.7")), (1000, 0, 500), 0),
    ],
)
def test_worked_examples(rates: Rates, tokens: tuple[int, int, int], nanos: int) -> None:
    """What the formula gives, to the nano."""
    assert rates.cost_nanos(*tokens) == nanos


@given(PRICES, PRICES, PRICES, MULTIPLIERS, TOKENS, TOKENS, TOKENS)
def test_integers_give_what_the_decimal_formula_gives(
    full: Decimal,
    cached: Decimal,
    output: Decimal,
    multiplier: Decimal,
    prompt: int,
    hit: int,
    completion: int,
) -> None:
    """The fast form is the documented one."""
    hit = min(hit, prompt)
    with localcontext(prec=60):
        exact = ((prompt - hit) * full + hit * cached + completion * output) * multiplier * 1000
        expected = int(exact.to_integral_value(rounding=ROUND_HALF_EVEN))
    rates = Rates(ModelPrices(full, cached, output), multiplier)
    assert rates.cost_nanos(prompt, hit, completion) == expected


def test_price_holds_from_its_time_on() -> None:
    """Each moment has the last price before it, of the model and of the region alike."""
    book = PriceBook(
        [(T0, prices("1")), (T0 + timedelta(days=10), prices("2"))],
        [(T0, Decimal(1)), (T0 + timedelta(days=5), Decimal("0.5"))],
    )
    at = [book.at(T0 + timedelta(days=day)).cost_nanos(1, 0, 0) for day in (0, 4, 5, 9, 10, 99)]
    assert at == [1000, 1000, 500, 500, 1000, 1000]


def test_first_price_holds_before_its_time() -> None:
    """What was served before the first price still costs something."""
    book = PriceBook([(T0, prices("1"))], [(T0 + timedelta(days=9), Decimal(2))])
    assert book.at(T0 - timedelta(days=1)).cost_nanos(1, 0, 0) == 2000
