"""Nodes drain, are warned, leave, and are missed."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Any
from uuid import uuid4

from spotplane.v1 import node_pb2 as pb

from tests.nodes.world import Nodes
from tests.support.clock import FakeClock
from tests.support.plane import ADMIN, refused


async def _drain(nodes: Nodes, node_id: str, **members: Any) -> str:
    who = members.pop("who", ADMIN)
    answer = await nodes.stub.DrainNode(pb.DrainNodeRequest(id=node_id, **members), metadata=who)
    return str(answer.status)


async def _warn(nodes: Nodes, node_id: str, **members: Any) -> str:
    request = pb.NodeReportTerminationRequest(id=node_id, **members)
    return str((await nodes.stub.ReportTermination(request, metadata=ADMIN)).status)


async def _leave(nodes: Nodes, node_id: str) -> str:
    request = pb.DeregisterNodeRequest(id=node_id)
    return str((await nodes.stub.DeregisterNode(request, metadata=ADMIN)).status)


async def test_every_step_may_be_repeated_and_is_told_once(nodes: Nodes, clock: FakeClock) -> None:
    """Warned, drained, gone: one event and one audit row each."""
    node_id = (await nodes.register("n-1")).node_id
    deadline = clock.now() + timedelta(seconds=90)
    for _ in range(2):
        assert await _warn(nodes, node_id, deadline=deadline.isoformat()) == "received"
        assert await _warn(nodes, node_id) == "received"  # says nothing new
    warned = await nodes.get("n-1")
    for _ in range(2):
        assert await _drain(nodes, node_id) == "draining"
    for _ in range(2):
        assert await _leave(nodes, node_id) == "deregistered"

    assert warned.status == "draining"
    assert warned.termination_deadline.ToDatetime(tzinfo=UTC) == deadline
    gone = await nodes.get("n-1")
    assert (gone.status, gone.HasField("terminated_at")) == ("dead", True)
    assert await nodes.told(node_id) == ["registered", "termination_warning", "terminated"]
    assert await nodes.audited(node_id) == [
        "node.register",
        "node.termination_warning",
        "node.deregister",
    ]
    for call in (_drain, _warn):
        async with refused("NODE_NOT_FOUND"):
            await call(nodes, node_id)
    async with refused("NODE_NOT_FOUND"):
        await nodes.beat(node_id)
    assert (await nodes.register("n-1")).node_id == node_id
    assert await nodes.status("n-1") == "active"


async def test_what_is_wrong_or_anothers_is_refused(nodes: Nodes) -> None:
    """By field; another tenant's node is not there."""
    one, two = await nodes.plane.tenant(), await nodes.plane.tenant()
    mine, theirs = await nodes.agent_key(one.id), await nodes.agent_key(two.id)
    node_id = (await nodes.register("n-1", mine)).node_id
    calls = (
        (nodes.stub.DrainNode, pb.DrainNodeRequest),
        (nodes.stub.ReportTermination, pb.NodeReportTerminationRequest),
        (nodes.stub.DeregisterNode, pb.DeregisterNodeRequest),
    )
    for call, request in calls:
        for named, reason in ((node_id, "NODE_NOT_FOUND"), ("7", "INVALID_ID")):
            async with refused(reason):
                await call(request(id=named), metadata=theirs)
        async with refused("NODE_NOT_FOUND"):
            await call(request(id=str(uuid4())), metadata=ADMIN)
        async with refused("OUT_OF_RANGE", field="reason"):
            await call(request(id=node_id, reason="x" * 501), metadata=ADMIN)
    async with refused("INVALID_DATE", field="deadline"):
        await _warn(nodes, node_id, deadline="soon")
    async with refused("SEMANTIC", field="deadline"):
        await _warn(nodes, node_id, deadline="2999-01-01T00:00:00Z")
    assert await nodes.status("n-1") == "active"
    assert await _drain(nodes, node_id, who=mine) == "draining"


async def test_clouds_announce_an_end_each_in_its_own_time(nodes: Nodes, clock: FakeClock) -> None:
    """Two minutes on AWS, half a minute elsewhere, where the agent does not say."""
    for provider, seconds in (("aws", 120), ("azure", 30)):
        node_id = (await nodes.register(provider, provider=provider)).node_id
        before = clock.now()
        await _warn(nodes, node_id)
        deadline = (await nodes.get(provider)).termination_deadline.ToDatetime(tzinfo=UTC)
        notice = timedelta(seconds=seconds)
        assert before + notice <= deadline <= clock.now() + notice


async def test_a_silent_node_is_missed_step_by_step(nodes: Nodes, clock: FakeClock) -> None:
    """Suspect, unhealthy, dead; a heartbeat in between brings it back."""
    node_id = (await nodes.register("n-1")).node_id
    seen = []
    for seconds in (10, 21):
        clock.advance(timedelta(seconds=seconds))
        await nodes.silence()
        seen.append(await nodes.status("n-1"))
    await nodes.beat(node_id)
    for seconds in (31, 60, 210):
        clock.advance(timedelta(seconds=seconds))
        await nodes.silence()
        seen.append(await nodes.status("n-1"))

    assert seen == ["active", "suspect", "suspect", "unhealthy", "dead"]
    assert await nodes.told(node_id) == [
        "registered",
        "health_degraded",
        "health_changed",
        "health_degraded",
        "health_degraded",
        "terminated",
    ]


async def test_a_silent_machine_of_ours_is_ended(nodes: Nodes, clock: FakeClock) -> None:
    """It costs money, alive or not."""
    made = await nodes.launch()
    [work] = await nodes.lease()
    await nodes.report(work, machine_id="i-1")
    await nodes.register(made.cluster_name)
    clock.advance(timedelta(seconds=301))
    await nodes.silence()
    assert await nodes.status(made.cluster_name) == "terminating"
    [cleanup] = await nodes.lease()
    assert (cleanup.kind, cleanup.machine_id) == ("terminate", "i-1")


async def test_a_node_that_came_by_itself_is_ended_by_its_agents_silence(
    nodes: Nodes, clock: FakeClock
) -> None:
    """Nothing else can be done about it from here."""
    node_id = (await nodes.register("n-1")).node_id
    await nodes.terminate("n-1")
    await nodes.silence()
    assert await nodes.status("n-1") == "terminating"
    await nodes.beat(node_id)
    clock.advance(timedelta(seconds=31))
    await nodes.silence()
    assert await nodes.status("n-1") == "dead"
    assert await nodes.told(node_id) == ["registered", "draining", "terminated"]


async def test_an_instance_of_the_fleet_is_not_ended_here(nodes: Nodes) -> None:
    """Its own service asks for consent first; what is nobody's is unknown."""
    from spotplane_server.kernel.db.database import ALL_TENANTS

    from tests.catalog.world import put_instance

    tenant = await nodes.plane.tenant()
    async with nodes.plane.db.connection(ALL_TENANTS) as conn:
        await put_instance(conn, tenant.id)
    listed = await nodes.stub.ListNodes(pb.ListNodesRequest(), metadata=ADMIN)
    for name in (listed.data[0].cluster_name, "nobody"):
        async with refused("NODE_NOT_FOUND"):
            await nodes.terminate(name)
