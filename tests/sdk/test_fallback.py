"""An agent whose streams are cut: REST carries everything until one can be had again."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from spotplane.v1 import agent_pb2
from spotplane_agents import Agent, AgentDeleted, Command
from spotplane_agents.errors import RestUnavailable
from spotplane_agents.polling import PollPace
from spotplane_agents.providers.simulated import Service, SimulatedInstance
from spotplane_agents.rest import Rest
from spotplane_agents.spool import Spool
from spotplane_agents.state import State
from spotplane_bridge.app import running as bridge_running
from spotplane_bridge.config import BridgeConfig

from tests.sdk.conftest import QUICK, identity
from tests.sdk.proxy import Proxy
from tests.support.eventually import eventually
from tests.support.fleet import REGION, TYPE, ZONES, Calls, Fleet, simulated
from tests.support.plane import Plane, Tenant, running

# As often as the budget of one agent's calls allows.
POLLS = PollPace(commands=0.5, state=0.8, retry=QUICK, refused_retry=QUICK)


@dataclass(frozen=True)
class World:
    """A plane, its bridge, and a proxy before its streams."""

    plane: Plane
    proxy: Proxy
    tenant: Tenant
    calls: Calls
    connection: Any

    def agent(self, state_dir: Path, **options: Any) -> Agent:
        """An agent whose stream goes through the proxy, and its REST does not."""
        defaults: dict[str, Any] = {
            "server": self.proxy.address,
            "api_key": self.tenant.key,
            "identity": identity(mode="spot"),
            "state_dir": state_dir,
        }
        return Agent(**(defaults | self.connection | options))

    def start(self, fleet: Fleet) -> SimulatedInstance:
        """Launch the first instance of such agents."""
        service = Service("chat", self.proxy.address, self.tenant.key, connection=self.connection)
        return fleet.cloud.start(service, instance_type=TYPE, region=REGION, az=ZONES[0])

    async def order(self, agent: Agent, **fields: Any) -> agent_pb2.Command:
        """Order a switch to another zone."""
        request = agent_pb2.IssueCommandRequest(
            agent_id=agent.agent_id or "", type="switch", **fields
        )
        request.parameters.update({"target_mode": "spot", "target_pool_id": f"{TYPE}.{ZONES[1]}"})
        return await self.calls.agents.IssueCommand(request, metadata=self.calls.metadata)

    async def ended(self, order: agent_pb2.Command) -> agent_pb2.Command:
        """Wait until a command is final."""

        async def final() -> agent_pb2.Command | None:
            seen = await self.calls.command(order.agent_id, order.id)
            return seen if seen.status in {"completed", "failed"} else None

        found = await eventually(final, every=0.2)
        assert found is not None
        return found


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with running(database_url) as plane, Proxy(plane.target) as proxy:
        config = BridgeConfig(
            port=0, grpc_target=plane.target, drain_timeout_s=2, log_level="WARNING"
        )
        async with bridge_running(config) as port:
            tenant = await plane.tenant()
            connection = {
                "rest": f"http://127.0.0.1:{port}",
                "poll": POLLS,
                "retry": QUICK,
                "refused_retry": QUICK,
            }
            yield World(plane, proxy, tenant, Calls(plane.channel, tenant), connection)


async def polls(agent: Agent) -> None:
    """Wait until an agent speaks by REST."""
    await eventually(lambda: agent.connection_state == "polling")


async def streams(agent: Agent) -> None:
    """Wait until an agent holds a stream."""
    await eventually(lambda: agent.connection_state == "connected")


async def has_prices(agent: Agent) -> None:
    """Have an agent serve, and its pools priced: a switch leads to a pool with a price."""
    await agent.wait_for(role="primary", connected=True)
    await agent.report_prices(spot={f"{TYPE}.{zone}": 300_000_000 for zone in ZONES})
    await agent.wait_drained()


async def running_agent(instance: SimulatedInstance) -> Agent:
    """The agent of an instance, once it has booted."""
    await eventually(lambda: instance.agent)
    assert instance.agent is not None
    return instance.agent


async def test_agent_without_streams_uses_rest_and_returns(world: World, tmp_path: Path) -> None:
    """It registers, serves and reports as ever; the first accepted stream ends the polls."""
    world.proxy.cut()
    async with world.agent(tmp_path) as agent:
        await agent.wait_for(role="primary", connected=True)
        await polls(agent)
        assert agent.config.terminate_wait_seconds == 300
        await world.calls.configure(agent.agent_id or "", terminate_wait_seconds=77)
        await eventually(lambda: agent.config.terminate_wait_seconds == 77)

        world.proxy.mend()
        await streams(agent)

        await world.calls.configure(agent.agent_id or "", terminate_wait_seconds=78)
        await eventually(lambda: agent.config.terminate_wait_seconds == 78)


async def test_every_kind_of_report_is_taken_by_rest(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world.proxy.cut()
    async with world.agent(tmp_path) as agent:
        await agent.wait_for(role="primary", connected=True)
        agent.usage("request-1", prompt_tokens=10, completion_tokens=5, record_metadata={"a": 1})
        pools = {f"{TYPE}.{zone}": 300_000_001 for zone in ZONES}
        await agent.report_prices(spot=pools, on_demand={TYPE: 1_000_000_000})
        await agent.notice("rebalance")
        await agent.terminated("i-1", "the cloud took it")

        await agent.wait_drained()

    assert "refused" not in caplog.text


async def test_switch_that_is_polled_is_carried_out_once(world: World, tmp_path: Path) -> None:
    """The stream is cut while its handler runs; the result goes by REST, and the fleet moves."""
    async with simulated(tmp_path, world.proxy.address, world.tenant) as fleet:
        first = world.start(fleet)
        agent = await running_agent(first)
        await agent.wait_for(role="primary", connected=True)
        await agent.wait_drained()
        world.proxy.cut()
        await polls(agent)

        order = await world.order(agent)

        done = await world.ended(order)
        assert (done.status, done.delivery_count) == ("completed", 1)
        (second,) = [i for i in fleet.cloud.instances.values() if i is not first]
        successor = await running_agent(second)
        await successor.wait_for(role="primary")
        await agent.wait_for(role="retired")
        await polls(successor)
        assert (await world.calls.agent(order.agent_id)).instance_id == second.instance_id

        world.proxy.mend()
        await streams(agent)
        await streams(successor)
        assert (agent.role, successor.role) == ("retired", "primary")
        assert len(fleet.cloud.instances) == 2


async def test_notice_of_an_agent_that_polls_promotes_its_replica(
    world: World, tmp_path: Path
) -> None:
    async with simulated(tmp_path, world.proxy.address, world.tenant) as fleet:
        first = world.start(fleet)
        agent = await running_agent(first)
        await agent.wait_for(role="primary", connected=True)
        agent_id = agent.agent_id or ""
        await world.calls.configure(agent_id, manual_replica_enabled=True)
        replica = await world.calls.replica(agent_id, status="ready")
        standby = await running_agent(fleet.cloud.instances[replica.instance_id])
        world.proxy.cut()
        await polls(agent)
        await polls(standby)

        fleet.cloud.interrupt(first.instance_id, 60)

        await standby.wait_for(role="primary")
        await agent.wait_for(role="retired")
        (failover,) = await world.calls.failovers_of(agent_id)
        assert (failover.status, failover.new_instance_id) == ("resolved", replica.instance_id)


async def test_notice_does_not_wait_for_a_switch_that_is_carried_out(
    world: World, tmp_path: Path
) -> None:
    """Both have their own tasks."""
    world.proxy.cut()
    busy = asyncio.Event()
    agent = world.agent(tmp_path)

    @agent.command("switch")
    async def switch(command: Command) -> None:
        busy.set()
        await asyncio.Event().wait()

    async with agent:
        await has_prices(agent)
        await world.order(agent)
        await busy.wait()

        await agent.notice("termination")

        await agent.wait_drained()
        assert await world.calls.failovers_of(agent.agent_id or "")
        await agent.kill()


async def test_restart_in_the_middle_of_a_polled_command_does_not_repeat_it(
    world: World, tmp_path: Path
) -> None:
    world.proxy.cut()
    runs: list[str] = []

    def made() -> Agent:
        agent = world.agent(tmp_path)

        @agent.command("switch")
        async def switch(command: Command) -> None:
            runs.append(command.id)
            await asyncio.Event().wait()

        return agent

    first = made()
    async with first:
        await has_prices(first)
        order = await world.order(first)
        await eventually(lambda: runs)
        await first.kill()

    async with made():
        done = await world.ended(order)

    assert (done.status, done.message) == ("failed", "interrupted by a restart")
    assert runs == [order.id]


async def test_stream_that_is_cut_in_the_middle_of_a_command_loses_no_result(
    world: World, tmp_path: Path
) -> None:
    runs: list[str] = []
    go_on = asyncio.Event()
    agent = world.agent(tmp_path)

    @agent.command("greet")
    async def greet(command: Command) -> dict[str, str]:
        runs.append(command.id)
        await go_on.wait()
        return {"hello": "Ada"}

    async with agent:
        await agent.wait_for(role="primary", connected=True)
        order = await world.calls.issue(agent.agent_id or "", "greet")
        await eventually(lambda: runs)
        world.proxy.cut()
        await polls(agent)
        go_on.set()

        done = await world.ended(order)

    assert (done.status, done.result["hello"]) == ("completed", "Ada")
    assert runs == [order.id]


async def test_agent_sends_goodbye_by_rest(world: World, tmp_path: Path) -> None:
    world.proxy.cut()
    async with world.agent(tmp_path) as agent:
        await agent.wait_for(role="primary", connected=True)
        agent_id = agent.agent_id or ""
        agent.usage("request-1", prompt_tokens=1, completion_tokens=1)

    assert (await world.calls.agent(agent_id)).status == "offline"
    assert await asyncio.to_thread(unsent, tmp_path) == 0


async def test_deleted_agent_that_polls_stops(world: World, tmp_path: Path) -> None:
    world.proxy.cut()
    async with world.agent(tmp_path) as agent:
        await agent.wait_for(role="primary", connected=True)
        await world.calls.agents.DeleteAgent(
            agent_pb2.DeleteAgentRequest(agent_id=agent.agent_id or ""),
            metadata=world.calls.metadata,
        )

        with pytest.raises(AgentDeleted):
            await agent.wait_closed()


async def test_key_that_the_plane_refuses_is_not_tried_by_rest(
    world: World, tmp_path: Path
) -> None:
    async with world.agent(tmp_path, api_key="sp_nobody") as agent:
        await eventually(lambda: agent.connection_state == "refused")
        await eventually(lambda: world.proxy.passed > 4)

        assert not agent.connected


async def test_no_key_is_in_any_log(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On neither way, down to debug."""
    caplog.set_level(logging.DEBUG)
    world.proxy.cut()
    async with world.agent(tmp_path) as agent:
        await agent.wait_for(role="primary", connected=True)
        world.proxy.mend()
        await streams(agent)

    assert world.tenant.key not in caplog.text


async def test_no_key_is_in_any_error() -> None:
    rest = Rest("http://127.0.0.1:9", "sp_secret\n", "i-1")
    with pytest.raises(RestUnavailable) as caught:
        await rest.call("GET", "/health")
    rest.close()

    assert "sp_secret" not in str(caught.value)
    assert "malformed" in str(caught.value)


def unsent(state_dir: Path) -> int:
    """How many reports wait on an agent's disk."""
    state = State(state_dir)
    try:
        return Spool(state).size()[0]
    finally:
        state.close()
