"""Lifecycle of a loop agent of version 2."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.clients.cloud import pool
from tests.clients.second_agent import SecondAgent
from tests.clients.test_loop_agent import World
from tests.legacy.field import Field
from tests.support.clock import FakeClock
from tests.support.link import run_job


@pytest.fixture
async def world(field: Field, clock: FakeClock) -> AsyncIterator[World]:
    """An agent that has started and reported its prices."""
    async with World.running(field, clock, SecondAgent) as up:
        yield up


async def test_prices_beside_the_instance_are_understood(world: World) -> None:
    await run_job(world.field.plane, "price-pipeline")
    told = await world.field.get(f"/api/client/instances/{world.agent.machine.id}/pricing")
    assert told["onDemand"]["price"] == pytest.approx(0.096)
    assert [p["price"] for p in told["pools"]] == pytest.approx([0.035, 0.040, 0.045])
    assert told["currentPool"]["id"] == pool("us-east-1a")


async def test_a_running_agent_is_online(world: World) -> None:
    assert await world.agent.heartbeat()
    assert (await world.agent_shown())["status"] == "online"
    path = f"/api/client/agents/{world.agent.agent_id}/toggle-enabled"
    await world.field.post(path, {"enabled": False})
    assert await world.agent.heartbeat()
    assert (await world.agent_shown())["status"] == "disabled"


async def test_a_switch_is_completed_in_its_words(world: World) -> None:
    old = world.agent
    await world.force(old.machine.id, pool("us-east-1b"))

    await old.commands()

    (new,) = old.children
    assert await world.sound(ended={old.machine.id}) == new.machine.id
    (switch,) = await world.switches()
    assert (switch["trigger"], switch["success"]) == ("manual", True)
    again = await world.force(new.machine.id, pool("us-east-1c"))
    assert again["success"]


async def test_a_notice_is_survived_with_a_replica(world: World) -> None:
    child = await world.with_replica()
    old = world.agent
    world.cloud.give_notice(old.machine)
    response = await old.check_termination()
    assert response["success"]
    assert await world.sound() == child.machine.id
    world.cloud.terminate(old.machine.id)
    await child.heartbeat()
    assert await world.sound(ended={old.machine.id}) == child.machine.id
