"""The SDK against the real server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from spotplane.v1 import agent_pb2 as pb
from spotplane.v1.agent_pb2_grpc import AgentServiceStub
from spotplane_agents import Agent, Command

from tests.sdk.conftest import QUICK, identity
from tests.support.eventually import eventually
from tests.support.plane import Plane, Tenant, running


@pytest.fixture
async def control_plane(database_url: str) -> AsyncIterator[Plane]:
    async with running(database_url) as plane:
        yield plane


def agent_of(plane: Plane, tenant: Tenant, state_dir: Path) -> Agent:
    return Agent(
        server=plane.target,
        api_key=tenant.key,
        identity=identity(mode="spot"),
        state_dir=state_dir,
        retry=QUICK,
    )


async def test_command_goes_there_and_back(control_plane: Plane, tmp_path: Path) -> None:
    """Issued by REST's RPC, carried out by the agent, and read back with its whole story."""
    tenant = await control_plane.tenant()
    stub: AgentServiceStub = control_plane.stub(AgentServiceStub)
    agent = agent_of(control_plane, tenant, tmp_path)
    ran = asyncio.Event()

    @agent.command("greet")
    async def greet(command: Command) -> dict[str, str]:
        ran.set()
        return {"hello": command.parameters["name"]}

    async with agent:
        await agent.wait_for(role="primary", connected=True)
        assert agent.agent_id is not None
        order = pb.IssueCommandRequest(agent_id=agent.agent_id, name="greet")
        order.parameters.update({"name": "Ada"})
        issued = await stub.IssueCommand(order, metadata=tenant.metadata)
        await ran.wait()

    # Leaving has flushed the result.
    asked = pb.GetCommandRequest(agent_id=issued.agent_id, command_id=issued.id)
    command = await stub.GetCommand(asked, metadata=tenant.metadata)
    assert command.status == "completed"
    assert command.result["hello"] == "Ada"
    assert [e.kind for e in command.history][:4] == ["issued", "leased", "received", "started"]


async def test_everything_reported_is_acknowledged(control_plane: Plane, tmp_path: Path) -> None:
    """Usage and prices leave the disk once they are committed."""
    tenant = await control_plane.tenant()
    async with agent_of(control_plane, tenant, tmp_path) as agent:
        agent.usage("request-1", prompt_tokens=10, completion_tokens=5)
        await agent.report_prices(spot={"g5.xlarge.us-east-1a": 300_000_000})
        await agent.wait_drained()


async def test_second_process_takes_the_session_and_the_first_stops(
    control_plane: Plane, tmp_path: Path
) -> None:
    """The newer one is right: the older may be a process that hangs."""
    tenant = await control_plane.tenant()
    first = agent_of(control_plane, tenant, tmp_path / "1")
    second = agent_of(control_plane, tenant, tmp_path / "2")
    async with first:
        await first.wait_for(connected=True)
        async with second:
            await eventually(lambda: first.connection_state == "replaced")

            assert second.connected
