"""Models as they are served, and kept while they are."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import grpc
import pytest
from spotplane.v1 import model_pb2, node_pb2, node_pb2_grpc
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.catalog.test_races import outcomes, somebody_waits
from tests.catalog.world import Catalog, put_node
from tests.support.plane import ADMIN, Plane, Tenant, bearer, refusal, refused

# What whoever launches does first, in the transaction that stores the node.
_HOLD_MODEL = "SELECT id FROM models WHERE name = $1 AND deleted_at IS NULL FOR KEY SHARE"
_END_NODES = "UPDATE nodes SET status = 'dead'"


async def test_endpoint_counts_what_serves_the_model(catalog: Catalog, plane: Plane) -> None:
    """Healthy: active with a health of at least 50; ending and dead nodes are none."""
    model = await catalog.model("meta/llama", size="8B", tokens_per_second_capacity=100)
    other, tenant = await catalog.model("other"), await plane.tenant()
    nodes: list[tuple[str, float]] = [
        ("active", 50),
        ("active", 100),
        ("active", 49.99),
        ("degraded", 90),
        ("launching", 0),
        ("draining", 90),
        ("terminating", 90),
        ("dead", 90),
    ]
    async with plane.db.transaction(ALL_TENANTS) as conn:
        for status, health in nodes:
            await put_node(conn, model.id, status=status, health=health)
        await put_node(conn, other.id)

    found = await _endpoint(catalog, tenant, "meta/llama")

    assert (found.healthy_nodes, found.total_nodes, found.capacity_tps) == (2, 6, 200)
    assert (found.model_id, found.family, found.type) == (model.id, "Llama", "chat")
    assert found.description == "Llama 8B, chat, 8192 tokens"
    assert (await _endpoint(catalog, tenant, "other")).capacity_tps == 0


async def test_tenants_own_nodes_serve_that_tenant_only(catalog: Catalog, plane: Plane) -> None:
    """The operator's serve all."""
    model = await catalog.model(tokens_per_second_capacity=2**31 - 1)
    tenant, other = await plane.tenant(), await plane.tenant()
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await put_node(conn, model.id)
        await put_node(conn, model.id, tenant_id=tenant.id)

    counts = [
        (found.healthy_nodes, found.capacity_tps)
        for found in [await _endpoint(catalog, who, model.name) for who in (tenant, other)]
    ]

    # A capacity is cut at the end of its field's range.
    assert counts == [(2, 2**31 - 1), (1, 2**31 - 1)]


async def test_endpoints_are_all_models_by_name(catalog: Catalog, plane: Plane) -> None:
    """Also those that nothing serves; of one type when that is asked for."""
    await catalog.model("b", price_input_per_million=0.05, price_output_per_million=0.000001)
    await catalog.model("a", type="embedding", metadata={"description": "Finds things."})
    gone = await catalog.model("c")
    await catalog.delete_model(gone.id)
    tenant = await plane.tenant(role="read_only")

    whole = await _endpoints(catalog, tenant)

    assert [e.model_name for e in whole] == ["a", "b"]
    assert whole[0].description == "Finds things."
    assert (whole[1].price_input_per_million, whole[1].price_output_per_million) == (0.05, 0.000001)
    assert (whole[1].healthy_nodes, whole[1].total_nodes, whole[1].capacity_tps) == (0, 0, 0)
    assert [e.model_name for e in await _endpoints(catalog, tenant, type="chat")] == ["b"]
    async with refused("UNKNOWN_ENUM", field="type"):
        await _endpoints(catalog, tenant, type="image")


async def test_endpoint_refusals(catalog: Catalog, plane: Plane) -> None:
    """An unknown name is 404, none is 400, and an agent's key may not ask."""
    tenant = await plane.tenant()
    async with refused("MODEL_NOT_FOUND"):
        await _endpoint(catalog, tenant, "none/such")
    async with refused("MISSING_FIELD", field="model"):
        await _endpoint(catalog, tenant, " ")
    agent = await plane.key(tenant.id, role="agent")
    async with refused("ROLE_FORBIDDEN"):
        await catalog.models.ListEndpoints(
            model_pb2.ListEndpointsRequest(), metadata=bearer(agent.key)
        )


async def test_model_in_use_is_not_deleted(catalog: Catalog, plane: Plane) -> None:
    """Live nodes of whomever are counted; ending ones and those of other models are not."""
    model, other = await catalog.model(), await catalog.model("other")
    tenant = await plane.tenant()
    async with plane.db.transaction(ALL_TENANTS) as conn:
        for status in ("launching", "unhealthy", "terminating", "dead"):
            await put_node(conn, model.id, status=status)
        await put_node(conn, model.id, tenant_id=tenant.id)
    before = await catalog.trail()

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await catalog.delete_model(model.id)

    said = refusal(raised.value)
    assert (said.reason, said.http_status) == ("MODEL_IN_USE", 409)
    assert said.metadata["node_count"] == "3"
    assert await catalog.trail() == before
    await catalog.delete_model(other.id)
    async with plane.db.transaction(ALL_TENANTS) as conn:
        await conn.execute(_END_NODES)
    await catalog.delete_model(model.id)


async def test_deleting_a_model_waits_for_a_launch_and_counts_it(
    catalog: Catalog, plane: Plane
) -> None:
    """The launch held the model first, so it wins."""
    model = await catalog.model()
    async with plane.db.transaction(ALL_TENANTS) as launch:
        assert await launch.fetchval(_HOLD_MODEL, model.name)
        await put_node(launch, model.id, status="launching")
        deletion = asyncio.ensure_future(outcomes([catalog.delete_model(model.id)]))
        await somebody_waits(plane)
    assert await deletion == {"MODEL_IN_USE": 1}


async def test_launches_and_deletions_of_models_never_both_win(
    catalog: Catalog, plane: Plane
) -> None:
    """Thirty rounds at once: a node lives only where its model does."""

    async def launch(name: str, model_id: str) -> bool:
        async with plane.db.transaction(ALL_TENANTS) as conn:
            if not await conn.fetchval(_HOLD_MODEL, name):
                return False
            await put_node(conn, model_id, status="launching")
            return True

    async def round_(i: int) -> None:
        model = await catalog.model(f"race-{i}")
        launched, outcome = await asyncio.gather(
            launch(model.name, model.id), outcomes([catalog.delete_model(model.id)])
        )
        assert outcome == ({"MODEL_IN_USE": 1} if launched else {"DeleteModelResponse": 1})

    await asyncio.gather(*(round_(i) for i in range(30)))


async def test_what_registers_while_its_model_is_deleted_finds_it_gone(
    catalog: Catalog, plane: Plane
) -> None:
    """It waits for the deletion, and is then refused as for a name that nobody had."""
    model = await catalog.model()
    nodes = plane.stub(node_pb2_grpc.NodeServiceStub)
    request = node_pb2.RegisterNodeRequest(
        provider="on-prem", endpoint_url="http://10.0.0.1:8000", model_name=model.name
    )
    async with plane.db.transaction(ALL_TENANTS) as deletion:
        await deletion.execute("SELECT id FROM models WHERE id = $1 FOR UPDATE", UUID(model.id))
        call = asyncio.ensure_future(outcomes([nodes.RegisterNode(request, metadata=ADMIN)]))
        await somebody_waits(plane)
        await deletion.execute("UPDATE models SET deleted_at = now() WHERE id = $1", UUID(model.id))
    assert await call == {"SEMANTIC": 1}


async def _endpoint(catalog: Catalog, tenant: Tenant, name: str) -> model_pb2.Endpoint:
    answer: model_pb2.Endpoint = await catalog.models.GetEndpoint(
        model_pb2.GetEndpointRequest(model=name), metadata=tenant.metadata
    )
    return answer


async def _endpoints(catalog: Catalog, tenant: Tenant, **query: Any) -> list[model_pb2.Endpoint]:
    answer = await catalog.models.ListEndpoints(
        model_pb2.ListEndpointsRequest(**query), metadata=tenant.metadata
    )
    return list(answer.data)
