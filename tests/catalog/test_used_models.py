"""What was used keeps its price and its name, whatever becomes of the model."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from spotplane.v1 import usage_pb2, usage_pb2_grpc

from tests.catalog.world import Catalog
from tests.support.plane import Plane, Tenant


async def test_new_price_holds_for_what_is_used_from_then_on(
    catalog: Catalog, plane: Plane
) -> None:
    """A record that comes late costs what it would have cost in time."""
    model, tenant = await catalog.model(price_input_per_million=1), await plane.tenant()
    before = datetime.now(UTC)
    await catalog.change_model(model.id, price_input_per_million=5)

    await _use(plane, tenant, model.name, "late", before)
    late = await _rows(plane, tenant)
    await _use(plane, tenant, model.name, "now", datetime.now(UTC))
    both = await _rows(plane, tenant)

    assert [row.cost_nanos for row in late] == [1000 * 1000]
    assert [row.cost_nanos for row in both] == [1000 * (1000 + 5000)]


async def test_usage_keeps_the_name_of_a_deleted_model(catalog: Catalog, plane: Plane) -> None:
    """Also when another model has that name, which is a line of its own."""
    model, tenant = await catalog.model(price_input_per_million=1), await plane.tenant()
    await _use(plane, tenant, model.name, "old", datetime.now(UTC))
    await catalog.delete_model(model.id)
    again = await catalog.model(model.name, family="Other", price_input_per_million=2)
    await _use(plane, tenant, model.name, "new", datetime.now(UTC))

    found = {row.model_id: row for row in await _rows(plane, tenant)}

    assert {i: (row.model_name, row.family) for i, row in found.items()} == {
        model.id: (model.name, "Llama"),
        again.id: (model.name, "Other"),
    }
    assert [found[i].cost_nanos for i in (model.id, again.id)] == [1_000_000, 2_000_000]


async def _use(plane: Plane, tenant: Tenant, model: str, request_id: str, at: datetime) -> None:
    """Record a thousand prompt tokens."""
    record = usage_pb2.UsageRecord(
        request_id=request_id,
        model=model,
        timestamp=at.isoformat(),
        prompt_tokens=1000,
        completion_tokens=0,
    )
    stub = plane.stub(usage_pb2_grpc.UsageServiceStub)
    answer = await stub.IngestUsageBatch(
        usage_pb2.IngestUsageBatchRequest(records=[record]), metadata=tenant.metadata
    )
    assert answer.accepted == 1, answer


async def _rows(plane: Plane, tenant: Tenant) -> list[Any]:
    stub = plane.stub(usage_pb2_grpc.UsageServiceStub)
    answer = await stub.ListUsageByModel(
        usage_pb2.ListUsageByModelRequest(), metadata=tenant.metadata
    )
    return list(answer.data)
