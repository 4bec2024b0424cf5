"""Pure rules of the catalogue: prices, locations and states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final, TypeAlias

from spotplane_server.kernel.errors import Semantic

Price: TypeAlias = Decimal | None

PROVIDERS: Final = ("aws", "azure", "gcp", "oci")
REGION_STATUSES: Final = ("active", "degraded", "maintenance", "offline")
STOCK_STATUSES: Final = ("available", "limited", "out_of_stock")
MODEL_TYPES: Final = ("completion", "chat", "embedding")
MODEL_STATUSES: Final = ("active", "deprecated", "beta")

PRICE_STEP: Final = Decimal("0.000001")
DEFAULT_SPOT_SHARE: Final = Decimal("0.3")


@dataclass(frozen=True, slots=True)
class SpotPrice:
    """A spot price, and whether it is the default instead of the operator's."""

    price: Decimal | None
    defaulted: bool


@dataclass(frozen=True, slots=True)
class Spread:
    """Minimum, maximum and mean of prices; all None without prices."""

    low: float | None
    high: float | None
    mean: float | None


def regional_price(base: Decimal | None, multiplier: Decimal) -> Decimal | None:
    """Return the price in a region: base times multiplier, rounded half-even to 6 decimals."""
    if base is None:
        return None
    return (base * multiplier).quantize(PRICE_STEP, ROUND_HALF_EVEN)


def default_spot(on_demand: Decimal) -> Decimal:
    """Return the default spot price: 0.3 times on-demand, rounded half-even to 6 decimals."""
    return (on_demand * DEFAULT_SPOT_SHARE).quantize(PRICE_STEP, ROUND_HALF_EVEN)


def spot_savings_pct(on_demand: Decimal | None, spot: Decimal | None) -> float | None:
    """Return the savings of spot in percent of on-demand; None if a price is absent or zero."""
    if spot is None or not on_demand:
        return None
    return float((on_demand - spot) / on_demand * 100)


def spread(prices: Iterable[Decimal | None]) -> Spread:
    """Return minimum, maximum and arithmetic mean of the prices that are not None."""
    known = [price for price in prices if price is not None]
    if not known:
        return Spread(None, None, None)
    mean = sum(known, Decimal()) / len(known)
    return Spread(float(min(known)), float(max(known)), float(mean))


def spot_price(
    on_demand: Decimal | None,
    *,
    sent: Decimal | None,
    present: SpotPrice,
    supports_spot: bool,
) -> SpotPrice:
    """Choose a type's spot price after a change.

    A price in the request has precedence, except that 0 with spot support selects the default. A
    default price follows on-demand until a request sets one.

    Args:
        on_demand: The price after the change.
        sent: The price in the request; None if absent.
        present: The stored price; no price, not defaulted, for a new type.
        supports_spot: The value after the change.

    Raises:
        Semantic: Spot would cost more than on-demand.
    """
    price = present.price if sent is None else sent
    wants_default = (supports_spot and not price) or (sent is None and present.defaulted)
    if wants_default and on_demand is not None:
        return SpotPrice(default_spot(on_demand), defaulted=True)
    if price is not None and on_demand is not None and price > on_demand:
        raise Semantic(
            f"spot price {to_json_value(price)} exceeds on-demand price {to_json_value(on_demand)}",
            field="price_per_hour" if sent is None else "spot_price_per_hour",
            spot_price=to_json_value(price),
            on_demand_price=to_json_value(on_demand),
        )
    return SpotPrice(price, defaulted=False)


def location(city: str | None, country: str | None) -> str:
    """Return ``City, Country``, either of them, or an empty text."""
    return ", ".join(part for part in (city, country) if part)


def description(
    metadata: Mapping[str, Any], *, family: str, size: str | None, kind: str, context_length: int
) -> str:
    """Return a model's description from its metadata, else ``Llama 8B, chat, 8192 tokens``."""
    own = metadata.get("description")
    if isinstance(own, str) and own.strip():
        return own
    return f"{' '.join(filter(None, (family, size)))}, {kind}, {context_length} tokens"


def is_available(status: str) -> bool:
    """Return whether a region with this status accepts launches."""
    return status == "active"


def status_after(present: str, available: bool) -> str:
    """Return a region's new status; unchanged availability keeps statuses such as maintenance."""
    if available == is_available(present):
        return present
    return "active" if available else "offline"


def to_json_value(value: Any) -> Any:
    """Convert a value for JSON; decimals become text without exponent or trailing zeros."""
    if isinstance(value, Decimal):
        return format(value.normalize() if value else Decimal(), "f")
    return value


def changed_fields(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the changed fields, before and after."""
    names = [name for name in after if before.get(name) != after[name]]
    return (
        {name: to_json_value(before.get(name)) for name in names},
        {name: to_json_value(after[name]) for name in names},
    )
