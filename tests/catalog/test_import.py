"""Importing a catalogue."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from spotplane.v1 import instance_type_pb2, model_pb2, region_pb2
from spotplane_server.catalog import seed
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.catalog.world import Catalog
from tests.support.plane import ADMIN

REGION = {"code": "a-1", "name": "A", "provider": "aws"}


async def _import(catalog: Catalog, document: dict[str, Any]) -> seed.Report:
    async with catalog.plane.db.transaction(ALL_TENANTS) as conn:
        return await seed.import_catalog(conn, document, datetime.now(UTC))


async def test_shipped_catalogue_sells_every_type_in_all_its_providers_regions(
    catalog: Catalog,
) -> None:
    """17 regions, 11 types, 5 models."""
    report = await _import(catalog, seed.load_bundled())
    assert report.created == {"regions": 17, "instance_types": 11, "associations": 58, "models": 5}
    types = await catalog.types.ListInstanceTypes(
        instance_type_pb2.ListInstanceTypesRequest(region="us-east-1"), metadata=ADMIN
    )
    by_name = {t.instance_type: t for t in types.data}
    assert len(by_name) == 5
    t4 = by_name["g4dn.xlarge"]
    assert (t4.price_per_hour, t4.spot_price_per_hour, t4.spot_price_defaulted) == (
        0.526,
        0.158,
        False,
    )
    rows = {r.region_code: r for r in (await catalog.pricing(t4.id)).regional_pricing}
    assert len(rows) == 7
    assert (rows["eu-west"].on_demand_price, rows["eu-west"].spot_price) == (0.5786, 0.1738)
    models = await catalog.models.ListModels(model_pb2.ListModelsRequest(), metadata=ADMIN)
    assert [m.name for m in models.data] == [
        "gemma-7b",
        "llama-3-70b",
        "llama-3-8b",
        "mistral-7b",
        "qwen-2.5-7b",
    ]


async def test_importing_again_changes_nothing(catalog: Catalog) -> None:
    """Nor do two at a time; the trail is that of the first, by the system."""
    reports = await asyncio.gather(*(_import(catalog, seed.load_bundled()) for _ in range(3)))
    assert sum(r.created.total() for r in reports) == 91
    assert sum(r.updated.total() for r in reports) == 0
    audits, events = await catalog.trail()
    assert len(audits) == len(events) == 17 + 11 + 11 + 5
    assert {row["actor_type"] for row in audits} == {"system"}
    assert {e["data"]["correlation_id"] for e in events} == {audits[0]["correlation_id"]}


async def test_import_updates_what_it_names_and_leaves_the_rest(catalog: Catalog) -> None:
    """New prices append to history; an operator's own settings stay."""
    await _import(catalog, seed.load_bundled())
    regions = await catalog.regions.ListRegions(
        region_pb2.ListRegionsRequest(provider="oci"), metadata=ADMIN
    )
    (ashburn,) = regions.data
    await catalog.change_region(ashburn.id, available=False, max_nodes=3)

    changed = deepcopy(seed.load_bundled())
    for region in changed["regions"]:
        if region["code"] == "us-ashburn-1":
            region["pricing_multiplier"] = 1.25
    changed["models"][0]["price_input_per_million"] = 0.07
    report = await _import(catalog, changed)
    assert report.updated == {"regions": 1, "models": 1}
    assert not report.created.total()

    after = await catalog.get_region(ashburn.id)
    assert (after.pricing_multiplier, after.status, after.max_nodes) == (1.25, "offline", 3)
    assert await catalog.history(ashburn.id) == [{"multiplier": "1"}, {"multiplier": "1.25"}]
    models = await catalog.models.ListModels(
        model_pb2.ListModelsRequest(search="llama-3-8b"), metadata=ADMIN
    )
    assert [h["input"] for h in await catalog.history(models.data[0].id)] == ["0.05", "0.07"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"regions": [{"code": "US"}]}, r"regions\[0\]\.code: code must consist"),
        ({"regions": [{"code": "a-1", "nam": "x"}]}, r"regions\[0\]"),
        ({"regions": [REGION, REGION]}, r"regions\[1\]: a-1 is given already, as regions\[0\]"),
        ({"providers": []}, "providers must be an object"),
        ({"providers": {"ibm": {}}}, r"providers\.ibm: must be one of aws"),
        ({"providers": {"aws": {"date": "x"}}}, r"providers\.aws must be an object of as_of"),
        ({"providers": {"aws": {"as_of": "May"}}}, r"providers\.aws\.as_of must be a date"),
        ({"as_of": 2026}, "as_of must be a date"),
        ({"regions": {}}, "regions must be a list"),
        ({"tiers": []}, "unknown members: tiers"),
        ({"models": [{"name": "m"}]}, r"models\[0\]\.family: family is required"),
    ],
)
async def test_bad_document_is_refused_whole(
    catalog: Catalog, change: dict[str, Any], where: str
) -> None:
    """The message says where; nothing is stored."""
    with pytest.raises(seed.InvalidDocument, match=where):
        await _import(catalog, seed.load_bundled() | change)
    assert await catalog.trail() == ([], [])


@pytest.mark.parametrize("regions", [["in-mumbai"], ["nope"], "some", [1]])
async def test_type_is_sold_in_its_providers_regions_only(catalog: Catalog, regions: Any) -> None:
    """Another provider's, unknown ones and nonsense are refused."""
    document = deepcopy(seed.load_bundled())
    document["instance_types"][0]["regions"] = regions
    with pytest.raises(seed.InvalidDocument, match=r"instance_types\[0\]\.regions"):
        await _import(catalog, document)
    assert await catalog.trail() == ([], [])


async def test_changed_hardware_is_refused(catalog: Catalog) -> None:
    """A type is what it is; another machine needs another name."""
    await _import(catalog, seed.load_bundled())
    document = deepcopy(seed.load_bundled())
    document["instance_types"][0]["vcpu_count"] = 5
    with pytest.raises(seed.InvalidDocument, match="vcpu_count cannot be changed"):
        await _import(catalog, document)


async def test_list_prices_are_a_catalogue_of_four_providers(catalog: Catalog) -> None:
    """Many regions and types, each type sold somewhere; the examples may come on top of them."""
    document = seed.load_bundled(seed.LIST_PRICES)
    report = await _import(catalog, document)
    created = report.created
    assert created["regions"] >= 50
    assert created["instance_types"] >= 90
    assert created["associations"] == sum(len(t["regions"]) for t in document["instance_types"])
    assert all(t["regions"] for t in document["instance_types"])
    assert document["providers"].keys() == {"aws", "azure", "gcp", "oci"}
    assert all(origin["as_of"] and origin["source"] for origin in document["providers"].values())

    again = await _import(catalog, document)
    assert (again.created.total(), again.updated.total()) == (0, 0)

    await _import(catalog, seed.load_bundled())
    types = await catalog.types.ListInstanceTypes(
        instance_type_pb2.ListInstanceTypesRequest(region="eu-west"), metadata=ADMIN
    )
    prices = {t.instance_type: t.price_per_hour for t in types.data}
    assert prices["p5.48xlarge"] == 98.32
    assert (await _import(catalog, seed.load_bundled())).updated.total() == 0


async def test_spot_without_a_list_price_has_the_default(catalog: Catalog) -> None:
    """And what cannot be had as spot has none."""
    await _import(catalog, seed.load_bundled(seed.LIST_PRICES))
    types = await catalog.types.ListInstanceTypes(
        instance_type_pb2.ListInstanceTypesRequest(), metadata=ADMIN
    )
    assert {t.spot_price_defaulted for t in types.data if t.supports_spot} == {True}
    assert {t.HasField("spot_price_per_hour") for t in types.data if not t.supports_spot} == {False}
