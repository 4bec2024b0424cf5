"""Prices, places and states of the catalogue: pure decisions."""

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
    """A spot price, and whether it is our default rather than the operator's."""

    price: Decimal | None
    defaulted: bool


@dataclass(frozen=True, slots=True)
class Spread:
    """Lowest, highest and mean of some prices; all None when there are none."""

    low: float | None
    high: float | None
    mean: float | None


def regional_price(base: Decimal | None, multiplier: Decimal) -> Decimal | None:
    """Price in a region: base times multiplier, rounded half-even to 6 decimals."""
    if base is None:
        return None
    return (base * multiplier).quantize(PRICE_STEP, ROUND_HALF_EVEN)


def default_spot(on_demand: Decimal) -> Decimal:
    """0.3 times on-demand, rounded half-even to 6 decimals."""
    return (on_demand * DEFAULT_SPOT_SHARE).quantize(PRICE_STEP, ROUND_HALF_EVEN)


def spot_savings_pct(on_demand: Decimal | None, spot: Decimal | None) -> float | None:
    """How much cheaper spot is, in percent of on-demand; None when that cannot be said."""
    if spot is None or not on_demand:
        return None
    return float((on_demand - spot) / on_demand * 100)


def spread(prices: Iterable[Decimal | None]) -> Spread:
    """Lowest, highest and arithmetic mean of the prices there are."""
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

    A price that was sent wins, except that 0 with spot support asks for the default. A defaulted
    price follows on-demand until one is sent.

    Args:
        on_demand: As it will be.
        sent: Of this request, None when absent.
        present: As stored; no price, not defaulted, for a new type.
        supports_spot: As it will be.

    Raises:
        Semantic: Spot would cost more than on-demand.
    """
    price = present.price if sent is None else sent
    wants_default = (supports_spot and not price) or (sent is None and present.defaulted)
    if wants_default and on_demand is not None:
        return SpotPrice(default_spot(on_demand), defaulted=True)
    if price is not None and on_demand is not None and price > on_demand:
        raise Semantic(
            f"spot price {plain(price)} exceeds on-demand price {plain(on_demand)}",
            field="price_per_hour" if sent is None else "spot_price_per_hour",
            spot_price=plain(price),
            on_demand_price=plain(on_demand),
        )
    return SpotPrice(price, defaulted=False)


def location(city: str | None, country: str | None) -> str:
    """``City, Country``, either of them, or empty."""
    return ", ".join(part for part in (city, country) if part)


def description(
    metadata: Mapping[str, Any], *, family: str, size: str | None, kind: str, context_length: int
) -> str:
    """What to tell of a model: its metadata's own text, else ``Llama 8B, chat, 8192 tokens``."""
    own = metadata.get("description")
    if isinstance(own, str) and own.strip():
        return own
    return f"{' '.join(filter(None, (family, size)))}, {kind}, {context_length} tokens"


def is_available(status: str) -> bool:
    """Whether a region with this status takes launches."""
    return status == "active"


def status_after(present: str, available: bool) -> str:
    """Choose a region's status; a repeated availability leaves maintenance and the like alone."""
    if available == is_available(present):
        return present
    return "active" if available else "offline"


def plain(value: Any) -> Any:
    """Say a value for JSON; decimals as text without exponent or trailing zeros."""
    if isinstance(value, Decimal):
        return format(value.normalize() if value else Decimal(), "f")
    return value


def difference(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the members that changed, as they were and as they are."""
    names = [name for name in after if before.get(name) != after[name]]
    return (
        {name: plain(before.get(name)) for name in names},
        {name: plain(after[name]) for name in names},
    )
