"""Launches are durable jobs: leased, reported, completed by the node itself, and never doubled."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import grpc.aio
from spotplane.v1 import node_pb2 as pb
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.nodes.bells import Bells
from spotplane_server.nodes.jobs import OverdueJob

from tests.nodes.world import Nodes
from tests.support.clock import FakeClock
from tests.support.plane import ADMIN, refusal, refused


async def test_a_launch_goes_through_its_stages_until_its_node_is_active(
    nodes: Nodes, clock: FakeClock
) -> None:
    """Ordered, leased, reported; what registers under its name completes it."""
    made = await nodes.launch(use_spot=True)
    assert made.status == "launching"
    assert (await nodes.job(made.job_id)).stage == "queued"
    [work] = await nodes.lease()
    assert (work.kind, work.launch_id, work.cluster_name) == (
        "launch",
        made.job_id,
        made.cluster_name,
    )
    assert (work.region, work.instance_type, work.spot, work.model) == (
        "us-east-1",
        "g5.xlarge",
        True,
        "llama-3-8b",
    )
    clock.advance(timedelta(seconds=20))
    assert await nodes.report(work, phase="instance_ready", machine_id="i-1", message="it runs")
    assert await nodes.report(work, phase="provisioning")  # late, and ignored
    tenant = await nodes.plane.tenant()
    key = await nodes.agent_key(tenant.id)

    again = await nodes.register(made.cluster_name, key, status="initializing")
    await nodes.beat(made.node_id, 40, key)
    assert (await nodes.job(made.job_id)).status == "launching"
    await nodes.beat(made.node_id, 95, key)

    assert (again.status, again.node_id) == ("updated", made.node_id)
    job = await nodes.job(made.job_id)
    assert (job.status, job.stage, job.progress) == ("active", "active", 100)
    assert 20 <= job.elapsed < 60
    assert [stage.stage for stage in job.stages] == [
        "queued",
        "instance_ready",
        "model_loading",
        "health_check",
        "active",
    ]
    assert not await nodes.report(work)  # it may let go
    node = await nodes.get(made.cluster_name)
    assert (node.status, node.tenant_id, node.model) == ("active", tenant.id, "llama-3-8b")
    assert await nodes.told(made.node_id) == ["launched", "registered", "health_changed"]
    room = await nodes.catalog.availability(nodes.region.id)
    assert room.launch_samples == 1


async def test_a_lease_that_ran_out_is_given_to_the_next_and_fenced(
    nodes: Nodes, clock: FakeClock
) -> None:
    """While it lasts nobody else gets it; after that the former holder is told to drop it."""
    await nodes.launch()
    [first] = await nodes.lease("p-1")
    assert not await nodes.lease("p-2")
    clock.advance(timedelta(seconds=25))
    assert await nodes.report(first)
    clock.advance(timedelta(seconds=25))
    assert not await nodes.lease("p-2")
    clock.advance(timedelta(seconds=10))

    [second] = await nodes.lease("p-2")

    assert (second.id, second.attempt) == (first.id, 2)
    assert not await nodes.report(first, machine_id="i-late")
    assert not await nodes.report(first, "failed", message="too late")
    assert await nodes.report(second)


async def test_a_launch_that_fails_is_tried_again_and_given_up_after_five(
    nodes: Nodes, clock: FakeClock
) -> None:
    """With pauses that double; what it may have made is ended, and then the node is dead."""
    made = await nodes.launch()
    for number in range(1, 6):
        [work] = await nodes.lease()
        assert not await nodes.report(work, "failed", retryable=True, message="no capacity")
        if number < 5:
            assert not await nodes.lease()
            clock.advance(timedelta(seconds=2**number))

    job = await nodes.job(made.job_id)
    assert (job.status, job.stage, job.error) == ("failed", "failed", "no capacity")
    [cleanup] = await nodes.lease()
    assert (cleanup.kind, cleanup.launch_id) == ("terminate", made.job_id)
    assert await nodes.status(made.cluster_name) == "terminating"
    assert not await nodes.report(cleanup, "done")
    node = await nodes.get(made.cluster_name)
    assert (node.status, node.HasField("terminated_at")) == ("dead", True)
    assert await nodes.told(made.node_id) == ["launched", "terminated"]


async def test_a_launch_that_nobody_finishes_is_given_up(nodes: Nodes, clock: FakeClock) -> None:
    """After 30 minutes, whoever has it; one that nobody ever had leaves nothing to be ended."""
    begun, idle = await nodes.launch(), await nodes.launch()
    [work] = await nodes.lease()
    assert work.id == begun.job_id
    clock.advance(timedelta(minutes=31))
    bells = Bells(nodes.plane.server.kernel.wakeups, "node-work")
    await OverdueJob(nodes.plane.db, bells).run_once(clock.now())

    assert (
        (await nodes.job(begun.job_id)).status == (await nodes.job(idle.job_id)).status == "failed"
    )
    assert await nodes.status(begun.cluster_name) == "terminating"
    assert await nodes.status(idle.cluster_name) == "dead"
    assert not await nodes.report(work)


async def test_ending_a_node_cancels_its_launch_and_waits_for_its_holder(
    nodes: Nodes, clock: FakeClock
) -> None:
    """Its holder may be asking the cloud at this moment: the search begins once it has let go."""
    made = await nodes.launch()
    [work] = await nodes.lease()
    await nodes.terminate(made.cluster_name)
    await nodes.terminate(made.cluster_name)
    assert (await nodes.job(made.job_id)).status == "cancelled"
    assert not await nodes.lease("p-2")

    assert not await nodes.report(work)
    assert not await nodes.lease("p-2")
    assert not await nodes.report(work, "dropped", machine_id="i-7")

    [cleanup] = await nodes.lease("p-2")
    assert (cleanup.kind, cleanup.machine_id) == ("terminate", "i-7")
    assert not await nodes.report(cleanup, "failed", retryable=False, message="cloud away")
    clock.advance(timedelta(seconds=2))
    [cleanup] = await nodes.lease("p-2")  # an end is tried until it succeeds
    assert not await nodes.report(cleanup, "done", message="i-7 was ended")
    assert await nodes.status(made.cluster_name) == "dead"
    assert await nodes.audited(made.node_id) == ["node.launch", "node.terminate"]


async def test_a_launch_that_nobody_took_is_ended_at_once(nodes: Nodes) -> None:
    """There is nothing to look for; ending it again changes nothing."""
    made = await nodes.launch()
    await nodes.terminate(made.cluster_name)
    await nodes.terminate(made.cluster_name)
    assert await nodes.status(made.cluster_name) == "dead"
    assert not await nodes.lease()
    assert await nodes.told(made.node_id) == ["launched", "terminated"]


async def test_work_that_is_dropped_goes_to_the_next_at_once(nodes: Nodes) -> None:
    """It has not failed; what is known of its machine is told."""
    await nodes.launch()
    [work] = await nodes.lease("p-1")
    assert not await nodes.report(work, "dropped", machine_id="i-3")
    [again] = await nodes.lease("p-2")
    assert (again.id, again.attempt, again.machine_id) == (work.id, 2, "i-3")


async def test_a_provisioner_waits_for_work(nodes: Nodes) -> None:
    """The launch wakes it, whatever clouds it works in besides."""
    waiting = asyncio.ensure_future(nodes.lease(wait_seconds=25))
    made = await nodes.launch()
    [work] = await waiting
    assert work.id == made.job_id


async def test_launch_forms_leave_the_type_to_the_plane(nodes: Nodes) -> None:
    """The cheapest that has the memory; the model by its id as well."""
    big = await nodes.catalog.type("g5.12xlarge", gpu_count=4, gpu_memory_gb=96, price_per_hour=5)
    await nodes.catalog.associate(big.id, "us-east-1")
    answer = await nodes.stub.LaunchInstance(
        pb.LaunchInstanceRequest(
            model_name=nodes.model.id, provider="aws", region="us-east-1", gpu_count=4
        ),
        metadata=ADMIN,
    )
    assert (answer.status, answer.model, answer.provider, answer.region) == (
        "launching",
        "llama-3-8b",
        "aws",
        "us-east-1",
    )
    [work] = await nodes.lease()
    assert (work.id, work.instance_type) == (answer.job_id, "g5.12xlarge")


_WRONG: Final[tuple[tuple[dict[str, Any], str, str], ...]] = (
    ({"provider": "on-prem"}, "UNKNOWN_ENUM", "provider"),
    ({"provider": "gcp"}, "SEMANTIC", "region"),
    ({"region": ""}, "MISSING_FIELD", "region"),
    ({"region": "nowhere"}, "SEMANTIC", "region"),
    ({"model": ""}, "MISSING_FIELD", "model"),
    ({"model": "none"}, "SEMANTIC", "model"),
    ({"model": str(uuid4())}, "SEMANTIC", "model"),
    ({"instance_type": None}, "MISSING_FIELD", "instance_type"),
    ({"instance_type": "none"}, "SEMANTIC", "instance_type"),
    ({"instance_type": None, "gpu": "H100"}, "SEMANTIC", "gpu"),
    ({"tenant_id": str(uuid4())}, "SEMANTIC", "tenant_id"),
)


async def test_a_launch_that_is_impossible_is_refused_by_field(nodes: Nodes) -> None:
    """And leaves neither node nor job; so do a full region and one that is closed."""
    for members, reason, field in _WRONG:
        async with refused(reason, field=field):
            await nodes.launch(**members)
    await nodes.catalog.change_region(nodes.region.id, max_nodes=1)
    await nodes.register("n-1", region="us-east-1")
    async with refused("SEMANTIC", field="region"):
        await nodes.launch()
    await nodes.catalog.change_region(nodes.region.id, max_nodes=5, available=False)
    async with refused("SEMANTIC", field="region"):
        await nodes.launch()
    assert not await nodes.lease()
    async with nodes.plane.db.connection(ALL_TENANTS) as conn:
        assert await conn.fetchval("SELECT count(*) FROM nodes") == 1


async def test_a_job_that_is_not_there_is_no_error(nodes: Nodes) -> None:
    """What cannot be an id is one."""
    assert (await nodes.job(str(uuid4()))).status == "not_found"
    async with refused("INVALID_ID", field="job_id"):
        await nodes.job("7")
    async with refused("MISSING_FIELD", field="job_id"):
        await nodes.job("")


async def _outcomes(calls: list[Any]) -> Counter[str]:
    answers = await asyncio.gather(*calls, return_exceptions=True)
    return Counter(
        refusal(a).reason if isinstance(a, grpc.aio.AioRpcError) else type(a).__name__
        for a in answers
    )


async def test_of_fifty_launches_and_a_deletion_one_side_wins(nodes: Nodes) -> None:
    """Either all nodes live and the region stays, or it goes and no node is in it."""
    deletions = (
        (lambda: nodes.catalog.delete_type(nodes.type.id), "INSTANCE_TYPE_IN_USE"),
        (lambda: nodes.catalog.delete_region(nodes.region.id), "REGION_IN_USE"),
    )
    for delete, in_use in deletions:
        outcome = await _outcomes(
            [*(nodes.launch() for _ in range(25)), delete(), *(nodes.launch() for _ in range(25))]
        )
        launched = outcome["LaunchNodeResponse"]
        assert launched + outcome["SEMANTIC"] == 50, outcome
        deleted = outcome[in_use] == 0
        assert len(outcome) == (3 if 0 < launched < 50 else 2), outcome
        async with nodes.plane.db.connection(ALL_TENANTS) as conn:
            live = await conn.fetchval("SELECT count(*) FROM nodes WHERE status = 'launching'")
            await conn.execute("UPDATE nodes SET status = 'dead'")
        assert live == launched
        assert deleted == (launched == 0), outcome


async def test_a_region_never_gets_more_nodes_than_it_may(nodes: Nodes) -> None:
    """Thirty callers, room for seven."""
    await nodes.catalog.change_region(nodes.region.id, max_nodes=7)
    outcome = await _outcomes([nodes.launch() for _ in range(30)])
    assert outcome == {"LaunchNodeResponse": 7, "SEMANTIC": 23}
