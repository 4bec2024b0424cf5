"""Lifecycle of an advisory agent, with an operator who acts on the advice."""

from __future__ import annotations

import pytest

from tests.clients.advisory_agent import AdvisoryAgent
from tests.clients.cloud import pool
from tests.clients.dashboard import Dashboard


@pytest.fixture
async def agent(dashboard: Dashboard) -> AdvisoryAgent:
    """An agent that has started, with manual decisions of its operator."""
    machine = dashboard.cloud.launch("us-east-1a", "spot")
    made = AdvisoryAgent(dashboard.field.tenant.key, dashboard.cloud, machine, "batch-1")
    await made.start()
    await dashboard.configure(made.agent_id)
    return made


async def test_one_request_id_for_ever_repeats_nothing(
    agent: AdvisoryAgent, dashboard: Dashboard
) -> None:
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
    former, agent.machine = agent.machine, dashboard.cloud.launch("us-east-1b", "spot")

    await agent.start()

    assert await dashboard.sound() == agent.machine.id
    assert (await dashboard.states())[former.id] == "zombie"
    path = f"/api/agents/{agent.agent_id}/instances-to-terminate"
    assert (await dashboard.field.get(path))["instances"] == []


async def test_advice_is_given_and_nothing_ordered(
    agent: AdvisoryAgent, dashboard: Dashboard
) -> None:
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
    await agent.ask()
    dashboard.cloud.give_notice(agent.machine)

    reported = await agent.check_notice()

    reply = await agent.emergency()
    assert reply["emergency_mode_active"]
    assert not reply["rebalance_only_mode"]
    assert reply["notice_status"] == "termination"
    assert reply["notice_deadline"] is not None
    assert reported["action"] in {"launching_replica", "switch_queued"}
    assert await dashboard.sound() == agent.machine.id


async def test_the_end_of_the_primary_takes_the_agent_offline(
    agent: AdvisoryAgent, dashboard: Dashboard
) -> None:
    dashboard.cloud.terminate(agent.machine.id)

    assert (await agent.post_mortem())["success"]

    assert (await dashboard.agent_shown())["status"] == "offline"
    assert await dashboard.states() == {agent.machine.id: "terminated"}


async def test_deleted_it_reads_nothing(agent: AdvisoryAgent, dashboard: Dashboard) -> None:
    await dashboard.delete(agent.agent_id)
    assert not await agent.heartbeat()
    assert (await agent.ask())["code"] == "NOT_FOUND"
    assert dashboard.cloud.running() == {agent.machine.id}
