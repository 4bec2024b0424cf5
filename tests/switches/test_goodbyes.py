"""Whose goodbye it is, when a process leaves without saying where it was."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from spotplane.v1 import agent_pb2
from spotplane_server.kernel.db.database import ALL_TENANTS
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.switches import store

from tests.fleet.world import ZONES, World, end


async def settle(world: World, agent_id: str, instance_id: str | None = None) -> str | None:
    """Say goodbye."""
    async with world.plane.db.transaction(ALL_TENANTS) as conn:
        return await store.settle_goodbye(
            conn,
            TenantId(UUID(world.tenant.id)),
            UUID(agent_id),
            world.clock.now(),
            instance_id=instance_id,
        )


async def test_each_switch_owes_one_goodbye_oldest_first(world: World) -> None:
    """What comes after them is the primary's."""
    agent_id = await world.start("i-old")
    await world.report(agent_id)
    await world.report(agent_id, old="i-new", new_instance=end("i-third", ZONES[2]))

    assert [await settle(world, agent_id) for _ in range(3)] == ["i-old", "i-new", None]


async def test_named_goodbye_settles_its_own_switch(world: World) -> None:
    """So that the next one without a name is not taken for it."""
    agent_id = await world.start("i-old")
    await world.report(agent_id)

    assert await settle(world, agent_id, "i-elsewhere") is None
    assert await settle(world, agent_id, "i-old") == "i-old"
    assert await settle(world, agent_id) is None


async def test_goodbye_is_owed_for_the_wait_and_a_quarter_of_an_hour(world: World) -> None:
    """Later ones are the primary's."""
    agent_id = await world.start("i-old")
    await world.configure(agent_id, terminate_wait_seconds=60)
    await world.report(agent_id)

    world.clock.advance(timedelta(seconds=961))

    assert await settle(world, agent_id) is None


async def test_old_process_that_leaves_does_not_take_the_agent_offline(world: World) -> None:
    """The first anonymous goodbye is its, the second the primary's."""
    agent_id = await world.start("i-old")
    await world.report(agent_id)

    async def leave() -> str:
        await world.agents.Heartbeat(
            agent_pb2.HeartbeatRequest(agent_id=agent_id, status="offline"),
            metadata=world.metadata,
        )
        agent = await world.agents.GetAgent(
            agent_pb2.GetAgentRequest(agent_id=agent_id), metadata=world.metadata
        )
        return str(agent.status)

    assert [await leave(), await leave()] == ["online", "offline"]
