"""Lifecycle of a minimal agent."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.clients.cloud import ON_DEMAND, TYPE, pool
from tests.clients.dashboard import Dashboard
from tests.clients.minimal_agent import MinimalAgent
from tests.legacy.field import Field
from tests.support.clock import FakeClock
from tests.support.eventually import eventually
from tests.support.link import run_job


@pytest.fixture
async def agent(dashboard: Dashboard, clock: FakeClock) -> MinimalAgent:
    """An agent that has started, with manual decisions of its operator."""
    machine = dashboard.cloud.launch("us-east-1a", "spot")
    made = MinimalAgent(dashboard.field.tenant.key, dashboard.cloud, machine)
    await made.start()
    await run_job(dashboard.field.plane, "price-pipeline")
    # Only then is it clear that it does not poll for its replicas.
    clock.advance(timedelta(seconds=61))
    await made.heartbeat()
    await dashboard.configure(made.agent_id)
    return made


async def test_its_instance_is_its_name(agent: MinimalAgent, dashboard: Dashboard) -> None:
    assert {status for _, status in agent.calls.seen} == {200}
    assert await dashboard.sound() == agent.machine.id
    shown = await dashboard.agent_shown()
    assert shown["logicalAgentId"] == agent.machine.id
    assert (shown["status"], shown["agentVersion"]) == ("online", "1.0")
    assert shown["currentPoolId"] == pool("us-east-1a")
    reported = await dashboard.field.get(f"/api/client/instances/{agent.machine.id}/pricing")
    assert [p["price"] for p in reported["pools"]] == pytest.approx([0.035, 0.040, 0.045])


async def test_a_switch_without_a_report_is_one_in_place(
    agent: MinimalAgent, dashboard: Dashboard
) -> None:
    await dashboard.force(agent.machine.id, pool("us-east-1b"))

    assert await agent.commands() == ["switch"]
    assert await agent.heartbeat()

    assert await dashboard.sound() == agent.machine.id
    (switch,) = await dashboard.switches()
    assert (switch["oldInstanceId"], switch["newInstanceId"]) == (agent.machine.id,) * 2
    assert (switch["fromPool"], switch["toPool"]) == (pool("us-east-1a"), pool("us-east-1b"))
    assert (switch["trigger"], switch["success"]) == ("manual", True)
    assert switch["savingsImpact"] == pytest.approx(0.005)
    shown = await dashboard.agent_shown()
    assert (shown["currentMode"], shown["currentPoolId"]) == ("spot", pool("us-east-1b"))
    assert "switch" in {line["eventType"] for line in await dashboard.logs(agent.machine.id)}
    assert len(await dashboard.instances()) == 1


async def test_in_place_to_demand_and_back(agent: MinimalAgent, dashboard: Dashboard) -> None:
    await dashboard.force(agent.machine.id)
    await agent.commands()
    await agent.heartbeat()
    shown = await dashboard.agent_shown()
    assert (shown["currentMode"], shown["currentPoolId"]) == ("ondemand", None)

    await dashboard.force(agent.machine.id, pool("us-east-1a"))
    await agent.commands()
    await agent.heartbeat()

    back, there = await dashboard.switches()
    assert there["savingsImpact"] == pytest.approx(0.040 - ON_DEMAND)
    assert (there["toPool"], back["fromPool"]) == ("n/a", "n/a")
    assert back["savingsImpact"] == pytest.approx(ON_DEMAND - 0.040)
    shown = await dashboard.agent_shown()
    assert (shown["currentMode"], shown["currentPoolId"]) == ("spot", pool("us-east-1a"))
    assert await dashboard.sound() == agent.machine.id


async def test_a_goodbye_takes_it_offline_and_a_beat_brings_it_back(
    agent: MinimalAgent, dashboard: Dashboard
) -> None:
    await dashboard.force(agent.machine.id, pool("us-east-1b"))
    await agent.commands()
    await agent.heartbeat()

    await agent.goodbye()

    assert (await dashboard.agent_shown())["status"] == "offline"
    assert await agent.heartbeat()
    assert (await dashboard.agent_shown())["status"] == "online"

    async def reported() -> bool:
        return any("offline" in message for message in await dashboard.messages())

    await eventually(reported)


async def test_a_replica_comes_by_command_to_who_does_not_poll_for_it(
    agent: MinimalAgent, dashboard: Dashboard
) -> None:
    await dashboard.configure(agent.agent_id, manualReplicaEnabled=True)

    async def ran() -> list[str]:
        return await agent.commands()

    assert await eventually(ran, every=0.2) == ["create_replica"]
    (machine,) = agent.replicas.values()
    (shown,) = await dashboard.replicas()
    assert (shown["replica"]["status"], shown["replica"]["instanceId"]) == ("ready", machine.id)
    assert await dashboard.sound() == agent.machine.id

    await dashboard.configure(agent.agent_id)
    assert await eventually(ran, every=0.2) == ["terminate_replica"]

    assert await dashboard.replicas() == []
    assert await dashboard.sound(ended={machine.id}) == agent.machine.id
    assert (await dashboard.states())[machine.id] == "terminated"


async def test_a_notice_with_a_replica_is_a_promotion(
    agent: MinimalAgent, dashboard: Dashboard
) -> None:
    await dashboard.configure(agent.agent_id, manualReplicaEnabled=True)
    await eventually(agent.commands, every=0.2)
    (standby,) = agent.replicas.values()
    dashboard.cloud.give_notice(agent.machine)

    reported = await agent.check_termination()

    assert (reported["success"], reported["new_instance_id"]) == (True, standby.id)
    assert [status for _, status in agent.calls.seen[-2:]] == [201, 200]
    assert agent.rescues == [f"{TYPE} ({standby.az})"]
    assert await dashboard.sound() == standby.id
    (emergency,) = await dashboard.emergencies()
    assert emergency["response_action"] == "promoted-existing-replica"
    assert emergency["new_instance_id"] == standby.id
    (switch,) = await dashboard.switches()
    assert switch["trigger"] == "emergency"


async def test_a_notice_without_a_replica_launches_one(
    agent: MinimalAgent, dashboard: Dashboard
) -> None:
    dashboard.cloud.give_notice(agent.machine)

    reported = await agent.check_termination()

    assert reported["success"] is False
    assert await dashboard.sound() == agent.machine.id
    assert await eventually(agent.commands, every=0.2) == ["create_replica"]
    (standby,) = agent.replicas.values()

    async def rescued() -> bool:
        return await dashboard.primary() == standby.id

    await eventually(rescued)
    assert standby.az != agent.machine.az
    assert await dashboard.sound() == standby.id


async def test_a_recommendation_has_one_rescue(agent: MinimalAgent, dashboard: Dashboard) -> None:
    first = await agent.check_rebalance()
    again = await agent.check_rebalance()

    assert (first["existing"], again["existing"]) == (False, True)
    assert again["replica_id"] == first["replica_id"]
    assert [status for _, status in agent.calls.seen[-2:]] == [201, 201]
    assert len(set(agent.rescues)) == 1
    (emergency,) = await dashboard.emergencies()
    assert emergency["signal_type"] == "rebalance-recommendation"
    assert await dashboard.sound() == agent.machine.id


async def test_uninstalled_it_is_gone(
    agent: MinimalAgent, dashboard: Dashboard, field: Field
) -> None:
    first = agent.agent_id
    assert (await agent.uninstall())["agent_id"] == first
    assert (await agent.uninstall())["agent_id"] is None
    assert not await agent.heartbeat()
    assert await dashboard.agents() == []
    await field.refused("NOT_FOUND", "GET", f"/api/agents/{first}", status=404)
    assert dashboard.cloud.running() == {agent.machine.id}

    await agent.start()

    assert agent.agent_id != first
    assert await dashboard.sound() == agent.machine.id
