"""Parse requests of the catalogue and check the documented ranges."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeVar
from uuid import uuid4

from google.protobuf.message import Message
from spotplane.v1 import instance_type_pb2, model_pb2, region_pb2

from spotplane_server.catalog import rules
from spotplane_server.catalog.associations_store import OfferTerms
from spotplane_server.catalog.instance_types_store import InstanceType
from spotplane_server.catalog.model_queries import ModelSearch
from spotplane_server.catalog.models_store import Filters, Model, ModelId
from spotplane_server.catalog.regions_store import Region, RegionId
from spotplane_server.kernel.api import wire
from spotplane_server.kernel.errors import Invalid

T = TypeVar("T")

INT32_MAX: Final = 2**31 - 1
MAX_MULTIPLIER: Final = Decimal(100)
MAX_PRICE: Final = Decimal("999999.999999")
MAX_GB: Final = Decimal("99999999.99")
MAX_REGION_CODES: Final = 500
_MODEL_PRICES: Final = (
    "price_input_per_million",
    "price_cached_input_per_million",
    "price_output_per_million",
)
_CODE: Final = re.compile(r"[a-z0-9-]+")


def new_region(request: region_pb2.CreateRegionRequest, now: datetime) -> Region:
    """Parse a new region."""
    available = request.available if request.HasField("available") else True
    sent_multiplier = request.HasField("pricing_multiplier")
    return Region(
        id=RegionId(uuid4()),
        code=_code(request.code),
        name=wire.text(request.name, "name", maximum=255, required=True),
        provider=wire.one_of(request.provider, "provider", rules.PROVIDERS),
        country=wire.optional_text(request, "country", maximum=100) or None,
        city=wire.optional_text(request, "city", maximum=100) or None,
        status="active" if available else "offline",
        cost_multiplier=_multiplier(request) if sent_multiplier else Decimal(1),
        max_nodes=wire.optional_integer(request, "max_nodes", 0, INT32_MAX),
        metadata=wire.json_object(request, "metadata") or {},
        created_at=now,
        updated_at=now,
    )


def changed_region(request: region_pb2.UpdateRegionRequest) -> Callable[[Region], Region]:
    """Parse an update of a region.

    Returns:
        A function that applies the update to the stored region. It raises ``Semantic`` if an
        immutable field differs, ``Invalid`` (``NO_FIELDS``) if no mutable field is set.
    """
    sent = _sent(
        request,
        {
            "name": lambda: wire.text(request.name, "name", maximum=255, required=True),
            "available": lambda: request.available,
            "pricing_multiplier": lambda: _multiplier(request),
            "max_nodes": lambda: wire.integer(request.max_nodes, "max_nodes", 0, INT32_MAX),
            "metadata": lambda: wire.json_object(request, "metadata"),
        },
    )

    def apply(before: Region) -> Region:
        wire.immutable(
            request,
            {
                "code": before.code,
                "provider": before.provider,
                "country": before.country or "",
                "city": before.city or "",
            },
        )
        values = _some(sent)
        if "available" in values:
            values["status"] = rules.status_after(before.status, values.pop("available"))
        if "pricing_multiplier" in values:
            values["cost_multiplier"] = values.pop("pricing_multiplier")
        return replace(before, **values)

    return apply


def new_type(request: instance_type_pb2.CreateInstanceTypeRequest, now: datetime) -> InstanceType:
    """Parse a new instance type."""
    name = wire.text(request.instance_type, "instance_type", maximum=100, required=True)
    on_demand = _price(request, "price_per_hour")
    spot = rules.spot_price(
        on_demand,
        sent=_price(request, "spot_price_per_hour"),
        present=rules.SpotPrice(None, defaulted=False),
        supports_spot=request.supports_spot,
    )
    capability = wire.optional_text(request, "gpu_compute_capability", maximum=20)
    return InstanceType(
        id=0,
        provider=wire.one_of(request.provider, "provider", rules.PROVIDERS),
        instance_type=name,
        instance_name=wire.optional_text(request, "instance_name", maximum=100) or name,
        vcpu_count=_positive(request.vcpu_count, "vcpu_count"),
        memory_gb=_gigabytes(request.memory_gb, "memory_gb"),
        gpu_count=_positive(request.gpu_count, "gpu_count"),
        gpu_memory_gb=_gigabytes(request.gpu_memory_gb, "gpu_memory_gb"),
        gpu_model=wire.text(request.gpu_model, "gpu_model", maximum=100, required=True),
        gpu_compute_capability=capability or None,
        price_per_hour=on_demand,
        spot_price_per_hour=spot.price,
        spot_price_defaulted=spot.defaulted,
        is_available=request.available if request.HasField("available") else True,
        supports_spot=request.supports_spot,
        metadata=wire.json_object(request, "metadata") or {},
        created_at=now,
        updated_at=now,
    )


def changed_type(
    request: instance_type_pb2.UpdateInstanceTypeRequest, *, may_be_empty: bool = False
) -> Callable[[InstanceType], InstanceType]:
    """Parse an update of a type; ``may_be_empty`` accepts requests with immutable fields only.

    Returns:
        A function that applies the update to the stored type. It raises as that of
        `changed_region`, and ``Semantic`` if spot would cost more than on-demand.
    """
    sent = _sent(
        request,
        {
            "price_per_hour": lambda: _price(request, "price_per_hour"),
            "spot_price_per_hour": lambda: _price(request, "spot_price_per_hour"),
            "available": lambda: request.available,
            "supports_spot": lambda: request.supports_spot,
            "instance_name": lambda: wire.text(
                request.instance_name, "instance_name", maximum=100, required=True
            ),
            "metadata": lambda: wire.json_object(request, "metadata"),
        },
    )

    def apply(before: InstanceType) -> InstanceType:
        wire.immutable(request, _hardware(before))
        values = dict(sent) if may_be_empty else _some(sent)
        if "available" in values:
            values["is_available"] = values.pop("available")
        spot_sent = values.pop("spot_price_per_hour", None)
        after = replace(before, **values)
        spot = rules.spot_price(
            after.price_per_hour,
            sent=spot_sent,
            present=rules.SpotPrice(before.spot_price_per_hour, before.spot_price_defaulted),
            supports_spot=after.supports_spot,
        )
        return replace(after, spot_price_per_hour=spot.price, spot_price_defaulted=spot.defaulted)

    return apply


def region_codes(request: instance_type_pb2.AssociateRegionsRequest) -> list[str]:
    """Parse the region codes to associate, in request order, including duplicates."""
    if not request.region_codes:
        raise wire.missing("region_codes")
    if len(request.region_codes) > MAX_REGION_CODES:
        raise wire.out_of_range("region_codes", f"at most {MAX_REGION_CODES} codes")
    return [
        wire.text(code, f"region_codes[{i}]", maximum=50, required=True)
        for i, code in enumerate(request.region_codes)
    ]


def terms(request: instance_type_pb2.AssociateRegionsRequest) -> OfferTerms:
    """Parse the terms of an association."""
    return OfferTerms(
        request.is_available if request.HasField("is_available") else True,
        wire.optional_one_of(request, "stock_status", rules.STOCK_STATUSES) or "available",
    )


def new_model(request: model_pb2.CreateModelRequest, now: datetime) -> Model:
    """Parse a new model."""
    return Model(
        id=ModelId(uuid4()),
        name=wire.text(request.name, "name", maximum=255, required=True),
        family=wire.text(request.family, "family", maximum=100, required=True),
        size=wire.optional_text(request, "size", maximum=50) or None,
        type=wire.one_of(request.type, "type", rules.MODEL_TYPES),
        context_length=_positive(request.context_length, "context_length"),
        vram_required_gb=_positive(request.vram_required_gb, "vram_required_gb"),
        price_input_per_million=_price(request, "price_input_per_million") or Decimal(),
        price_cached_input_per_million=_price(request, "price_cached_input_per_million"),
        price_output_per_million=_price(request, "price_output_per_million") or Decimal(),
        tokens_per_second_capacity=wire.optional_integer(
            request, "tokens_per_second_capacity", 1, INT32_MAX
        ),
        status=wire.optional_one_of(request, "status", rules.MODEL_STATUSES) or "active",
        metadata=wire.json_object(request, "metadata") or {},
        created_at=now,
        updated_at=now,
    )


def merged_model(request: model_pb2.CreateModelRequest, before: Model) -> Model:
    """Apply the fields of a create request to an existing model; absent fields stay."""
    wanted = new_model(request, before.created_at)
    absent = [
        field.name
        for field in request.DESCRIPTOR.fields
        if field.has_presence and not request.HasField(field.name)
    ]
    kept = {name: getattr(before, name) for name in (*absent, "id", "updated_at")}
    return replace(wanted, **kept)


def changed_model(request: model_pb2.UpdateModelRequest) -> Callable[[Model], Model]:
    """Parse an update of a model.

    Returns:
        A function that applies the update to the stored model.

    Raises:
        Invalid: A field is invalid, or (``NO_FIELDS``) none is set.
    """
    capacity = "tokens_per_second_capacity"
    readers: dict[str, Callable[[], Any]] = {
        "name": lambda: wire.text(request.name, "name", maximum=255, required=True),
        "family": lambda: wire.text(request.family, "family", maximum=100, required=True),
        "type": lambda: wire.one_of(request.type, "type", rules.MODEL_TYPES),
        "context_length": lambda: _positive(request.context_length, "context_length"),
        "vram_required_gb": lambda: _positive(request.vram_required_gb, "vram_required_gb"),
        **{name: partial(_price, request, name) for name in _MODEL_PRICES},
        "size": lambda: wire.text(request.size, "size", maximum=50, required=True),
        capacity: lambda: wire.optional_integer(request, capacity, 1, INT32_MAX),
        "status": lambda: wire.one_of(request.status, "status", rules.MODEL_STATUSES),
        "metadata": lambda: wire.json_object(request, "metadata"),
    }
    changes = wire.changes(request, readers)
    return lambda before: replace(before, **changes)


def model_search(request: model_pb2.SearchModelsRequest) -> ModelSearch:
    """Parse the criteria of a model search."""
    return ModelSearch(
        text=wire.optional_text(request, "q", maximum=255),
        families=wire.optional_list(
            request,
            "families",
            lambda family: wire.text(family, "families", maximum=100, required=True),
        ),
        types=wire.optional_list(
            request, "types", lambda kind: wire.one_of(kind, "types", rules.MODEL_TYPES)
        ),
        min_context_length=wire.optional_integer(request, "min_context_length", 0, INT32_MAX),
        max_price_input=_price(request, "max_price_input"),
    )


def model_filters(request: model_pb2.ListModelsRequest) -> Filters:
    """Parse the filters of a model list."""
    return Filters(
        family=wire.optional_text(request, "family", maximum=100),
        type=wire.optional_one_of(request, "type", rules.MODEL_TYPES),
        status=wire.optional_one_of(request, "status", rules.MODEL_STATUSES),
        min_vram=wire.optional_integer(request, "min_vram", 0, INT32_MAX),
        max_vram=wire.optional_integer(request, "max_vram", 0, INT32_MAX),
        search=wire.optional_text(request, "search", maximum=255),
    )


def _sent(request: Message, readers: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    return {name: read() for name, read in readers.items() if request.HasField(name)}


def _some(sent: Mapping[str, T]) -> dict[str, T]:
    # Called after the check of immutable fields, so that a changed one is reported first.
    if not sent:
        raise Invalid("no field to update", reason="NO_FIELDS")
    return dict(sent)


def _hardware(present: InstanceType) -> dict[str, object]:
    return {
        "provider": present.provider,
        "instance_type": present.instance_type,
        "gpu_model": present.gpu_model,
        "gpu_count": present.gpu_count,
        "gpu_memory_gb": float(present.gpu_memory_gb),
        "gpu_compute_capability": present.gpu_compute_capability or "",
        "vcpu_count": present.vcpu_count,
        "memory_gb": float(present.memory_gb),
    }


def _code(value: str) -> str:
    code = wire.text(value, "code", maximum=50, required=True)
    if len(code) < 2:
        raise wire.out_of_range("code", "2 to 50 characters")
    if not _CODE.fullmatch(code):
        raise Invalid("code must consist of a-z, 0-9 and -", field="code")
    return code


def _multiplier(request: Any) -> Decimal:
    field = "pricing_multiplier"
    value = wire.decimal(getattr(request, field), field, digits=4, maximum=MAX_MULTIPLIER)
    if not value:
        raise wire.out_of_range(field, "above 0")
    return value


def _price(request: Any, field: str) -> Decimal | None:
    if not request.HasField(field):
        return None
    return wire.decimal(getattr(request, field), field, digits=6, maximum=MAX_PRICE)


def _gigabytes(value: float, field: str) -> Decimal:
    if value == 0:
        raise wire.missing(field)
    return wire.decimal(value, field, digits=2, maximum=MAX_GB)


def _positive(value: int, field: str) -> int:
    if value == 0:
        raise wire.missing(field)
    return wire.integer(value, field, 1, INT32_MAX)
