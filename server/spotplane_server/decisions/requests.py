"""What callers ask, read and held to its bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from spotplane.v1 import decision_pb2 as pb

from spotplane_server.agents.switch_requests import Target
from spotplane_server.decisions import on_demand, uploads
from spotplane_server.decisions.engine_uploads import Named
from spotplane_server.decisions.engine_uploads_store import Content
from spotplane_server.decisions.on_demand import Seen
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.errors import Invalid, PayloadTooLarge

NANO: Final = 1_000_000_000
MAX_PRICE: Final = 100 * NANO
MAX_POOLS: Final = 256
MAX_REASON: Final = 500
DEFAULT_PRIORITY: Final = 5
# From here on a switch is somebody's will, and is labelled so by agents in the field.
MANUAL: Final = 50

Part: TypeAlias = pb.UploadModelRequest | pb.UploadEngineRequest


@dataclass(frozen=True, slots=True)
class Wanted:
    """A switch by hand."""

    target: Target
    reason: str
    priority: int

    @property
    def trigger(self) -> Literal["MANUAL", "AUTOMATIC"]:
        """Whose will it counts as."""
        return "MANUAL" if self.priority >= MANUAL else "AUTOMATIC"


@dataclass(frozen=True, slots=True)
class Received:
    """An upload, as it came."""

    files: list[Content]
    named: Named
    force: bool


def wanted(request: pb.IssueSwitchRequest) -> Wanted:
    """Read a switch by hand.

    Raises:
        Invalid: A bad mode, reason or priority.
    """
    mode = wire.one_of(request.target_mode, "target_mode", ("spot", "ondemand"))
    pool_id = wire.optional_text(request, "target_pool_id", maximum=128)
    reason = wire.optional_text(request, "reason", maximum=MAX_REASON)
    priority = wire.optional_integer(request, "priority", 1, 100)
    target = Target("spot", pool_id or None) if mode == "spot" else Target("ondemand")
    return Wanted(target, reason or "", DEFAULT_PRIORITY if priority is None else priority)


def seen(request: pb.DecideRequest) -> Seen:
    """Read what a caller sees.

    Raises:
        Invalid: A text is too long, a price is out of range, or there are too many pools.
    """
    place, pricing = request.instance, request.pricing
    if len(pricing.spot_pools) > MAX_POOLS:
        raise wire.out_of_range("spot_pools", f"at most {MAX_POOLS} pools")
    kind = wire.optional_text(place, "instance_type", maximum=64)
    prices, zones = {}, {}
    for index, pool in enumerate(pricing.spot_pools):
        pool_id, zone, price = _pool(pool, kind, f"spot_pools[{index}]")
        if pool_id and price:
            prices[pool_id], zones[pool_id] = price, zone
    mode = on_demand.mode_of(wire.optional_text(place, "current_mode", maximum=32))
    return Seen(
        instance_id=wire.optional_text(place, "instance_id", maximum=128) or None,
        instance_type=kind or None,
        region=wire.optional_text(place, "region", maximum=64) or None,
        mode=mode,
        pool_id=_current_pool(request, kind, mode),
        on_demand_price=_price(pricing, "on_demand_price_nanousd"),
        current_price=_price(pricing, "current_spot_price_nanousd"),
        prices=prices,
        zones=zones,
    )


def _current_pool(request: pb.DecideRequest, kind: str | None, mode: str | None) -> str | None:
    pool_id = wire.optional_text(request.instance, "current_pool_id", maximum=128)
    zone = wire.optional_text(request, "current_az", maximum=32)
    if pool_id or mode == "ondemand" or not zone or not kind:
        return pool_id or None
    return f"{kind}.{zone}"


def _pool(pool: pb.DecidePool, kind: str | None, path: str) -> tuple[str, str, float | None]:
    pool_id = wire.text(pool.pool_id, f"{path}.pool_id", maximum=128)
    zone = wire.text(pool.az, f"{path}.az", maximum=32)
    if not pool_id and zone and kind:
        pool_id = f"{kind}.{zone}"
    return pool_id, zone or pool_id.rpartition(".")[2], _price(pool, "price_nanousd")


def _price(message: pb.DecidePricing | pb.DecidePool, field: str) -> float | None:
    """A price in dollars; None for none, and for what is no possible price."""
    value = wire.optional(message, field)
    return value / NANO if value is not None and 0 < value <= MAX_PRICE else None


async def received(parts: AsyncIterator[Part]) -> Received:
    """Gather an upload.

    Raises:
        Invalid: There is no file, one is empty or has no name, or two have the same.
        UnsupportedFormat: A file is of no format that is taken.
        PayloadTooLarge: It is more than 100 MiB.
    """
    found: dict[str, bytearray] = {}
    data: bytearray | None = None
    named, force, total = Named(), False, 0
    async for part in parts:
        if part.file_name:
            data = _begin(found, part.file_name)
        if part.data:
            if data is None:
                raise wire.missing("file_name")
            data += part.data
            total += len(part.data)
            if total > uploads.MAX_BYTES:
                raise PayloadTooLarge(f"an upload may have at most {uploads.MAX_BYTES >> 20} MiB")
        if isinstance(part, pb.UploadEngineRequest):
            force = force or part.force
        else:
            named = _named(part, named)
    if not found:
        raise Invalid("at least one file is needed", reason="MISSING_FIELD", field="files")
    # Hashing 100 MiB takes a fraction of a second.
    files = await asyncio.to_thread(_contents, found)
    return Received(files, named, force)


def _contents(found: Mapping[str, bytearray]) -> list[Content]:
    return [uploads.content_of(name, bytes(content)) for name, content in found.items()]


def _begin(found: dict[str, bytearray], file_name: str) -> bytearray:
    name = wire.text(file_name, "files", maximum=255, required=True)
    # What a path is on the uploader's machine is nothing here.
    name = name.replace("\\", "/").rpartition("/")[2]
    if not name or name in found:
        raise Invalid("every file needs a name of its own", field="files")
    if len(found) >= uploads.MAX_FILES:
        raise wire.out_of_range("files", f"at most {uploads.MAX_FILES} files")
    found[name] = bytearray()
    return found[name]


def _named(part: pb.UploadModelRequest, before: Named) -> Named:
    return Named(
        wire.optional_text(part, "model_name", maximum=64) or before.name,
        wire.optional_text(part, "model_version", maximum=64) or before.version,
        wire.optional_text(part, "model_type", maximum=64) or before.model_type,
    )
