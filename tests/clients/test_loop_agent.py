"""Lifecycle of a loop agent over REST."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from tests.clients.cloud import Cloud, pool
from tests.clients.dashboard import Dashboard
from tests.clients.loop_agent import LoopAgent
from tests.legacy.field import Field
from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.link import jump


class World(Dashboard):
    """A tenant's agent, its cloud, and what its dashboard shows."""

    def __init__(
        self, field: Field, clock: FakeClock, cloud: Cloud, line: type[LoopAgent] = LoopAgent
    ) -> None:
        super().__init__(field, cloud)
        self.clock = clock
        machine = cloud.launch("us-east-1a", "spot")
        self.agent = line(field.tenant.key, cloud, machine, "web-1")

    @classmethod
    @asynccontextmanager
    async def running(
        cls, field: Field, clock: FakeClock, line: type[LoopAgent] = LoopAgent
    ) -> AsyncIterator[World]:
        """An agent that has started, with manual decisions of its operator."""
        async with Cloud.before(field, clock) as cloud:
            world = cls(field, clock, cloud, line)
            await world.agent.start()
            await world.set()
            await world.agent.read_config()
            yield world

    async def set(self, **members: bool) -> dict[str, Any]:
        """Configure the agent."""
        return await self.configure(self.agent.agent_id, **members)

    async def with_replica(self) -> LoopAgent:
        """Enable manual mode, wait for a ready replica, and return the program on its machine."""
        await self.set(manualReplicaEnabled=True)

        async def launched() -> bool:
            await self.agent.replicas()
            return bool(self.agent.children)

        await eventually(launched, every=0.15)
        return self.agent.children[-1]


@pytest.fixture
async def world(field: Field, clock: FakeClock) -> AsyncIterator[World]:
    """An agent that has started and reported its prices."""
    async with World.running(field, clock) as up:
        yield up


async def test_first_second_makes_a_primary_that_may_work(world: World) -> None:
    assert world.agent.alive
    assert world.agent.enabled
    assert await world.agent.heartbeat()
    assert await world.states() == {world.agent.machine.id: "running_primary"}
    (shown,) = await world.field.get(f"/api/client/{world.field.tenant.id}/agents")
    assert (shown["logicalAgentId"], shown["status"]) == ("web-1", "online")
    assert shown["currentPoolId"] == pool("us-east-1a")


async def test_forced_switch_moves_the_agent_and_ends_its_old_instance(world: World) -> None:
    old = world.agent
    reply = await world.field.post(
        f"/api/client/instances/{old.machine.id}/force-switch",
        {"target": "pool", "pool_id": pool("us-east-1b")},
    )
    assert reply["success"]

    await old.commands()

    (new,) = old.children
    assert not old.alive
    assert await world.states() == {old.machine.id: "terminated", new.machine.id: "running_primary"}
    await new.read_config()
    assert new.enabled
    await new.heartbeat()
    (shown,) = await world.field.get(f"/api/client/{world.field.tenant.id}/agents")
    assert (shown["id"], shown["status"]) == (old.agent_id, "online")
    (switch,) = await world.field.get(f"/api/client/{world.field.tenant.id}/switch-history")
    assert (switch["trigger"], switch["success"]) == ("manual", True)
    assert (switch["oldInstanceId"], switch["newInstanceId"]) == (old.machine.id, new.machine.id)
    assert switch["savingsImpact"] == pytest.approx(0.005)
    assert world.cloud.running() == {new.machine.id}


async def test_command_is_leased_once(world: World) -> None:
    await world.field.post(
        f"/api/client/instances/{world.agent.machine.id}/force-switch",
        {"target": "ondemand"},
    )
    path = f"/api/agents/{world.agent.agent_id}/pending-commands"
    (command,) = await world.field.get(path)

    twin = world.cloud.launch("us-east-1c", "spot")
    child = LoopAgent(world.field.tenant.key, world.cloud, twin, "web-1")
    await child.start()

    assert not child.enabled
    assert child.children == []
    assert await world.field.get(path) == []
    assert command["target_mode"] == "ondemand"
    assert await world.primary() == world.agent.machine.id


async def test_manual_mode_keeps_a_replica_and_its_end_is_confirmed(world: World) -> None:
    child = await world.with_replica()

    assert not child.enabled
    (replica,) = await world.replicas()
    assert replica["replica"]["status"] == "ready"
    assert replica["replica"]["instanceId"] == child.machine.id
    await world.set(manualReplicaEnabled=False)

    async def ended() -> bool:
        await world.agent.replica_terminations()
        return child.machine.id not in world.cloud.running()

    await eventually(ended, every=0.15)
    assert (await world.states())[child.machine.id] == "terminated"
    response = await world.field.get(
        f"/api/agents/{world.agent.agent_id}/replicas?status=terminated"
    )
    assert response["replicas"] == []


async def test_notice_with_a_ready_replica_promotes_it_within_the_call(world: World) -> None:
    child = await world.with_replica()
    old = world.agent
    world.cloud.give_notice(old.machine)

    response = await old.check_termination()

    assert response is not None
    assert (response["success"], response["action"]) == (True, "replica_promoted")
    assert response["new_instance_id"] == child.machine.id
    assert not old.alive
    assert await world.primary() == child.machine.id
    await child.read_config()
    assert child.enabled
    (switch,) = await world.field.get(f"/api/client/{world.field.tenant.id}/switch-history")
    assert switch["trigger"] == "emergency"


async def test_goodbye_of_the_old_process_leaves_the_moved_agent_online(world: World) -> None:
    child = await world.with_replica()
    world.cloud.give_notice(world.agent.machine)
    await world.agent.check_termination()

    await world.agent.goodbye()

    await child.read_config()
    await child.heartbeat()
    (shown,) = await world.field.get(f"/api/client/{world.field.tenant.id}/agents")
    assert shown["status"] == "online"


async def test_notice_without_a_replica_is_rescued_once_one_is_bound(world: World) -> None:
    old = world.agent
    world.cloud.give_notice(old.machine)

    response = await old.check_termination()

    assert response is not None
    assert response["success"] is False
    assert old.alive
    await old.replicas()
    (child,) = old.children

    async def rescued() -> bool:
        return await world.primary() == child.machine.id

    assert await eventually(rescued)
    assert child.machine.az != old.machine.az


async def test_rebalance_gets_a_replica_that_a_later_notice_promotes(world: World) -> None:
    old = world.agent
    old.machine.rebalance = True
    response = await old.check_rebalance()
    assert response is not None
    assert response["success"]
    await old.replicas()
    (child,) = old.children

    world.cloud.give_notice(old.machine)
    taken = await old.check_termination()

    assert taken is not None
    assert taken["success"]
    assert await world.primary() == child.machine.id
    assert len(world.cloud.machines) == 2


async def test_zombie_is_ended_only_with_consent_and_after_its_wait(world: World) -> None:
    await world.set(autoTerminateEnabled=False)
    old = world.agent
    path = f"/api/client/instances/{old.machine.id}/force-switch"
    await world.field.post(path, {"target": "pool", "pool_id": pool("us-east-1b")})
    await old.commands()
    (new,) = old.children
    assert (await world.states())[old.machine.id] == "zombie"
    await jump(world.field.plane, world.clock, timedelta(minutes=10))
    assert await new.clean_up() == []

    await world.set(autoTerminateEnabled=True)

    assert await new.clean_up() == [old.machine.id]
    assert (await world.states())[old.machine.id] == "terminated"
    assert await new.clean_up() == []


async def test_deleted_agent_meets_not_found_but_may_still_confirm(world: World) -> None:
    child = await world.with_replica()

    await world.field.delete(f"/api/client/agents/{world.agent.agent_id}")

    assert not await world.agent.heartbeat()
    await world.field.refused("NOT_FOUND", "GET", f"/api/agents/{world.agent.agent_id}", status=404)
    await world.agent.replica_terminations()
    assert child.machine.id not in world.cloud.running()
    assert await world.primary() is None


async def test_disabled_agent_keeps_beating_and_works_no_more(world: World) -> None:
    agent = world.agent
    path = f"/api/client/agents/{agent.agent_id}/toggle-enabled"
    assert await world.field.post(path, {"enabled": False}) == {"success": True, "enabled": False}
    await agent.read_config()
    assert not agent.enabled
    assert await agent.heartbeat()
    (shown,) = await world.field.get(f"/api/client/{world.field.tenant.id}/agents")
    assert shown["status"] == "disabled"

    assert await world.field.post(path) == {"success": True, "enabled": True}

    await agent.read_config()
    assert agent.enabled
