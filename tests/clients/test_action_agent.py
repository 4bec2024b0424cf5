"""Agents of the action line, whose every machine is an agent of its own."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.clients.action_agent import PATIENCE, ActionAgent
from tests.clients.dashboard import Dashboard
from tests.support.clock import FakeClock
from tests.support.link import run_job


@pytest.fixture
async def agent(dashboard: Dashboard, clock: FakeClock) -> ActionAgent:
    """An agent that has started, under an operator who decides himself."""
    machine = dashboard.cloud.launch("us-east-1a", "spot")
    made = ActionAgent(dashboard.field.tenant.key, dashboard.cloud, machine)
    await made.start()
    clock.advance(timedelta(seconds=61))
    await made.report_prices()
    await run_job(dashboard.field.plane, "price-pipeline")
    await made.actions()  # the plane learns by it in which words to speak
    await dashboard.configure(made.agent_id)
    await made.heartbeat()
    return made


async def test_prices_in_one_array_are_understood(agent: ActionAgent, dashboard: Dashboard) -> None:
    """The region is the agent's."""
    told = await dashboard.field.get(f"/api/client/instances/{agent.machine.id}/pricing")
    assert told["onDemand"]["price"] == pytest.approx(0.096)
    assert [p["price"] for p in told["pools"]] == pytest.approx([0.035, 0.040, 0.045])
    assert (await dashboard.agent_shown())["logicalAgentId"] == agent.machine.id


async def test_configuration_comes_with_the_beat(agent: ActionAgent, dashboard: Dashboard) -> None:
    """And is told once more, as an action."""
    version = agent.config["config_version"]
    await dashboard.configure(agent.agent_id, autoTerminateEnabled=False)
    await agent.heartbeat()
    assert agent.config["auto_terminate_enabled"] is False
    assert agent.config["config_version"] == version + 1


async def test_a_recommendation_keeps_the_primary(agent: ActionAgent, dashboard: Dashboard) -> None:
    """One replica is asked for, and nothing ends."""
    told = await agent.check_rebalance()
    assert (told["success"], told["action"]) == (True, "monitor")
    (shown,) = await dashboard.replicas()
    assert shown["replica"]["id"] == told["replica_id"]
    assert await dashboard.sound() == agent.machine.id


async def test_failures_make_it_wait_longer_up_to_its_limit(
    agent: ActionAgent, dashboard: Dashboard
) -> None:
    """No success that it meets is empty, so that only failures do."""
    assert agent.wait_seconds == 1
    await dashboard.delete(agent.agent_id)
    for _ in range(12):
        assert not await agent.heartbeat()
    assert agent.wait_seconds == PATIENCE

    agent.machine = dashboard.cloud.launch("us-east-1c", "spot")
    await agent.start()

    assert agent.wait_seconds == 1
    assert await dashboard.sound() == agent.machine.id


async def test_a_goodbye_of_the_primary_is_the_agents(
    agent: ActionAgent, dashboard: Dashboard
) -> None:
    """It names its machine."""
    await agent.shutdown()
    assert (await dashboard.agent_shown())["status"] == "offline"
    assert await dashboard.sound() == agent.machine.id
