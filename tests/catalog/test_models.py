"""Models: every call, and every refusal."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from spotplane.v1 import model_pb2

from tests.catalog.world import Catalog
from tests.support.plane import ADMIN, Tenant, bearer, refused


async def test_new_model_has_the_documented_defaults(catalog: Catalog) -> None:
    """Active and free; its name may contain a slash."""
    model = await catalog.model("meta/llama-3 8b")
    assert (model.name, model.status) == ("meta/llama-3 8b", "active")
    assert (model.price_input_per_million, model.price_output_per_million) == (0.0, 0.0)
    absent: tuple[Any, ...] = (
        "price_cached_input_per_million",
        "size",
        "tokens_per_second_capacity",
    )
    assert not any(model.HasField(name) for name in absent)
    found = await catalog.models.GetModel(
        model_pb2.GetModelRequest(id=model.id.upper()), metadata=ADMIN
    )
    assert found == model


async def test_creating_answers_201(catalog: Catalog) -> None:
    """The REST doors are told so."""
    call = catalog.models.CreateModel(
        model_pb2.CreateModelRequest(
            name="m", family="f", type="chat", context_length=1, vram_required_gb=1
        ),
        metadata=ADMIN,
    )
    await call
    assert (await call.initial_metadata())["x-spotplane-http-status"] == "201"


async def test_prices_are_kept_exactly_and_remembered(catalog: Catalog) -> None:
    """As decimal text; cached tokens cost what input costs unless said otherwise."""
    model = await catalog.model(price_input_per_million=0.6, price_output_per_million=0.000001)
    assert (model.price_input_per_million, model.price_output_per_million) == (0.6, 0.000001)
    assert await catalog.history(model.id) == [
        {"input": "0.6", "cached": "0.6", "output": "0.000001"}
    ]
    other = await catalog.model(
        "other", price_input_per_million=1, price_cached_input_per_million=0
    )
    assert await catalog.history(other.id) == [{"input": "1", "cached": "0", "output": "0"}]


@pytest.mark.parametrize(
    ("members", "reason", "field"),
    [
        ({"name": ""}, "MISSING_FIELD", "name"),
        ({"name": "x" * 256}, "OUT_OF_RANGE", "name"),
        ({"family": ""}, "MISSING_FIELD", "family"),
        ({"type": "image"}, "UNKNOWN_ENUM", "type"),
        ({"type": ""}, "MISSING_FIELD", "type"),
        ({"context_length": 0}, "MISSING_FIELD", "context_length"),
        ({"context_length": -1}, "OUT_OF_RANGE", "context_length"),
        ({"vram_required_gb": 0}, "MISSING_FIELD", "vram_required_gb"),
        ({"price_input_per_million": -1}, "OUT_OF_RANGE", "price_input_per_million"),
        ({"price_output_per_million": 0.1234567}, "OUT_OF_RANGE", "price_output_per_million"),
        ({"tokens_per_second_capacity": 0}, "OUT_OF_RANGE", "tokens_per_second_capacity"),
        ({"status": "old"}, "UNKNOWN_ENUM", "status"),
    ],
)
async def test_malformed_model_is_refused_by_field(
    catalog: Catalog, members: dict[str, Any], reason: str, field: str
) -> None:
    """The refusal names what is at fault, and nothing is stored."""
    async with refused(reason, field=field):
        await catalog.model(**members)
    assert await catalog.trail() == ([], [])


async def test_name_is_unique(catalog: Catalog) -> None:
    """Whatever the family."""
    await catalog.model("same")
    async with refused("MODEL_NAME_TAKEN"):
        await catalog.model("same", family="Other")


async def test_path_ids_are_checked_and_looked_up(catalog: Catalog) -> None:
    """Malformed: 400; unknown or deleted: 404; the second deletion too."""
    gone = await catalog.model()
    await catalog.delete_model(gone.id)
    for call in (catalog.get_model, catalog.delete_model):
        async with refused("INVALID_ID", field="id"):
            await call("r2")
        for unknown in (str(uuid4()), gone.id):
            async with refused("MODEL_NOT_FOUND"):
                await call(unknown)
    async with refused("INVALID_ID", field="id"):
        await catalog.change_model("nonsense", family="f")
    async with refused("MODEL_NOT_FOUND"):
        await catalog.change_model(gone.id, family="f")


async def test_update_changes_what_was_sent(catalog: Catalog) -> None:
    """The rest stays; any member may be sent."""
    model = await catalog.model(size="8B", metadata={"a": 1}, price_input_per_million=0.1)
    after = await catalog.change_model(model.id, name=" renamed/8b ", status="deprecated")
    assert (after.name, after.status, after.size) == ("renamed/8b", "deprecated", "8B")
    assert (after.price_input_per_million, after.metadata) == (0.1, model.metadata)
    everything: dict[str, Any] = {
        "name": "all",
        "family": "Mistral",
        "type": "embedding",
        "context_length": 1,
        "vram_required_gb": 2,
        "price_input_per_million": 0.0,
        "price_cached_input_per_million": 0.5,
        "price_output_per_million": 3.000001,
        "size": "9B",
        "tokens_per_second_capacity": 7,
        "status": "beta",
    }
    changed = await catalog.change_model(model.id, **everything, metadata={"b": [2]})
    assert {name: getattr(changed, name) for name in everything} == everything
    assert list(changed.metadata) == ["b"]
    assert await catalog.get_model(model.id) == changed
    assert changed.created_at == model.created_at


@pytest.mark.parametrize(
    ("members", "reason", "field"),
    [
        ({}, "NO_FIELDS", None),
        ({"name": " "}, "MISSING_FIELD", "name"),
        ({"family": "x" * 101}, "OUT_OF_RANGE", "family"),
        ({"type": ""}, "MISSING_FIELD", "type"),
        ({"type": "image"}, "UNKNOWN_ENUM", "type"),
        ({"context_length": 0}, "MISSING_FIELD", "context_length"),
        ({"vram_required_gb": -1}, "OUT_OF_RANGE", "vram_required_gb"),
        ({"price_input_per_million": -0.1}, "OUT_OF_RANGE", "price_input_per_million"),
        (
            {"price_cached_input_per_million": 1e9},
            "OUT_OF_RANGE",
            "price_cached_input_per_million",
        ),
        ({"price_output_per_million": 0.0000001}, "OUT_OF_RANGE", "price_output_per_million"),
        ({"size": ""}, "MISSING_FIELD", "size"),
        ({"tokens_per_second_capacity": 0}, "OUT_OF_RANGE", "tokens_per_second_capacity"),
        ({"status": "gone"}, "UNKNOWN_ENUM", "status"),
        ({"metadata": {"a": "x" * 16_400}}, "OUT_OF_RANGE", "metadata"),
    ],
)
async def test_malformed_update_is_refused_by_field(
    catalog: Catalog, members: dict[str, Any], reason: str, field: str | None
) -> None:
    """With the reasons that creating has; nothing of it is stored."""
    model = await catalog.model()
    good = {"metadata": {"new": 1}} if members and "metadata" not in members else {}
    async with refused(reason, field=field):
        await catalog.change_model(model.id, **good, **members)
    assert await catalog.get_model(model.id) == model


async def test_name_cannot_be_taken_by_a_change(catalog: Catalog) -> None:
    """Its own name may be repeated."""
    await catalog.model("one")
    other = await catalog.model("other")
    async with refused("MODEL_NAME_TAKEN"):
        await catalog.change_model(other.id, name="one", family="F")
    assert await catalog.get_model(other.id) == other
    assert (await catalog.change_model(other.id, name="other", family="F")).family == "F"


async def test_history_grows_with_a_price_and_with_nothing_else(catalog: Catalog) -> None:
    """Cached tokens follow the input price until they have their own."""
    model = await catalog.model(price_input_per_million=1)
    await catalog.change_model(model.id, family="F", price_input_per_million=1)
    await catalog.change_model(model.id, price_input_per_million=2)
    await catalog.change_model(model.id, price_cached_input_per_million=0.5)
    await catalog.change_model(model.id, price_input_per_million=3)
    assert await catalog.history(model.id) == [
        {"input": "1", "cached": "1", "output": "0"},
        {"input": "2", "cached": "2", "output": "0"},
        {"input": "2", "cached": "0.5", "output": "0"},
        {"input": "3", "cached": "0.5", "output": "0"},
    ]


async def test_deleted_model_is_gone_and_its_name_is_free(catalog: Catalog) -> None:
    """From every list; the new model of that name is another one."""
    model = await catalog.model("same")
    call = catalog.models.DeleteModel(model_pb2.DeleteModelRequest(id=model.id), metadata=ADMIN)
    await call
    assert (await call.initial_metadata())["x-spotplane-http-status"] == "204"
    tenant = await catalog.plane.tenant()
    everywhere = [
        (await catalog.models.ListModels(model_pb2.ListModelsRequest(), metadata=ADMIN)).data,
        (await catalog.search()).data,
        (await _launchable(catalog)).models,
        (await _public(catalog, tenant)).data,
    ]
    assert everywhere == [[]] * 4
    async with refused("MODEL_NOT_FOUND"):
        await _named(catalog, tenant, "same")
    again = await catalog.model("same")
    assert again.id != model.id


async def test_search_finds_what_all_filters_hold_for(catalog: Catalog) -> None:
    """Text in name, family, and metadata at any depth, whatever its case; lists are any-of."""
    await catalog.model("llama-8b", metadata={"tags": [{"Vision": "No \u00e9"}], "n": 4096})
    await catalog.model("llama-70b", context_length=131072, price_input_per_million=0.6)
    await catalog.model("mix_100%", family="Mistral", type="completion")
    await catalog.model("embed", family="BGE", type="embedding", price_input_per_million=0.1)
    queries: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["embed", "llama-70b", "llama-8b", "mix_100%"]),
        ({"q": " LLAMA-7 "}, ["llama-70b"]),
        ({"q": "bge"}, ["embed"]),
        ({"q": "vISION"}, ["llama-8b"]),
        ({"q": "NO \u00c9"}, ["llama-8b"]),
        ({"q": "409"}, ["llama-8b"]),
        ({"q": "%"}, ["mix_100%"]),
        ({"q": '{"'}, []),
        ({"families": "Mistral, BGE"}, ["embed", "mix_100%"]),
        ({"families": "mistral"}, []),
        ({"types": "embedding,completion"}, ["embed", "mix_100%"]),
        ({"min_context_length": 8193}, ["llama-70b"]),
        ({"max_price_input": 0.1}, ["embed", "llama-8b", "mix_100%"]),
        ({"max_price_input": 0.0, "types": "chat", "q": "b"}, ["llama-8b"]),
    ]
    for query, names in queries:
        found = await catalog.search(**query)
        assert [m.name for m in found.data] == names, query
        assert found.pagination.total == len(names), query
        assert found.query == query.get("q", "").strip()


async def test_search_pages_as_in_one(catalog: Catalog) -> None:
    """By token and by offset, and a token serves its own search only."""
    for i in range(5):
        await catalog.model(f"m-{i}")
    whole = [m.name for m in (await catalog.search(q="m")).data]
    first = await catalog.search(q="m", limit=2)
    token = first.pagination.next_page_token
    second = await catalog.search(q="m", limit=2, page_token=token)
    third = await catalog.search(q="m", limit=2, offset=4)
    assert [m.name for page in (first, second, third) for m in page.data] == whole
    assert (third.pagination.has_more, third.pagination.total) == (False, 5)
    async with refused("INVALID_PAGE_TOKEN", field="page_token"):
        await catalog.search(q="n", limit=2, page_token=token)


@pytest.mark.parametrize(
    ("query", "reason", "field"),
    [
        ({"q": "x" * 256}, "OUT_OF_RANGE", "q"),
        ({"families": "a,,b"}, "MISSING_FIELD", "families"),
        ({"types": "chat,image"}, "UNKNOWN_ENUM", "types"),
        ({"types": ""}, "MISSING_FIELD", "types"),
        ({"min_context_length": -1}, "OUT_OF_RANGE", "min_context_length"),
        ({"max_price_input": -1}, "OUT_OF_RANGE", "max_price_input"),
        ({"max_price_input": 0.0000001}, "OUT_OF_RANGE", "max_price_input"),
        ({"limit": 101}, "OUT_OF_RANGE", "limit"),
    ],
)
async def test_malformed_search_is_refused_by_field(
    catalog: Catalog, query: dict[str, Any], reason: str, field: str
) -> None:
    """No value is clamped, defaulted or dropped."""
    async with refused(reason, field=field):
        await catalog.search(**query)


async def test_launch_form_lists_what_is_not_deprecated(catalog: Catalog) -> None:
    """By name, with what a launch needs to know."""
    b, a = await catalog.model("b", size="8B"), await catalog.model("a", status="beta")
    await catalog.model("old", status="deprecated")
    answer = await _launchable(catalog)
    assert answer.count == 2
    assert [m.id for m in answer.models] == [a.id, b.id]
    shown = answer.models[1]
    fields = [field.name for field in shown.DESCRIPTOR.fields]
    assert {f: getattr(shown, f) for f in fields} == {f: getattr(b, f) for f in fields}
    assert not answer.models[0].HasField("size")


async def test_tenants_see_all_models_by_name(catalog: Catalog) -> None:
    """In the form of OpenAI's API, with keys of every role; the time of creation is constant."""
    model = await catalog.model("meta/llama-3 8b")
    await catalog.model("old", status="deprecated")
    tenant = await catalog.plane.tenant()
    before = await _named(catalog, tenant, "meta/llama-3 8b")
    await catalog.change_model(model.id, family="F")
    for role in ("read_only", "developer", "admin", "agent"):
        key = await catalog.plane.key(tenant.id, role=role)
        answer = await catalog.models.ListPublicModels(
            model_pb2.ListPublicModelsRequest(), metadata=bearer(key.key)
        )
        assert answer.object == "list"
        assert [m.id for m in answer.data] == ["meta/llama-3 8b", "old"]
        assert answer.data[0] == before
    assert (before.object, before.owned_by) == ("model", "spotplane")
    assert before.created == model.created_at.seconds


async def test_tenants_ask_for_a_model_by_its_whole_name(catalog: Catalog) -> None:
    """An unknown name is 404, none at all 400."""
    await catalog.model("meta/llama")
    tenant = await catalog.plane.tenant()
    for name in ("meta", "llama", "META/llama", str(uuid4())):
        async with refused("MODEL_NOT_FOUND"):
            await _named(catalog, tenant, name)
    async with refused("MISSING_FIELD", field="model"):
        await _named(catalog, tenant, "")


async def test_tenants_may_not_touch_the_catalogue(catalog: Catalog) -> None:
    """Not even with an admin key of theirs; nor may administrators ask as if they were tenants."""
    tenant = await catalog.plane.tenant()
    calls: list[Any] = [
        catalog.models.SearchModels(model_pb2.SearchModelsRequest(), metadata=tenant.metadata),
        catalog.models.UpdateModel(
            model_pb2.UpdateModelRequest(id=str(uuid4()), name="n"), metadata=tenant.metadata
        ),
        catalog.models.DeleteModel(
            model_pb2.DeleteModelRequest(id=str(uuid4())), metadata=tenant.metadata
        ),
        catalog.models.ListLaunchableModels(
            model_pb2.ListLaunchableModelsRequest(), metadata=tenant.metadata
        ),
    ]
    for call in calls:
        async with refused("ADMIN_TOKEN_MISSING"):
            await call
    for request in (
        catalog.models.ListPublicModels(model_pb2.ListPublicModelsRequest(), metadata=ADMIN),
        catalog.models.ListEndpoints(model_pb2.ListEndpointsRequest(), metadata=ADMIN),
    ):
        async with refused("SCOPE_FORBIDDEN"):
            await request


async def _launchable(catalog: Catalog) -> model_pb2.ListLaunchableModelsResponse:
    answer: model_pb2.ListLaunchableModelsResponse = await catalog.models.ListLaunchableModels(
        model_pb2.ListLaunchableModelsRequest(), metadata=ADMIN
    )
    return answer


async def _public(catalog: Catalog, tenant: Tenant) -> model_pb2.ListPublicModelsResponse:
    answer: model_pb2.ListPublicModelsResponse = await catalog.models.ListPublicModels(
        model_pb2.ListPublicModelsRequest(), metadata=tenant.metadata
    )
    return answer


async def _named(catalog: Catalog, tenant: Tenant, name: str) -> model_pb2.PublicModel:
    answer: model_pb2.PublicModel = await catalog.models.GetPublicModel(
        model_pb2.GetPublicModelRequest(model=name), metadata=tenant.metadata
    )
    return answer
