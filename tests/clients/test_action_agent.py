"""Lifecycle of action agents: every machine is its own agent."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.clients.action_agent import PATIENCE, ActionAgent
from tests.clients.cloud import pool
from tests.clients.dashboard import Dashboard
from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.link import jump, run_job


@pytest.fixture
async def agent(dashboard: Dashboard, clock: FakeClock) -> ActionAgent:
    """An agent that has started, with manual decisions of its operator."""
    machine = dashboard.cloud.launch("us-east-1a", "spot")
    made = ActionAgent(dashboard.field.tenant.key, dashboard.cloud, machine)
    await made.start()
    clock.advance(timedelta(seconds=61))
    await made.report_prices()
    await run_job(dashboard.field.plane, "price-pipeline")
    await made.actions()  # the server detects the agent's dialect by it
    await dashboard.configure(made.agent_id)
    await made.heartbeat()
    return made


async def switched(agent: ActionAgent, dashboard: Dashboard, az: str = "us-east-1b") -> ActionAgent:
    """Force a switch to another zone, and let the old agent execute its part."""
    await dashboard.force(agent.machine.id, pool(az))
    assert "LAUNCH_INSTANCE" in await agent.actions()
    (child,) = agent.children
    return child


async def test_prices_in_one_array_are_understood(agent: ActionAgent, dashboard: Dashboard) -> None:
    reported = await dashboard.field.get(f"/api/client/instances/{agent.machine.id}/pricing")
    assert reported["onDemand"]["price"] == pytest.approx(0.096)
    assert [p["price"] for p in reported["pools"]] == pytest.approx([0.035, 0.040, 0.045])
    assert (await dashboard.agent_shown())["logicalAgentId"] == agent.machine.id


async def test_configuration_comes_with_the_beat(agent: ActionAgent, dashboard: Dashboard) -> None:
    version = agent.config["config_version"]
    await dashboard.configure(agent.agent_id, autoTerminateEnabled=False)
    await agent.heartbeat()
    assert agent.config["auto_terminate_enabled"] is False
    assert agent.config["config_version"] == version + 1


async def test_a_new_machine_takes_its_elders_place(
    agent: ActionAgent, dashboard: Dashboard
) -> None:
    await dashboard.field.post(
        f"/api/client/agents/{agent.agent_id}/settings", {"min_savings_percent": 22}
    )

    child = await switched(agent, dashboard)

    assert child.machine.mode == "spot"
    assert await dashboard.sound() == child.machine.id
    shown = await dashboard.agent_shown()
    assert (shown["id"], shown["instanceId"]) == (child.agent_id, child.machine.id)
    await child.heartbeat()
    assert child.config["enabled"]
    assert child.config["min_savings_percent"] == 22
    assert child.config["auto_switch_enabled"] is False
    (switch,) = await dashboard.switches()
    assert (switch["oldInstanceId"], switch["newInstanceId"]) == (
        agent.machine.id,
        child.machine.id,
    )
    assert (switch["trigger"], switch["success"]) == ("manual", True)


async def test_the_elders_machine_is_ended_with_consent_and_after_the_wait(
    agent: ActionAgent, dashboard: Dashboard, clock: FakeClock
) -> None:
    child = await switched(agent, dashboard)
    await agent.shutdown()
    assert (await dashboard.agent_shown())["status"] == "online"
    assert "TERMINATE_INSTANCE" not in await child.actions()
    assert (await dashboard.states())[agent.machine.id] == "zombie"

    await jump(dashboard.field.plane, clock, timedelta(seconds=301))

    async def ended() -> bool:
        await child.actions()
        return agent.machine.id not in dashboard.cloud.running()

    await eventually(ended, every=0.2)
    assert await dashboard.sound(ended={agent.machine.id}) == child.machine.id
    assert (await dashboard.states())[agent.machine.id] == "terminated"


async def test_without_consent_the_elders_machine_stays(
    agent: ActionAgent, dashboard: Dashboard, clock: FakeClock
) -> None:
    await dashboard.configure(agent.agent_id, autoTerminateEnabled=False)
    child = await switched(agent, dashboard)
    for _ in range(3):
        clock.advance(timedelta(seconds=100))
        await child.heartbeat()
        assert "TERMINATE_INSTANCE" not in await child.actions()
    assert await dashboard.sound() == child.machine.id
    assert (await dashboard.states())[agent.machine.id] == "zombie"


async def test_to_demand_its_pool_is_no_spot(agent: ActionAgent, dashboard: Dashboard) -> None:
    await dashboard.force(agent.machine.id)
    await agent.actions()
    (child,) = agent.children
    assert child.machine.mode == "ondemand"
    assert (await dashboard.agent_shown())["currentMode"] == "ondemand"
    assert await dashboard.sound() == child.machine.id


async def test_a_recommendation_keeps_the_primary(agent: ActionAgent, dashboard: Dashboard) -> None:
    reported = await agent.check_rebalance()
    assert (reported["success"], reported["action"]) == (True, "monitor")
    (shown,) = await dashboard.replicas()
    assert shown["replica"]["id"] == reported["replica_id"]
    assert await dashboard.sound() == agent.machine.id


async def test_failures_make_it_wait_longer_up_to_its_limit(
    agent: ActionAgent, dashboard: Dashboard
) -> None:
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
    await agent.shutdown()
    assert (await dashboard.agent_shown())["status"] == "offline"
    assert await dashboard.sound() == agent.machine.id
