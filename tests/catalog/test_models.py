"""Models: every call, and every refusal."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from spotplane.v1 import model_pb2

from tests.catalog.world import Catalog
from tests.support.plane import ADMIN, refused


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
    """Malformed: 400; unknown: 404."""
    async with refused("INVALID_ID", field="id"):
        await catalog.models.GetModel(model_pb2.GetModelRequest(id="r2"), metadata=ADMIN)
    async with refused("MODEL_NOT_FOUND"):
        await catalog.models.GetModel(model_pb2.GetModelRequest(id=str(uuid4())), metadata=ADMIN)
