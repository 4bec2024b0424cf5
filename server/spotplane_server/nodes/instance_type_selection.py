"""Which type to launch: a pure decision over what a region offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from spotplane_server.catalog.associations_store import Offer
from spotplane_server.kernel.errors import Semantic

_NO_PRICE: Final = Decimal("Infinity")


@dataclass(frozen=True, slots=True)
class Need:
    """What is to be launched; None where anything will do.

    Attributes:
        vram_gb: What the model needs, all GPUs together.
        spot: Whether it must be had as spot capacity.
    """

    vram_gb: int
    gpu: str | None
    gpu_count: int | None
    instance_type: str | None
    spot: bool


def choose(offers: Sequence[Offer], need: Need) -> Offer:
    """Choose the type that was named, or the cheapest that will do.

    Args:
        offers: What the region offers, prices before its multiplier, which is the same for all.
        need: What for.

    Raises:
        Semantic: The named one will not do, or none will.
    """
    if need.instance_type is not None:
        named = [offer for offer in offers if offer.instance_type == need.instance_type]
        if not named:
            raise Semantic(
                f"the region does not offer {need.instance_type}",
                field="instance_type",
                instance_type=need.instance_type,
            )
        fault = _fault(named[0], need)
        if fault is not None:
            field, message = fault
            raise Semantic(message, field=field)
        return named[0]
    fits = [offer for offer in offers if _fault(offer, need) is None]
    if not fits:
        raise Semantic(
            f"no type that the region offers has {_wish(need)}",
            field="instance_type" if need.gpu is None else "gpu",
        )
    return min(fits, key=lambda offer: (_price(offer, spot=need.spot), offer.id))


def same_gpu(one: str, other: str) -> bool:
    """Whether two names mean one GPU: the maker, case, blanks and hyphens do not matter."""
    return _plain(one) == _plain(other)


def _plain(name: str) -> str:
    return name.lower().removeprefix("nvidia").replace(" ", "").replace("-", "")


def _fault(offer: Offer, need: Need) -> tuple[str, str] | None:
    """Why an offer will not do, and the field of the request that rules it out."""
    name = offer.instance_type
    if not offer.is_available or offer.stock_status == "out_of_stock":
        return "instance_type", f"{name} is not to be had in the region now"
    if need.gpu is not None and not same_gpu(offer.gpu_model, need.gpu):
        return "gpu", f"{name} has {offer.gpu_model}"
    if need.gpu_count is not None and offer.gpu_count != need.gpu_count:
        return "gpu_count", f"{name} has {offer.gpu_count} GPUs"
    if offer.gpu_memory_gb < need.vram_gb:
        return "instance_type", f"the model needs {need.vram_gb} GB, more than {name} has"
    if need.spot and not offer.supports_spot:
        return "use_spot", f"{name} is not to be had as spot capacity"
    return None


def _wish(need: Need) -> str:
    gpus = "GPUs" if need.gpu is None else need.gpu
    count = "" if need.gpu_count is None else f"{need.gpu_count} x "
    spot = " as spot capacity" if need.spot else ""
    return f"{count}{gpus} with {need.vram_gb} GB{spot} to be had now"


def _price(offer: Offer, *, spot: bool) -> Decimal:
    price = offer.spot_price_per_hour if spot else offer.price_per_hour
    return _NO_PRICE if price is None else price
