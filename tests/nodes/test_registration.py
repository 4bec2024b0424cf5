"""Nodes make themselves known and are heard."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from spotplane.v1 import node_pb2 as pb
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.nodes.world import ENDPOINT, Nodes
from tests.support.clock import FakeClock
from tests.support.plane import ADMIN, refused


async def test_a_node_registers_once_and_is_updated_after(nodes: Nodes) -> None:
    """What it says is shown; what it does not say again stays."""
    made = await nodes.register(
        "n-1",
        region="us-east-1",
        model_name="llama-3-8b",
        instance_type="g5.xlarge",
        gpu_type="A10G",
        vram_total_gb=24,
        internal_ip="10.0.0.1",
        spot_instance=True,
        spot_price=0.302,
    )
    again = await nodes.register("n-1", endpoint_url="https://n-1.example.com/v1", gpu_type="L4")

    assert (made.status, again.status) == ("registered", "updated")
    assert made.node_id == again.node_id
    node = await nodes.get("n-1")
    assert (node.id, node.status, node.kind) == (made.node_id, "active", "node")
    assert (node.region, node.model, node.instance_type) == ("us-east-1", "llama-3-8b", "g5.xlarge")
    assert (node.endpoint_url, node.gpu_type) == ("https://n-1.example.com/v1", "L4")
    assert (node.vram_total_gb, node.spot_instance, node.spot_price) == (24, True, 0.302)
    assert node.health_score == 100
    assert await nodes.told(made.node_id) == ["registered", "registered"]
    assert await nodes.audited(made.node_id) == ["node.register", "node.register"]


async def test_a_name_is_generated_where_none_is_told(nodes: Nodes) -> None:
    """And is another one each time."""
    for _ in range(2):
        await nodes.register(provider="on-prem")
    listed = await nodes.stub.ListNodes(pb.ListNodesRequest(provider="on-prem"), metadata=ADMIN)
    names = {node.cluster_name for node in listed.data}
    assert len(names) == 2
    assert all(name.startswith("on-prem-") for name in names)


async def test_one_of_fifty_registrations_of_a_name_is_new(nodes: Nodes) -> None:
    """They all go by one id."""
    answers = await asyncio.gather(*(nodes.register("race") for _ in range(50)))
    assert Counter(a.status for a in answers) == {"registered": 1, "updated": 49}
    assert len({a.node_id for a in answers}) == 1


_WRONG: Final[tuple[tuple[dict[str, Any], str, str], ...]] = (
    ({"provider": ""}, "MISSING_FIELD", "provider"),
    ({"provider": "ibm"}, "UNKNOWN_ENUM", "provider"),
    ({"endpoint_url": " "}, "MISSING_FIELD", "endpoint_url"),
    ({"endpoint_url": "ftp://x"}, "INVALID_FIELD", "endpoint_url"),
    ({"endpoint_url": "http://[::1"}, "INVALID_FIELD", "endpoint_url"),
    ({"endpoint_url": "http://x:99999"}, "INVALID_FIELD", "endpoint_url"),
    ({"cluster_name": "a/b"}, "INVALID_ID", "cluster_name"),
    ({"cluster_name": ""}, "MISSING_FIELD", "cluster_name"),
    ({"region": "nowhere"}, "SEMANTIC", "region"),
    ({"region": "eastus"}, "SEMANTIC", "region"),
    ({"model_name": "none"}, "SEMANTIC", "model_name"),
    ({"instance_type": "none"}, "SEMANTIC", "instance_type"),
    ({"vram_total_gb": -1}, "OUT_OF_RANGE", "vram_total_gb"),
    ({"spot_price": 0.1234567}, "OUT_OF_RANGE", "spot_price"),
    ({"internal_ip": "10.0.0"}, "INVALID_FIELD", "internal_ip"),
    ({"status": "dead"}, "UNKNOWN_ENUM", "status"),
    ({"tenant_id": "7"}, "INVALID_ID", "tenant_id"),
)


async def test_a_registration_that_is_wrong_is_refused_by_field(nodes: Nodes) -> None:
    """And nothing of it is stored."""
    for members, reason, field in _WRONG:
        async with refused(reason, field=field):
            await nodes.register(**members)
    assert not await nodes.events()


async def test_another_tenants_node_is_not_there(nodes: Nodes) -> None:
    """Neither to register, nor to be heard; its own agents find it."""
    one, two = await nodes.plane.tenant(), await nodes.plane.tenant()
    mine, theirs = await nodes.agent_key(one.id), await nodes.agent_key(two.id)
    made = await nodes.register("n-1", mine)

    async with refused("NODE_NOT_FOUND"):
        await nodes.register("n-1", theirs)
    async with refused("NODE_NOT_FOUND"):
        await nodes.beat(made.node_id, who=theirs)
    async with refused("TENANT_MISMATCH"):
        await nodes.register("n-2", theirs, tenant_id=one.id)
    await nodes.beat(made.node_id, who=mine)

    assert (await nodes.get("n-1")).tenant_id == one.id
    assert {row["tenant_id"] for row in await nodes.events()} == {
        row["tenant_id"] for row in await nodes.events(made.node_id)
    }


async def test_the_operators_node_is_no_tenants(nodes: Nodes) -> None:
    """Once it runs, no key takes it over."""
    tenant = await nodes.plane.tenant()
    key = await nodes.agent_key(tenant.id)
    made = await nodes.register("n-1")
    async with refused("NODE_NOT_FOUND"):
        await nodes.register("n-1", key)
    async with refused("NODE_NOT_FOUND"):
        await nodes.beat(made.node_id, who=key)


async def test_heartbeats_move_a_node_by_its_score(nodes: Nodes) -> None:
    """Each move is one event, by the way it goes; the others are none."""
    made = await nodes.register("n-1", status="initializing")
    seen = []
    for score in (40, 50, 80, 80, 30, 10, 75):
        await nodes.beat(made.node_id, score)
        seen.append(await nodes.status("n-1"))

    assert seen == [
        "initializing",
        "initializing",
        "active",
        "active",
        "degraded",
        "unhealthy",
        "active",
    ]
    assert await nodes.told(made.node_id) == [
        "registered",
        "health_changed",
        "health_degraded",
        "health_degraded",
        "health_changed",
    ]
    assert (await nodes.get("n-1")).health_score == 75
    assert await nodes.audited(made.node_id) == ["node.register"]


async def test_a_heartbeat_that_was_overtaken_changes_nothing(
    nodes: Nodes, clock: FakeClock
) -> None:
    """By the node's own clock, where it tells the time."""
    made = await nodes.register("n-1")
    sent = clock.now()
    await nodes.beat(made.node_id, 80, timestamp=sent.isoformat())
    await nodes.beat(made.node_id, 10, timestamp=(sent - timedelta(seconds=1)).isoformat())
    node = await nodes.get("n-1")
    assert (node.status, node.health_score) == ("active", 80)


_WRONG_BEATS: Final[tuple[tuple[dict[str, Any], str, str | None], ...]] = (
    ({"id": "7", "health_score": 1}, "INVALID_ID", "id"),
    ({}, "MISSING_FIELD", "health_score"),
    ({"health_score": 100.01}, "OUT_OF_RANGE", "health_score"),
    ({"health_score": -1}, "OUT_OF_RANGE", "health_score"),
    ({"health_score": 1, "timestamp": "now"}, "INVALID_DATE", "timestamp"),
    ({"health_score": 1, "timestamp": "2999-01-01T00:00:00Z"}, "SEMANTIC", "timestamp"),
    ({"health_score": 1, "id": str(uuid4())}, "NODE_NOT_FOUND", None),
)


async def test_a_heartbeat_that_is_wrong_is_refused(nodes: Nodes) -> None:
    """By field; one of nobody's finds nothing."""
    made = await nodes.register("n-1")
    for members, reason, field in _WRONG_BEATS:
        async with refused(reason, field=field):
            await nodes.stub.Heartbeat(
                pb.NodeHeartbeatRequest(**({"id": made.node_id} | members)), metadata=ADMIN
            )


async def test_nodes_count_where_their_catalogue_is_in_use(nodes: Nodes) -> None:
    """Region and type cannot be deleted below a live node, and the region's room shows it."""
    await nodes.register("n-1", region="us-east-1", instance_type="g5.xlarge")
    async with refused("REGION_IN_USE"):
        await nodes.catalog.delete_region(nodes.region.id)
    async with refused("INSTANCE_TYPE_IN_USE"):
        await nodes.catalog.delete_type(nodes.type.id)
    room = (await nodes.catalog.availability(nodes.region.id)).quota_limits
    assert (room.current_nodes, room.available_quota) == (1, 99)

    async with nodes.plane.db.connection(ALL_TENANTS) as conn:
        await conn.execute("UPDATE nodes SET status = 'dead'")
    await nodes.catalog.delete_type(nodes.type.id)
    await nodes.catalog.delete_region(nodes.region.id)


async def test_a_dead_node_comes_back_without_what_it_does_not_name_anew(nodes: Nodes) -> None:
    """Its region, type and model could be deleted while it was dead, and two of them were."""
    made = await nodes.register(
        "n-1",
        region="us-east-1",
        model_name="llama-3-8b",
        instance_type="g5.xlarge",
        gpu_type="A10G",
    )
    async with nodes.plane.db.connection(ALL_TENANTS) as conn:
        await conn.execute("UPDATE nodes SET status = 'dead'")
    await nodes.catalog.delete_type(nodes.type.id)
    await nodes.catalog.delete_region(nodes.region.id)

    again = await nodes.register("n-1", model_name="llama-3-8b")

    node = await nodes.get("n-1")
    assert (again.node_id, node.status) == (made.node_id, "active")
    assert (node.HasField("region"), node.HasField("instance_type")) == (False, False)
    assert (node.model, node.gpu_type) == ("llama-3-8b", "A10G")
    async with refused("MODEL_IN_USE"):
        await nodes.catalog.delete_model(nodes.model.id)


async def test_the_list_shows_nodes_and_instances_by_state_provider_and_page(
    nodes: Nodes, clock: FakeClock
) -> None:
    """Newest first; the default is what serves or drains."""
    tenant = await nodes.plane.tenant()
    for number in range(3):
        clock.advance(timedelta(seconds=1))
        await nodes.register(f"n-{number}")
    await nodes.register("elsewhere", provider="gcp", status="initializing")
    async with nodes.plane.db.connection(ALL_TENANTS) as conn:
        from tests.catalog.world import put_instance

        await put_instance(
            conn, tenant.id, region_id=nodes.region.id, launched_at=clock.now(), status="zombie"
        )

    async def listed(**filters: Any) -> Any:
        return await nodes.stub.ListNodes(pb.ListNodesRequest(**filters), metadata=ADMIN)

    everything = await listed()
    states = Counter((node.kind, node.status) for node in everything.data)
    assert states == {("node", "active"): 3, ("instance", "draining"): 1}
    assert [n.cluster_name for n in (await listed(status="initializing")).data] == ["elsewhere"]
    assert not (await listed(provider="gcp")).data
    pages, token = [], None
    while token != "":
        page = await listed(limit=3, page_token=token)
        pages.append([node.id for node in page.data])
        token = page.pagination.next_page_token
    assert [len(page) for page in pages] == [3, 1]
    assert [*pages[0], *pages[1]] == [node.id for node in everything.data]
    [instance] = [node for node in everything.data if node.kind == "instance"]
    assert (await nodes.get(instance.cluster_name)).id == instance.id
    assert instance.tenant_id == tenant.id
    for bad in ({"status": "x"}, {"provider": "x"}, {"limit": 0}, {"limit": 101}):
        [field] = bad
        async with refused("OUT_OF_RANGE" if field == "limit" else "UNKNOWN_ENUM", field=field):
            await listed(**bad)


async def test_a_node_that_is_not_there_is_not_found(nodes: Nodes) -> None:
    """By its name and by what cannot be one."""
    async with refused("NODE_NOT_FOUND"):
        await nodes.get("none")
    async with refused("NODE_NOT_FOUND"):
        await nodes.status("none")
    async with refused("INVALID_ID", field="cluster_name"):
        await nodes.get("a b")
    assert (await nodes.register("n-1", endpoint_url=ENDPOINT)).status == "registered"
