"""Every change leaves one audit row, one event and, where it prices, one row of history."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.catalog.world import Catalog, put_instance
from tests.support.plane import Plane, refused


async def test_each_mutation_leaves_exactly_one_row_and_one_event(catalog: Catalog) -> None:
    """In order, by the bootstrap administrator."""
    region, made = await catalog.region(), await catalog.type()
    model = await catalog.model()
    await catalog.change_region(region.id, name="n")
    await catalog.associate(made.id, region.code)
    await catalog.change_type(made.id, available=False)
    await catalog.change_model(model.id, status="beta")
    await catalog.delete_region(region.id)
    await catalog.delete_type(made.id)
    await catalog.delete_model(model.id)
    audits, events = await catalog.trail()
    assert [row["action"] for row in audits] == [
        "region.create",
        "instance_type.create",
        "model.create",
        "region.update",
        "instance_type.associate_regions",
        "instance_type.update",
        "model.update",
        "region.delete",
        "instance_type.delete",
        "model.delete",
    ]
    assert [row["event_type"] for row in events] == [
        "region.created",
        "instance_type.created",
        "model.created",
        "region.updated",
        "instance_type.regions_associated",
        "instance_type.updated",
        "model.updated",
        "region.deleted",
        "instance_type.deleted",
        "model.deleted",
    ]
    assert {(row["actor_type"], row["actor_name"]) for row in audits} == {("admin", "bootstrap")}
    for audit, event in zip(audits, events, strict=True):
        assert audit["resource_id"] == event["aggregate_id"]
        assert audit["correlation_id"] == event["data"]["correlation_id"]


async def test_update_records_only_what_changed(catalog: Catalog) -> None:
    """Before and after, prices as exact text."""
    region = await catalog.region(pricing_multiplier=1.1, max_nodes=5)
    await catalog.change_region(region.id, pricing_multiplier=0.7, max_nodes=5)
    audits, events = await catalog.trail()
    assert audits[-1]["before"] == {"cost_multiplier": "1.1"}
    assert audits[-1]["after"] == {"cost_multiplier": "0.7"}
    assert events[-1]["data"]["after"] == {"cost_multiplier": "0.7"}
    assert events[-1]["data"]["code"] == "us-east-1"


async def test_history_grows_with_the_price_and_with_nothing_else(catalog: Catalog) -> None:
    """One row on creation, one for each change of the multiplier."""
    region = await catalog.region(pricing_multiplier=1.1)
    await catalog.change_region(region.id, name="n")
    await catalog.change_region(region.id, pricing_multiplier=1.1)
    await catalog.change_region(region.id, pricing_multiplier=0.95)
    assert await catalog.history(region.id) == [{"multiplier": "1.1"}, {"multiplier": "0.95"}]


async def test_refused_mutations_leave_nothing(catalog: Catalog, plane: Plane) -> None:
    """No row, no event, no history, whatever the refusal."""
    region, made = await catalog.region(), await catalog.type(price_per_hour=1)
    model = await catalog.model()
    other = await catalog.model("other")
    tenant = await plane.tenant()
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await put_instance(conn, tenant.id, region_id=region.id, type_id=made.id)
    before = await catalog.trail()
    refusals: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
        ("REGION_CODE_TAKEN", catalog.region),
        ("INSTANCE_TYPE_EXISTS", catalog.type),
        ("MODEL_NAME_TAKEN", catalog.model),
        ("MODEL_NAME_TAKEN", lambda: catalog.change_model(other.id, name=model.name)),
        ("MODEL_NOT_FOUND", lambda: catalog.delete_model(str(uuid4()))),
        ("NO_FIELDS", lambda: catalog.change_model(model.id)),
        ("REGION_IN_USE", lambda: catalog.delete_region(region.id)),
        ("INSTANCE_TYPE_IN_USE", lambda: catalog.delete_type(made.id)),
        ("REGION_NOT_FOUND", lambda: catalog.delete_region(str(uuid4()))),
        ("NO_FIELDS", lambda: catalog.change_region(region.id)),
        ("SEMANTIC", lambda: catalog.change_type(made.id, spot_price_per_hour=2)),
        ("SEMANTIC", lambda: catalog.change_region(region.id, name="n", code="x-1")),
        ("SEMANTIC", lambda: catalog.associate(made.id, region.code, "nope")),
    ]
    for reason, call in refusals:
        async with refused(reason):
            await call()
    assert await catalog.trail() == before
    assert len(await catalog.history(region.id)) == 1


@pytest.mark.parametrize("table", ["audit_logs", "outbox_events", "price_history"])
async def test_change_without_its_record_does_not_happen(
    catalog: Catalog, plane: Plane, table: str
) -> None:
    """Where a row of the trail cannot be written, the change rolls back and says nothing of why."""
    region, model = await catalog.region(), await catalog.model()
    owner = await asyncpg.connect(plane.database_url)
    await owner.execute(f"REVOKE INSERT ON {table} FROM spotplane_app")
    await owner.close()
    async with refused("INTERNAL"):
        await catalog.change_region(region.id, name="n", pricing_multiplier=2)
    after = await catalog.get_region(region.id)
    assert (after.name, after.pricing_multiplier) == ("us-east-1", 1.0)
    async with refused("INTERNAL"):
        await catalog.change_model(model.id, price_output_per_million=2)
    assert await catalog.get_model(model.id) == model
