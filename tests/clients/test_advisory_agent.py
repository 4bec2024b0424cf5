"""An agent that asks for advice, and whose operator acts on it."""

from __future__ import annotations

import pytest

from tests.clients.advisory_agent import AdvisoryAgent
from tests.clients.cloud import pool
from tests.clients.dashboard import Dashboard


@pytest.fixture
async def agent(dashboard: Dashboard) -> AdvisoryAgent:
    """An agent that has started, under an operator who decides himself."""
    machine = dashboard.cloud.launch("us-east-1a", "spot")
    made = AdvisoryAgent(dashboard.field.tenant.key, dashboard.cloud, machine, "batch-1")
    await made.start()
    await dashboard.configure(made.agent_id)
    return made


async def test_one_request_id_for_ever_repeats_nothing(
    agent: AdvisoryAgent, dashboard: Dashboard
) -> None:
    """Every beat, question and registration is a new one, although they are named alike."""
    first = await agent.ask()
    second = await agent.ask()
    assert first["decision_id"] != second["decision_id"]
    assert await agent.heartbeat()
    assert await agent.heartbeat()
    before = agent.agent_id
    await agent.start()
    assert agent.agent_id == before
    assert await dashboard.sound() == agent.machine.id


async def test_a_restart_on_another_machine_under_the_old_id_moves_it(
    agent: AdvisoryAgent, dashboard: Dashboard
) -> None:
    """The move is no repeat of the first registration; the former machine is not ended."""
    former, agent.machine = agent.machine, dashboard.cloud.launch("us-east-1b", "spot")

    await agent.start()

    assert await dashboard.sound() == agent.machine.id
    assert (await dashboard.states())[former.id] == "zombie"
    path = f"/api/agents/{agent.agent_id}/instances-to-terminate"
    assert (await dashboard.field.get(path))["instances"] == []


async def test_advice_is_given_and_nothing_ordered(
    agent: AdvisoryAgent, dashboard: Dashboard
) -> None:
    """The prices that come with the question are those that count."""
    dashboard.cloud.prices["us-east-1a"] = 0.090

    advice = await agent.ask()

    assert (advice["recommended_action"], advice["action"]) == ("switch", "SWITCH")
    assert advice["recommended_pool_id"] == pool("us-east-1b")
    assert advice["instance_id"] == agent.machine.id
    assert advice["expected_savings_per_hour"] == pytest.approx(0.055)
    path = f"/api/agents/{agent.agent_id}/pending-commands"
    assert await dashboard.field.get(path) == []
    assert (await agent.emergency())["notice_status"] == "none"


async def test_without_a_standby_the_plane_goes_on_trying(
    agent: AdvisoryAgent, dashboard: Dashboard
) -> None:
    """The agent is told that nothing is rescued yet, and reads what is being done."""
    await agent.ask()
    dashboard.cloud.give_notice(agent.machine)

    told = await agent.check_notice()

    said = await agent.emergency()
    assert said["emergency_mode_active"]
    assert not said["rebalance_only_mode"]
    assert said["notice_status"] == "termination"
    assert said["notice_deadline"] is not None
    assert told["action"] in {"launching_replica", "switch_queued"}
    assert await dashboard.sound() == agent.machine.id


async def test_the_end_of_the_primary_takes_the_agent_offline(
    agent: AdvisoryAgent, dashboard: Dashboard
) -> None:
    """Told without a notice before it."""
    dashboard.cloud.terminate(agent.machine.id)

    assert (await agent.post_mortem())["success"]

    assert (await dashboard.agent_shown())["status"] == "offline"
    assert await dashboard.states() == {agent.machine.id: "terminated"}


async def test_deleted_it_reads_nothing(agent: AdvisoryAgent, dashboard: Dashboard) -> None:
    """It never notices, and keeps calling."""
    await dashboard.delete(agent.agent_id)
    assert not await agent.heartbeat()
    assert (await agent.ask())["code"] == "NOT_FOUND"
    assert dashboard.cloud.running() == {agent.machine.id}
