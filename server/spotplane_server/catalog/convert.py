"""Convert rows of the catalogue to messages."""

from __future__ import annotations

from collections.abc import Iterable

from spotplane.v1 import instance_type_pb2, model_pb2, region_pb2

from spotplane_server.catalog import rules
from spotplane_server.catalog.associations_store import Offer, RegionalOffer
from spotplane_server.catalog.instance_types_store import InstanceType
from spotplane_server.catalog.model_queries import LaunchableModel, PublicModel, ServedModel
from spotplane_server.catalog.models_store import Model
from spotplane_server.catalog.regions_store import Region
from spotplane_server.kernel.api import wire

Pricing = instance_type_pb2.GetInstanceTypePricingResponse
Availability = region_pb2.GetRegionAvailabilityResponse


def region(row: Region) -> region_pb2.Region:
    """Convert a region."""
    available = rules.is_available(row.status)
    return region_pb2.Region(
        id=str(row.id),
        code=row.code,
        name=row.name,
        provider=row.provider,
        country=row.country,
        city=row.city,
        location=rules.location(row.city, row.country),
        status=row.status,
        available=available,
        pricing_multiplier=float(row.cost_multiplier),
        max_nodes=row.max_nodes,
        metadata=wire.struct(row.metadata),
        created_at=wire.timestamp(row.created_at),
        updated_at=wire.timestamp(row.updated_at),
        region_code=row.code,
        region_name=row.name,
        is_available=available,
    )


def instance_type(
    row: InstanceType, *, offered: bool | None = None
) -> instance_type_pb2.InstanceType:
    """Convert an instance type; ``offered`` is set in the list of one region."""
    return instance_type_pb2.InstanceType(
        id=row.id,
        provider=row.provider,
        instance_type=row.instance_type,
        instance_name=row.instance_name,
        gpu_model=row.gpu_model,
        gpu_count=row.gpu_count,
        gpu_memory_gb=float(row.gpu_memory_gb),
        gpu_compute_capability=row.gpu_compute_capability,
        vcpu_count=row.vcpu_count,
        memory_gb=float(row.memory_gb),
        price_per_hour=wire.price(row.price_per_hour),
        spot_price_per_hour=wire.price(row.spot_price_per_hour),
        spot_price_defaulted=row.spot_price_defaulted,
        available=row.is_available,
        supports_spot=row.supports_spot,
        metadata=wire.struct(row.metadata),
        created_at=wire.timestamp(row.created_at),
        updated_at=wire.timestamp(row.updated_at),
        is_available=row.is_available if offered is None else offered,
    )


def model(row: Model) -> model_pb2.Model:
    """Convert a model."""
    return model_pb2.Model(
        id=str(row.id),
        name=row.name,
        family=row.family,
        size=row.size,
        type=row.type,
        context_length=row.context_length,
        vram_required_gb=row.vram_required_gb,
        price_input_per_million=float(row.price_input_per_million),
        price_cached_input_per_million=wire.price(row.price_cached_input_per_million),
        price_output_per_million=float(row.price_output_per_million),
        tokens_per_second_capacity=row.tokens_per_second_capacity,
        status=row.status,
        metadata=wire.struct(row.metadata),
        created_at=wire.timestamp(row.created_at),
        updated_at=wire.timestamp(row.updated_at),
    )


def launchable_model(
    row: LaunchableModel,
) -> model_pb2.ListLaunchableModelsResponse.LaunchableModel:
    """Convert a model for the launch form."""
    return model_pb2.ListLaunchableModelsResponse.LaunchableModel(
        id=str(row.id),
        name=row.name,
        family=row.family,
        size=row.size,
        type=row.type,
        context_length=row.context_length,
        vram_required_gb=row.vram_required_gb,
        status=row.status,
    )


def public_model(row: PublicModel) -> model_pb2.PublicModel:
    """Convert a model to the format of OpenAI's API."""
    return model_pb2.PublicModel(
        id=row.name,
        object="model",
        created=int(row.created_at.timestamp()),
        owned_by="spotplane",
    )


def endpoint(row: ServedModel) -> model_pb2.Endpoint:
    """Convert a model with its serving nodes."""
    return model_pb2.Endpoint(
        model_id=str(row.id),
        model_name=row.name,
        family=row.family,
        type=row.type,
        context_length=row.context_length,
        price_input_per_million=float(row.price_input_per_million),
        price_output_per_million=float(row.price_output_per_million),
        healthy_nodes=row.healthy_nodes,
        total_nodes=row.total_nodes,
        capacity_tps=row.capacity_tps,
        description=rules.description(
            row.metadata,
            family=row.family,
            size=row.size,
            kind=row.type,
            context_length=row.context_length,
        ),
    )


def available_instance(offer: Offer, row: Region) -> Availability.AvailableInstance:
    """Convert an instance type with its availability and price in a region."""
    spot = rules.regional_price(offer.spot_price_per_hour, row.cost_multiplier)
    return Availability.AvailableInstance(
        id=offer.id,
        instance_type=offer.instance_type,
        instance_name=offer.instance_name,
        gpu_model=offer.gpu_model,
        gpu_count=offer.gpu_count,
        gpu_memory_gb=float(offer.gpu_memory_gb),
        vcpu_count=offer.vcpu_count,
        memory_gb=float(offer.memory_gb),
        price_per_hour=wire.price(rules.regional_price(offer.price_per_hour, row.cost_multiplier)),
        spot_price_per_hour=wire.price(spot),
        base_price_per_hour=wire.price(offer.price_per_hour),
        base_spot_price_per_hour=wire.price(offer.spot_price_per_hour),
        supports_spot=offer.supports_spot,
        is_available=offer.is_available,
        stock_status=offer.stock_status,
    )


def pricing(row: InstanceType, places: Iterable[RegionalOffer]) -> Pricing:
    """Convert a type's prices in all its regions."""
    priced = [(place, *_regional(row, place)) for place in places]
    return Pricing(
        instance_type_id=row.id,
        provider=row.provider,
        instance_type=row.instance_type,
        instance_name=row.instance_name,
        gpu_model=row.gpu_model,
        gpu_count=row.gpu_count,
        supports_spot=row.supports_spot,
        base_pricing=Pricing.BasePricing(
            on_demand_price=wire.price(row.price_per_hour),
            spot_price=wire.price(row.spot_price_per_hour),
        ),
        pricing_range=Pricing.PricingRange(
            on_demand=_range(rules.spread(on_demand for _, on_demand, _ in priced)),
            spot=_range(rules.spread(spot for _, _, spot in priced)),
        ),
        regional_pricing=[
            Pricing.RegionalPrice(
                region_code=place.code,
                region_name=place.name,
                location=rules.location(place.city, place.country),
                is_available=place.is_available,
                stock_status=place.stock_status,
                pricing_multiplier=float(place.cost_multiplier),
                on_demand_price=wire.price(on_demand),
                spot_price=wire.price(spot),
                spot_savings_pct=rules.spot_savings_pct(on_demand, spot),
            )
            for place, on_demand, spot in priced
        ],
    )


def _regional(row: InstanceType, place: RegionalOffer) -> tuple[rules.Price, rules.Price]:
    return (
        rules.regional_price(row.price_per_hour, place.cost_multiplier),
        rules.regional_price(row.spot_price_per_hour, place.cost_multiplier),
    )


def _range(spread: rules.Spread) -> Pricing.PriceRange:
    return Pricing.PriceRange(min=spread.low, max=spread.high, avg=spread.mean)
