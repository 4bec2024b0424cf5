"""What an agent is told to end: nothing without consent, and nothing too often."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from spotplane.v1 import agent_pb2, fleet_pb2
from spotplane_server.kernel.db.database import ALL_TENANTS

from tests.fleet.world import ZONES, World
from tests.support.plane import ADMIN, bearer, refused

WAIT: Final = timedelta(seconds=300)
GIVEN_UP: Final = """
    INSERT INTO instances (tenant_id, id, agent_id, status, instance_type, region, az, mode,
                           launched_at, updated_at)
    VALUES ($1, 'i-standby', $2, 'terminating', 't3.medium', 'us-east-1', 'us-east-1b', 'spot',
            $3, $3)
"""
ITS_REPLICA: Final = """
    INSERT INTO replicas (tenant_id, id, agent_id, instance_id, bound, type, status, pool_id,
                          instance_type, region, az, created_by, created_at, terminated_at,
                          updated_at)
    VALUES ($1, gen_random_uuid(), $2, 'i-standby', true, 'manual', 'terminated',
            't3.medium.us-east-1b', 't3.medium', 'us-east-1', 'us-east-1b', 'test', $3, $3, $3)
"""


async def zombie(world: World, **wish: Any) -> str:
    """An agent that has switched from `i-old` to `i-new`."""
    agent_id = await world.start("i-old")
    await world.force("i-old", target="ondemand", **wish)
    await world.lease(agent_id, "i-old")
    await world.report(agent_id)
    return agent_id


async def listed(world: World, agent_id: str) -> list[str]:
    """Ids that the agent is to end."""
    return [doomed.instance_id for doomed in (await world.doomed(agent_id)).instances]


async def bulk(world: World, operation: str, **fields: Any) -> fleet_pb2.BulkExecuteResponse:
    """Do one thing to many, as an administrator."""
    fields = {"confirm": True} | fields
    answer: fleet_pb2.BulkExecuteResponse = await world.fleet.BulkExecute(
        fleet_pb2.BulkExecuteRequest(operation=operation, **fields), metadata=ADMIN
    )
    return answer


async def test_zombie_is_listed_after_its_wait(world: World) -> None:
    """By the agent's own setting, and with how long it waits."""
    agent_id = await zombie(world)
    assert await listed(world, agent_id) == []

    world.clock.advance(WAIT)
    answer = await world.doomed(agent_id)

    (doomed,) = answer.instances
    assert (doomed.instance_id, doomed.reason, doomed.az) == ("i-old", "zombie_timeout", ZONES[0])
    assert 300 <= doomed.waiting_seconds < 310
    assert (answer.auto_terminate_enabled, answer.terminate_wait_seconds) == (True, 300)
    assert (await world.instances())["i-old"] == "terminating"


async def test_same_instance_is_listed_at_most_every_five_minutes(world: World) -> None:
    """Whether its agent has failed meanwhile or not."""
    agent_id = await zombie(world)
    world.clock.advance(WAIT)
    assert await listed(world, agent_id) == ["i-old"]
    assert await listed(world, agent_id) == []

    world.clock.advance(timedelta(seconds=200))
    await world.ended(agent_id, "i-old", success=False, error="not authorized")
    world.clock.advance(timedelta(seconds=200))
    assert await listed(world, agent_id) == []

    world.clock.advance(timedelta(seconds=101))
    assert await listed(world, agent_id) == ["i-old"]
    (event,) = await world.told("instance.termination_failed")
    assert event["reason"] == "not authorized"


async def test_nothing_is_listed_without_consent(world: World) -> None:
    """Not even when it was marked before the consent was withdrawn."""
    agent_id = await zombie(world)
    world.clock.advance(WAIT)
    assert await listed(world, agent_id) == ["i-old"]
    await world.configure(agent_id, auto_terminate_enabled=False)

    world.clock.advance(timedelta(days=2))

    answer = await world.doomed(agent_id)
    assert (list(answer.instances), answer.auto_terminate_enabled) == ([], False)


async def test_switch_that_spares_its_old_instance_is_respected(world: World) -> None:
    """Although the agent ends others."""
    agent_id = await zombie(world, auto_terminate=False)
    world.clock.advance(timedelta(days=2))
    assert await listed(world, agent_id) == []


async def test_switch_that_agrees_to_its_end_needs_no_setting(world: World) -> None:
    """And the agent is told to act on the list."""
    agent_id = await world.start("i-old")
    await world.configure(agent_id, auto_terminate_enabled=False)
    await world.force("i-old", target="ondemand", auto_terminate=True)
    await world.lease(agent_id, "i-old")
    await world.report(agent_id)

    answer = await world.doomed(agent_id)

    assert [d.instance_id for d in answer.instances] == ["i-old"]
    assert answer.auto_terminate_enabled


async def test_displaced_instance_is_never_listed_by_itself(world: World) -> None:
    """Two processes may share a name; only a word about that instance ends it."""
    agent_id = await world.start("i-old")
    await world.start("i-new", az=ZONES[1])
    (event,) = await world.told("instance.displaced")
    assert event["instance_id"] == "i-old"
    world.clock.advance(timedelta(days=2))
    assert await listed(world, agent_id) == []

    answer = await bulk(world, "terminate_instances", instance_ids=["i-old"])

    assert [(r.status, r.agent_id) for r in answer.results] == [("success", agent_id)]
    assert await listed(world, agent_id) == ["i-old"]


async def test_looking_at_the_list_changes_nothing(world: World) -> None:
    """A dashboard must not take the agent's turn."""
    agent_id = await zombie(world)
    world.clock.advance(WAIT)
    reader = await world.plane.key(world.tenant.id, role="read_only")

    seen = await world.doomed(agent_id, bearer(reader.key))

    assert [d.instance_id for d in seen.instances] == ["i-old"]
    assert (await world.instances())["i-old"] == "zombie"
    assert await listed(world, agent_id) == ["i-old"]


async def test_confirmed_end_is_final_and_told_once(world: World) -> None:
    """Repeats change nothing."""
    agent_id = await zombie(world)

    await world.ended(agent_id, "i-old")
    await world.ended(agent_id, "i-old")
    await world.ended(agent_id, "i-old", success=False)

    assert (await world.instances())["i-old"] == "terminated"
    assert len(await world.told("instance.terminated")) == 1
    world.clock.advance(timedelta(days=1))
    assert await listed(world, agent_id) == []


async def test_end_of_what_serves_is_a_loss(world: World) -> None:
    """The instance is gone, and the agent without one."""
    agent_id = await world.start("i-old")

    await world.ended(agent_id, "i-old")

    assert (await world.instances())["i-old"] == "terminated"
    agent = await world.agents.GetAgent(
        agent_pb2.GetAgentRequest(agent_id=agent_id), metadata=world.metadata
    )
    assert agent.status == "offline"


async def test_other_agents_instances_are_not_found(world: World) -> None:
    """Of the same tenant, of another, and unknown ones."""
    agent_id = await world.start("i-old")
    await world.start("i-else", name="else")
    for instance_id in ("i-else", "i-nowhere"):
        async with refused("INSTANCE_NOT_FOUND"):
            await world.ended(agent_id, instance_id)
    theirs = World(world.plane, await world.plane.tenant(), world.clock)
    async with refused("AGENT_NOT_FOUND"):
        await theirs.ended(agent_id, "i-old")
    async with refused("AGENT_NOT_FOUND"):
        await theirs.doomed(agent_id)


async def test_deleted_agent_ends_what_replicas_it_left(world: World) -> None:
    """And nothing that nobody named; for a day, or until all of it is confirmed."""
    agent_id = await zombie(world)
    async with world.plane.db.connection(ALL_TENANTS) as conn:
        await conn.execute(GIVEN_UP, UUID(world.tenant.id), UUID(agent_id), world.clock.now())
        await conn.execute(ITS_REPLICA, UUID(world.tenant.id), UUID(agent_id), world.clock.now())
    await world.agents.DeleteAgent(
        agent_pb2.DeleteAgentRequest(agent_id=agent_id), metadata=world.metadata
    )
    world.clock.advance(timedelta(seconds=61))

    (doomed,) = (await world.doomed(agent_id)).instances
    assert (doomed.instance_id, doomed.reason) == ("i-standby", "replica_terminated")
    assert (await world.instances())["i-new"] == "zombie"

    await world.ended(agent_id, "i-standby")
    assert (await world.instances())["i-standby"] == "terminated"
    async with refused("AGENT_NOT_FOUND"):
        await world.doomed(agent_id)
    orphans = await bulk(world, "terminate_instances", instance_ids=["i-new"])
    assert "deleted" in orphans.results[0].error


async def test_bulk_ends_only_what_serves_nobody(world: World) -> None:
    """Each item by itself, in the order of the request."""
    agent_id = await zombie(world)

    named = ["i-new", "i-old", "i-nowhere"]
    answer = await bulk(world, "terminate_instances", instance_ids=named)
    again = await bulk(world, "terminate_instances", instance_ids=["i-old"])

    assert [(r.instance_id, r.status) for r in answer.results] == [
        ("i-new", "failed"),
        ("i-old", "success"),
        ("i-nowhere", "failed"),
    ]
    assert (answer.total, answer.succeeded, answer.failed) == (3, 1, 2)
    assert [r.status for r in again.results] == ["skipped"]
    assert await listed(world, agent_id) == ["i-old"]
    assert (await world.instances())["i-new"] == "running_primary"


async def test_dry_run_says_all_and_does_nothing(world: World) -> None:
    """Of every operation."""
    agent_id = await zombie(world)

    named = ["i-old", "i-new"]
    ended = await bulk(world, "terminate_instances", instance_ids=named, dry_run=True)
    disabled = await bulk(world, "disable_agents", agent_ids=[agent_id], dry_run=True)

    assert [r.status for r in (*ended.results, *disabled.results)] == [
        "success",
        "failed",
        "success",
    ]
    assert "running_primary" in ended.results[1].error
    assert ended.dry_run
    assert await listed(world, agent_id) == []
    agent = await world.agents.GetAgent(
        agent_pb2.GetAgentRequest(agent_id=agent_id), metadata=world.metadata
    )
    assert agent.config.enabled


async def test_bulk_changes_agents_one_by_one(world: World) -> None:
    """One that cannot be deleted does not stop the others."""
    serving = await world.start("i-old")
    idle = await world.start("i-idle", name="idle")
    await world.ended(idle, "i-idle")

    off = await bulk(world, "disable_agents", agent_ids=[serving, "not-an-id"])
    same = await bulk(world, "disable_agents", agent_ids=[serving])
    gone = await bulk(world, "delete_agents", agent_ids=[serving, idle])

    assert [r.status for r in off.results] == ["success", "failed"]
    assert [r.status for r in same.results] == ["skipped"]
    assert [r.status for r in gone.results] == ["failed", "success"]
    assert "serves" in gone.results[0].error


async def test_bulk_must_be_meant(world: World) -> None:
    """And know what it does, to some and not too many."""
    async with refused("CONFIRM_REQUIRED"):
        await bulk(world, "enable_agents", agent_ids=["x"], confirm=False)
    async with refused("UNKNOWN_ENUM", field="operation"):
        await bulk(world, "drop_tables", agent_ids=["x"])
    for ids in ([], [str(n) for n in range(501)]):
        async with refused("OUT_OF_RANGE", field="agent_ids"):
            await bulk(world, "enable_agents", agent_ids=ids)
