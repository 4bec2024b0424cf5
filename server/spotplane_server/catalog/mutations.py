"""Mutations of the catalogue, each with price history, audit row and event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal

from spotplane_server import audit, events
from spotplane_server.catalog import (
    associations_store,
    instance_types_store,
    models_store,
    prices_store,
    regions_store,
    rules,
)
from spotplane_server.catalog.associations_store import AssociationCounts, LockedRegion, OfferTerms
from spotplane_server.catalog.errors import (
    InstanceTypeExists,
    InstanceTypeInUse,
    ModelInUse,
    ModelNameTaken,
    RegionCodeTaken,
    RegionInUse,
)
from spotplane_server.catalog.instance_types_store import InstanceType
from spotplane_server.catalog.models_store import Model
from spotplane_server.catalog.regions_store import Region
from spotplane_server.kernel.db.database import Conn, constraints
from spotplane_server.kernel.request_context import Call

_NOT_CHANGES: Final = frozenset({"id", "created_at", "updated_at"})


@dataclass(frozen=True, slots=True)
class _Subject:
    kind: Literal["region", "instance_type", "model"]
    id: str
    names: dict[str, str]


async def create_region(conn: Conn, call: Call, region: Region, now: datetime) -> Region:
    """Insert a region.

    Raises:
        RegionCodeTaken: Another region has the code.
    """
    taken = RegionCodeTaken(f"region code {region.code} is taken", code=region.code)
    with constraints(regions_code_key=taken):
        stored = await regions_store.insert_region(conn, region)
    await _region_prices(conn, stored, now)
    await _created(conn, call, _region(stored), _members(stored), now)
    return stored


async def update_region(
    conn: Conn, call: Call, before: Region, wanted: Region, now: datetime
) -> Region:
    """Update a region locked by the caller."""
    after = await regions_store.update_region(conn, wanted, now)
    if after.cost_multiplier != before.cost_multiplier:
        await _region_prices(conn, after, now)
    await _updated(conn, call, _region(after), _members(before), _members(after), now)
    return after


async def delete_region(conn: Conn, call: Call, region: Region, now: datetime) -> None:
    """Delete a region that the caller has locked against launches.

    Raises:
        RegionInUse: It has live instances.
    """
    live = await regions_store.count_live(conn, region.id)
    if live:
        raise RegionInUse(f"{live} live nodes run in region {region.code}", node_count=str(live))
    await regions_store.delete_region(conn, region.id, now)
    await _deleted(conn, call, _region(region), {"status": region.status}, now)


async def create_type(conn: Conn, call: Call, new: InstanceType, now: datetime) -> InstanceType:
    """Store a new instance type.

    Raises:
        InstanceTypeExists: The provider has it already.
    """
    taken = InstanceTypeExists(
        f"{new.provider} has an instance type {new.instance_type}",
        provider=new.provider,
        instance_type=new.instance_type,
    )
    with constraints(instance_types_name_key=taken):
        stored = await instance_types_store.insert_type(conn, new)
    await _created(conn, call, _type(stored), _members(stored), now)
    return stored


async def update_type(
    conn: Conn, call: Call, before: InstanceType, wanted: InstanceType, now: datetime
) -> InstanceType:
    """Update a type locked by the caller."""
    after = await instance_types_store.update_type(conn, wanted, now)
    await _updated(conn, call, _type(after), _members(before), _members(after), now)
    return after


async def delete_type(conn: Conn, call: Call, present: InstanceType, now: datetime) -> None:
    """Delete a type that the caller has locked against launches.

    Raises:
        InstanceTypeInUse: Live instances use it.
    """
    live = await instance_types_store.count_live(conn, present.id)
    if live:
        raise InstanceTypeInUse(
            f"{live} live nodes are of type {present.instance_type}", node_count=str(live)
        )
    await instance_types_store.delete_type(conn, present.id, now)
    await _deleted(conn, call, _type(present), {"is_available": present.is_available}, now)


async def associate(
    conn: Conn,
    call: Call,
    present: InstanceType,
    regions: Sequence[LockedRegion],
    terms: OfferTerms,
    now: datetime,
) -> AssociationCounts:
    """Associate a locked type with locked regions."""
    ids = [region.id for region in regions]
    tally = await associations_store.associate(conn, present.id, ids, terms, now)
    subject = _type(present)
    after = {
        "region_codes": sorted(region.code for region in regions),
        "is_available": terms.is_available,
        "stock_status": terms.stock_status,
    }
    data = after | {"inserted": tally.inserted, "updated": tally.updated}
    await _record(
        conn, call, subject, ("associate_regions", "regions_associated"), data, now, after
    )
    return tally


async def create_model(conn: Conn, call: Call, model: Model, now: datetime) -> Model:
    """Insert a model.

    Raises:
        ModelNameTaken: Another model has the name.
    """
    with constraints(models_name_key=_name_taken(model)):
        stored = await models_store.insert_model(conn, model)
    await prices_store.append_prices(conn, "model", stored.id, _model_prices(stored), now)
    await _created(conn, call, _model(stored), _members(stored), now)
    return stored


async def update_model(
    conn: Conn, call: Call, before: Model, wanted: Model, now: datetime
) -> Model:
    """Update a model locked by the caller.

    Raises:
        ModelNameTaken: Another model has the name.
    """
    with constraints(models_name_key=_name_taken(wanted)):
        after = await models_store.update_model(conn, wanted, now)
    if _model_prices(after) != _model_prices(before):
        await prices_store.append_prices(conn, "model", after.id, _model_prices(after), now)
    await _updated(conn, call, _model(after), _members(before), _members(after), now)
    return after


async def delete_model(conn: Conn, call: Call, model: Model, now: datetime) -> None:
    """Delete a model that the caller has locked against launches.

    Raises:
        ModelInUse: Live nodes serve it.
    """
    live = await models_store.count_live(conn, model.id)
    if live:
        raise ModelInUse(f"{live} live nodes serve model {model.name}", node_count=str(live))
    await models_store.delete_model(conn, model.id, now)
    await _deleted(conn, call, _model(model), {"status": model.status}, now)


def _name_taken(model: Model) -> ModelNameTaken:
    return ModelNameTaken(f"model name {model.name} is taken", name=model.name)


def _region(region: Region) -> _Subject:
    return _Subject("region", str(region.id), {"code": region.code, "provider": region.provider})


def _type(present: InstanceType) -> _Subject:
    names = {"provider": present.provider, "instance_type": present.instance_type}
    return _Subject("instance_type", str(present.id), names)


def _model(model: Model) -> _Subject:
    return _Subject("model", str(model.id), {"name": model.name})


async def _region_prices(conn: Conn, region: Region, now: datetime) -> None:
    prices = {"multiplier": region.cost_multiplier}
    await prices_store.append_prices(conn, "region", region.id, prices, now)


def _model_prices(model: Model) -> dict[str, Decimal]:
    cached = model.price_cached_input_per_million
    return {
        "input": model.price_input_per_million,
        "cached": model.price_input_per_million if cached is None else cached,
        "output": model.price_output_per_million,
    }


def _members(row: Region | InstanceType | Model) -> dict[str, Any]:
    return {f.name: getattr(row, f.name) for f in fields(row) if f.name not in _NOT_CHANGES}


async def _created(
    conn: Conn, call: Call, subject: _Subject, members: dict[str, Any], now: datetime
) -> None:
    after = {name: rules.to_json_value(value) for name, value in members.items()}
    await _record(conn, call, subject, ("create", "created"), after, now, after)


async def _updated(
    conn: Conn,
    call: Call,
    subject: _Subject,
    before: dict[str, Any],
    after: dict[str, Any],
    now: datetime,
) -> None:
    was, is_ = rules.changed_fields(before, after)
    data = {"before": was, "after": is_}
    await _record(conn, call, subject, ("update", "updated"), data, now, is_, was)


async def _deleted(
    conn: Conn, call: Call, subject: _Subject, before: dict[str, Any], now: datetime
) -> None:
    after = {"deleted_at": now.isoformat()}
    await _record(conn, call, subject, ("delete", "deleted"), before | after, now, after, before)


async def _record(
    conn: Conn,
    call: Call,
    subject: _Subject,
    verb: tuple[str, str],
    data: dict[str, Any],
    now: datetime,
    after: dict[str, Any],
    before: dict[str, Any] | None = None,
) -> None:
    """Write the audit row and the event; ``verb`` is (audit action, event type)."""
    change = audit.Change(
        f"{subject.kind}.{verb[0]}", subject.kind, subject.id, before=before, after=after
    )
    await audit.record(conn, call, change, now)
    body = {f"{subject.kind}_id": subject.id, **subject.names, **data}
    await events.append(conn, events.Event(f"{subject.kind}.{verb[1]}", subject.id, body), now)
