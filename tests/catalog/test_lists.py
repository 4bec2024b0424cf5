"""Lists: order, filters, pages, and the bare array."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from spotplane.v1 import instance_type_pb2, model_pb2, region_pb2
from spotplane_server.catalog.models_service import SORTS

from tests.catalog.world import Catalog
from tests.support.plane import ADMIN, refused


async def _regions(catalog: Catalog, **query: Any) -> region_pb2.ListRegionsResponse:
    answer: region_pb2.ListRegionsResponse = await catalog.regions.ListRegions(
        region_pb2.ListRegionsRequest(**query), metadata=ADMIN
    )
    return answer


async def _types(catalog: Catalog, **query: Any) -> instance_type_pb2.ListInstanceTypesResponse:
    answer: instance_type_pb2.ListInstanceTypesResponse = await catalog.types.ListInstanceTypes(
        instance_type_pb2.ListInstanceTypesRequest(**query), metadata=ADMIN
    )
    return answer


async def _models(catalog: Catalog, **query: Any) -> model_pb2.ListModelsResponse:
    answer: model_pb2.ListModelsResponse = await catalog.models.ListModels(
        model_pb2.ListModelsRequest(**query), metadata=ADMIN
    )
    return answer


async def _pages(call: Any, catalog: Catalog, **query: Any) -> list[Any]:
    """Follow the tokens to the end."""
    found: list[Any] = []
    token: dict[str, str] = {}
    while True:
        answer = await call(catalog, **query, **token)
        found += answer.data
        assert answer.pagination.has_more == bool(answer.pagination.next_page_token)
        if not answer.pagination.has_more:
            return found
        token = {"page_token": answer.pagination.next_page_token}


async def test_regions_come_by_provider_name_and_id(catalog: Catalog) -> None:
    """Equal names too; page by page as in one."""
    for i, provider in enumerate(("oci", "aws", "gcp", "aws", "azure", "aws", "aws")):
        await catalog.region(f"r-{i}", provider=provider, name=f"N{i % 2}")
    gone = await catalog.region("gone-1")
    await catalog.delete_region(gone.id)
    whole = await _regions(catalog)
    keys = [(r.provider, r.name, r.id) for r in whole.data]
    assert keys == sorted(keys)
    assert (len(keys), whole.pagination.total, whole.pagination.limit) == (7, 7, 1000)
    for limit in (1, 2, 3, 7):
        assert await _pages(_regions, catalog, limit=limit) == list(whole.data)


async def test_regions_are_filtered(catalog: Catalog) -> None:
    """By provider and status; an unknown value is refused, not ignored."""
    await catalog.region("a-1")
    await catalog.region("b-1", available=False)
    await catalog.region("c-1", provider="gcp")
    found = await _regions(catalog, provider="aws", status="active")
    assert ([r.code for r in found.data], found.pagination.total) == (["a-1"], 1)
    assert not (await _regions(catalog, status="degraded")).data
    async with refused("UNKNOWN_ENUM", field="provider"):
        await _regions(catalog, provider="ibm")
    async with refused("UNKNOWN_ENUM", field="status"):
        await _regions(catalog, status="up")


@pytest.mark.parametrize("call", [_regions, _types])
async def test_limits_of_long_lists_are_1_to_1000(catalog: Catalog, call: Any) -> None:
    """Nothing is clamped."""
    for limit in (0, -1, 1001):
        async with refused("OUT_OF_RANGE", field="limit"):
            await call(catalog, limit=limit)
    assert (await call(catalog, limit=1000)).pagination.limit == 1000


async def test_page_tokens_are_bound_to_their_list(catalog: Catalog) -> None:
    """Other filters, other lists and inventions are refused."""
    for i in range(3):
        await catalog.region(f"r-{i}")
        await catalog.type(f"t-{i}")
    token = (await _regions(catalog, limit=1, provider="aws")).pagination.next_page_token
    for query in ({"provider": "gcp"}, {}):
        async with refused("INVALID_PAGE_TOKEN", field="page_token"):
            await _regions(catalog, page_token=token, **query)
    async with refused("INVALID_PAGE_TOKEN"):
        await _types(catalog, page_token=token, provider="aws")
    async with refused("INVALID_PAGE_TOKEN"):
        await _regions(catalog, page_token="nonsense")


async def test_pages_hold_what_was_there_while_others_write(catalog: Catalog) -> None:
    """Nothing that was there before is skipped or shown twice."""
    before = [(await catalog.region(f"r-{i:02}")).id for i in range(20)]

    async def write() -> None:
        for i in range(20):
            await catalog.region(f"n-{i:02}")

    pages, _ = await asyncio.gather(_pages(_regions, catalog, limit=3), write())
    found = [r.id for r in pages]
    assert len(found) == len(set(found))
    assert [i for i in found if i in set(before)] == before


async def test_types_of_a_region_show_its_offer(catalog: Catalog) -> None:
    """Only associated ones; offered only where type and association both are."""
    await catalog.region("a-1")
    both, stopped, off, other = [
        await catalog.type(name, available=name != "off")
        for name in ("both", "stopped", "off", "other")
    ]
    await catalog.associate(both.id, "a-1")
    await catalog.associate(off.id, "a-1")
    await catalog.associate(stopped.id, "a-1", is_available=False)
    found = (await _types(catalog, region="a-1")).data
    shown = {t.id: (t.available, t.is_available) for t in found}
    assert shown == {both.id: (True, True), stopped.id: (True, False), off.id: (False, False)}
    assert [t.id for t in (await _types(catalog, region="a-1", available=True)).data] == [both.id]
    assert {t.id for t in (await _types(catalog, region="a-1", available=False)).data} == {
        stopped.id,
        off.id,
    }
    assert [t.id for t in (await _types(catalog, available=False)).data] == [off.id]
    assert other.id in {t.id for t in (await _types(catalog)).data}
    assert not (await _types(catalog, region="unknown-1")).data


async def test_types_page_as_in_one(catalog: Catalog) -> None:
    """By provider, name and id, also within a region."""
    await catalog.region("a-1")
    for i in range(7):
        made = await catalog.type(f"t-{i}", instance_name=f"N{i % 3}")
        await catalog.associate(made.id, "a-1")
    for query in ({}, {"region": "a-1"}, {"provider": "aws"}):
        whole = await _types(catalog, **query)
        keys = [(t.provider, t.instance_name, t.id) for t in whole.data]
        assert keys == sorted(keys)
        assert whole.pagination.total == 7
        assert await _pages(_types, catalog, limit=2, **query) == list(whole.data)


@pytest.mark.parametrize("sort_by", SORTS)
@pytest.mark.parametrize("sort_order", ["asc", "desc"])
async def test_models_page_by_token_and_by_offset_alike(
    catalog: Catalog, sort_by: str, sort_order: str
) -> None:
    """In every order, ties by id."""
    for i in range(7):
        await catalog.model(f"m{i}", family=f"F{i % 2}", vram_required_gb=(8, 16, 100)[i % 3])
    query = {"sort_by": sort_by, "sort_order": sort_order}
    whole = list((await _models(catalog, **query)).data)
    assert len(whole) == 7
    by_offset = [
        model
        for offset in range(0, 7, 2)
        for model in (await _models(catalog, limit=2, offset=offset, **query)).data
    ]
    assert await _pages(_models, catalog, limit=2, **query) == by_offset == whole

    def key(model: model_pb2.Model) -> Any:
        value = getattr(model, sort_by)
        return value.ToNanoseconds() if sort_by.endswith("_at") else value

    keys = [key(model) for model in whole]
    assert keys == sorted(keys, reverse=sort_order == "desc")


async def test_models_are_filtered(catalog: Catalog) -> None:
    """Exactly by family, type, status and memory; by part of name or family in any case."""
    await catalog.model("llama-8b", vram_required_gb=16)
    await catalog.model("llama-70b", vram_required_gb=80, status="beta")
    await catalog.model("100%_mix", family="Mistral", type="embedding", vram_required_gb=24)
    queries: list[tuple[dict[str, Any], list[str]]] = [
        ({"family": "Llama"}, ["llama-70b", "llama-8b"]),
        ({"family": "llama"}, []),
        ({"type": "embedding"}, ["100%_mix"]),
        ({"status": "beta"}, ["llama-70b"]),
        ({"min_vram": 24}, ["100%_mix", "llama-70b"]),
        ({"min_vram": 17, "max_vram": 79}, ["100%_mix"]),
        ({"search": "LLAMA-7"}, ["llama-70b"]),
        ({"search": "mistr"}, ["100%_mix"]),
        ({"search": "%_"}, ["100%_mix"]),
        ({"search": "_8b"}, []),
    ]
    for query, names in queries:
        found = await _models(catalog, **query)
        assert [m.name for m in found.data] == names, query
        assert found.pagination.total == len(names)


@pytest.mark.parametrize(
    ("query", "reason", "field"),
    [
        ({"type": "image"}, "UNKNOWN_ENUM", "type"),
        ({"status": "x"}, "UNKNOWN_ENUM", "status"),
        ({"sort_by": "size"}, "UNKNOWN_ENUM", "sort_by"),
        ({"sort_order": "up"}, "UNKNOWN_ENUM", "sort_order"),
        ({"limit": 101}, "OUT_OF_RANGE", "limit"),
        ({"limit": 0}, "OUT_OF_RANGE", "limit"),
        ({"offset": -1}, "OUT_OF_RANGE", "offset"),
        ({"min_vram": -1}, "OUT_OF_RANGE", "min_vram"),
        ({"search": "\x00"}, "INVALID_FIELD", "search"),
    ],
)
async def test_malformed_query_is_refused_by_field(
    catalog: Catalog, query: dict[str, Any], reason: str, field: str
) -> None:
    """No value is clamped, defaulted or dropped."""
    async with refused(reason, field=field):
        await _models(catalog, **query)


async def test_flat_lists_are_bare_arrays_with_the_total_in_a_header(catalog: Catalog) -> None:
    """Every documented member, null where absent; the envelope on request."""
    region, made = await catalog.region(), await catalog.type(price_per_hour=0.1)
    await catalog.region("us-west-2")
    call = catalog.regions.ListRegionsFlat(region_pb2.ListRegionsRequest(limit=1), metadata=ADMIN)
    body = orjson.loads((await call).data)
    assert (await call.initial_metadata())["x-total-count"] == "2"
    assert [item["id"] for item in body] == [region.id]
    assert set(body[0]) == {field.name for field in region.DESCRIPTOR.fields}
    assert (body[0]["max_nodes"], body[0]["metadata"]) == (None, {})
    assert body[0]["created_at"].endswith("Z")

    answer = await catalog.types.ListInstanceTypesFlat(
        instance_type_pb2.ListInstanceTypesRequest(envelope=True), metadata=ADMIN
    )
    wrapped = orjson.loads(answer.data)
    assert [item["id"] for item in wrapped["data"]] == [made.id]
    assert wrapped["data"][0]["price_per_hour"] == 0.1
    assert wrapped["data"][0]["spot_price_per_hour"] is None
    assert wrapped["pagination"] == {
        "total": 1,
        "limit": 1000,
        "offset": 0,
        "has_more": False,
        "next_page_token": "",
    }
