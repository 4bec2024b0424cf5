"""The formulas of prices."""

from __future__ import annotations

from decimal import Decimal

import pytest
from spotplane_server.catalog import rules
from spotplane_server.catalog.rules import SpotPrice
from spotplane_server.kernel.errors import Semantic

D = Decimal
NONE = SpotPrice(None, defaulted=False)


@pytest.mark.parametrize(
    ("base", "multiplier", "price"),
    [
        (D("0.526"), D("1.10"), D("0.5786")),
        (D("0.158"), D("1.10"), D("0.1738")),
        (D("0.000001"), D("0.5"), D("0")),
        (D("0.000003"), D("0.5"), D("0.000002")),
        (D("0.000005"), D("0.5"), D("0.000002")),
        (D("999999.999999"), D("100"), D("99999999.9999")),
    ],
)
def test_regional_price_is_base_times_multiplier_half_even(
    base: Decimal, multiplier: Decimal, price: Decimal
) -> None:
    """Rounded to 6 decimals; a tie goes to the even digit."""
    assert rules.regional_price(base, multiplier) == price


def test_regional_price_of_no_price_is_none() -> None:
    """Nothing is priced as zero."""
    assert rules.regional_price(None, D("1.1")) is None


def test_spot_savings_are_in_percent_of_on_demand() -> None:
    """0.526 against 0.158 saves 69.96 %."""
    assert rules.spot_savings_pct(D("0.526"), D("0.158")) == pytest.approx(69.96197718631179)


@pytest.mark.parametrize(
    ("on_demand", "spot"), [(D("0"), D("0")), (None, D("1")), (D("1"), None), (None, None)]
)
def test_spot_savings_without_both_prices_are_unknown(
    on_demand: Decimal | None, spot: Decimal | None
) -> None:
    """On-demand at 0 says as little as no price."""
    assert rules.spot_savings_pct(on_demand, spot) is None


def test_spread_is_over_priced_rows_only() -> None:
    """Rows without a price count neither as zero nor in the mean."""
    assert rules.spread([D("1"), None, D("2.5")]) == rules.Spread(1.0, 2.5, 1.75)
    assert rules.spread([None, None]) == rules.Spread(None, None, None)


@pytest.mark.parametrize(
    ("on_demand", "sent", "present", "supports", "expected"),
    [
        (D("0.526"), None, NONE, True, SpotPrice(D("0.1578"), defaulted=True)),
        (D("0.526"), D("0"), NONE, True, SpotPrice(D("0.1578"), defaulted=True)),
        (D("0.526"), D("0.158"), NONE, True, SpotPrice(D("0.158"), defaulted=False)),
        (D("0.526"), None, NONE, False, NONE),
        (None, None, NONE, True, NONE),
        (None, D("5"), NONE, True, SpotPrice(D("5"), defaulted=False)),
        (D("2"), None, SpotPrice(D("0.3"), defaulted=True), True, SpotPrice(D("0.6"), True)),
        (D("2"), None, SpotPrice(D("0.3"), defaulted=True), False, SpotPrice(D("0.6"), True)),
        (D("2"), None, SpotPrice(D("0.5"), defaulted=False), True, SpotPrice(D("0.5"), False)),
        (D("2"), D("1"), SpotPrice(D("0.3"), defaulted=True), True, SpotPrice(D("1"), False)),
        (D("1"), D("1"), NONE, True, SpotPrice(D("1"), defaulted=False)),
    ],
)
def test_spot_price_is_the_sent_one_or_defaulted(
    on_demand: Decimal | None,
    sent: Decimal | None,
    present: SpotPrice,
    supports: bool,
    expected: SpotPrice,
) -> None:
    """0.3 times on-demand where support was claimed without a price; a default follows."""
    found = rules.spot_price(on_demand, sent=sent, present=present, supports_spot=supports)
    assert found == expected


def test_spot_above_on_demand_is_impossible() -> None:
    """Whether spot was raised or on-demand lowered."""
    with pytest.raises(Semantic):
        rules.spot_price(D("1"), sent=D("1.000001"), present=NONE, supports_spot=True)
    with pytest.raises(Semantic):
        rules.spot_price(
            D("1"), sent=None, present=SpotPrice(D("2"), defaulted=False), supports_spot=True
        )


@pytest.mark.parametrize(
    ("city", "country", "location"),
    [
        ("Dublin", "Ireland", "Dublin, Ireland"),
        ("Dublin", None, "Dublin"),
        (None, "Ireland", "Ireland"),
        (None, None, ""),
    ],
)
def test_location_joins_what_is_known(city: str | None, country: str | None, location: str) -> None:
    """City and country, either of them, or nothing."""
    assert rules.location(city, country) == location


@pytest.mark.parametrize(
    ("present", "available", "after"),
    [
        ("offline", True, "active"),
        ("active", False, "offline"),
        ("active", True, "active"),
        ("maintenance", False, "maintenance"),
        ("maintenance", True, "active"),
    ],
)
def test_repeated_availability_leaves_the_status_alone(
    present: str, available: bool, after: str
) -> None:
    """Only a change of availability moves a region."""
    assert rules.status_after(present, available) == after


def test_decimals_are_said_without_exponent_or_trailing_zeros() -> None:
    """The text that price history and audit rows hold."""
    texts = [rules.to_json_value(D(t)) for t in ("0.600000", "100", "1E-6", "0E-6", "-0.0")]
    assert texts == ["0.6", "100", "0.000001", "0", "0"]
