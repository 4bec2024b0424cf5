"""A full disk delays commands, results and notices; it loses none of them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from spotplane.v1.agent_stream_pb2 import CommandProgress
from spotplane_agents import Command
from spotplane_agents.errors import StateUnavailable

from tests.sdk.conftest import MakeAgent
from tests.sdk.full_disk import SmallDisk, small_disk
from tests.sdk.plane import ScriptedPlane, command
from tests.support.eventually import eventually

RECEIVED = CommandProgress.STAGE_RECEIVED


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as small:
        yield small


def refusals(caplog: pytest.LogCaptureFixture, what: str) -> int:
    """How often a write was logged as rejected."""
    return sum(what in record.message for record in caplog.records)


async def test_result_that_meets_a_full_disk_is_reported_once_there_is_room(
    disk: SmallDisk,
    plane: ScriptedPlane,
    make_agent: MakeAgent,
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = make_agent(state_dir=disk.directory)
    effects: list[str] = []

    @agent.command("pay")
    async def pay(order: Command) -> dict[str, Any]:
        effects.append(order.id)
        disk.fill()
        return {"paid": True}

    async with agent:
        await agent.wait_for(connected=True)
        plane.stream.say(command=command("pay", expires_in=0.2))
        await eventually(lambda: refusals(caplog, "the result of command") >= 3)
        assert plane.reports("command_result") == []

        disk.free()
        (result,) = await plane.wait_reports("command_result")
        await agent.wait_drained()

    assert result.success
    assert result.result["paid"]
    assert effects == [result.command_id]


async def test_command_that_cannot_be_begun_is_begun_once_there_is_room(
    disk: SmallDisk,
    plane: ScriptedPlane,
    make_agent: MakeAgent,
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = make_agent(state_dir=disk.directory)
    began: list[str] = []

    @agent.command("greet")
    async def greet(order: Command) -> None:
        began.append(order.id)

    held = command("greet")
    plane.desired.config.enabled = False
    async with agent:
        await agent.wait_for(connected=True)
        plane.stream.say(command=held)
        await eventually(lambda: plane.progress(RECEIVED) == [held.command_id])
        disk.fill()
        plane.desired.generation += 1
        plane.desired.config.enabled = True
        plane.stream.say(desired_state=plane.desired)
        await eventually(lambda: refusals(caplog, "the start of command") >= 1)
        assert began == []

        disk.free()
        await plane.wait_reports("command_result")
    assert began == [held.command_id]


async def test_notice_that_meets_a_full_disk_is_reported_once_there_is_room(
    disk: SmallDisk,
    plane: ScriptedPlane,
    make_agent: MakeAgent,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Prices are rejected instead, since a newer report replaces them."""
    agent = make_agent(state_dir=disk.directory)
    async with agent:
        await agent.wait_for(connected=True)
        disk.fill()
        with pytest.raises(StateUnavailable):
            await agent.report_prices(spot={"g5.xlarge.us-east-1a": 300_000_000})
        sending = agent.notice("termination")
        noticed = asyncio.create_task(sending)
        await eventually(lambda: refusals(caplog, "a notice report") >= 1)

        disk.free()
        await noticed
        await plane.wait_reports("notice")
