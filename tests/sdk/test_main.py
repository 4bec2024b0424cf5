"""Running an agent as a process."""

import asyncio
import json
import os
import signal
import sys
import textwrap
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import spotplane_agents
from spotplane_agents.main import api_key_from

from tests.sdk.metadata import MetadataService
from tests.sdk.plane import ScriptedPlane, command
from tests.sdk.test_imds import DOCUMENT
from tests.support.eventually import eventually

RUN = """
import asyncio, sys
from spotplane_agents.main import AgentOptions, run_agent
asyncio.run(run_agent(AgentOptions("sp_test", {options})))
"""


@asynccontextmanager
async def process(code: str, plane: ScriptedPlane, home: Path) -> AsyncIterator[Process]:
    env = os.environ | {
        "SPOTPLANE_SERVER": plane.address,
        "SPOTPLANE_API_KEY": "sp_test",
        "XDG_STATE_HOME": str(home),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env=env)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def test_agent_of_the_docstring_runs(plane: ScriptedPlane, tmp_path: Path) -> None:
    text = (spotplane_agents.__doc__ or "").split("::\n", 1)[1].split("\nIt registers", 1)[0]
    async with process(textwrap.dedent(text), plane, tmp_path) as child:
        await eventually(lambda: plane.streams)
        plane.stream.say(command=command("greet", parameters={"name": "Ada"}))
        (result,) = await plane.wait_reports("command_result")
        child.send_signal(signal.SIGTERM)
        code = await child.wait()

    assert result.result["greeting"] == "hello Ada from primary"
    assert code == 0
    await eventually(lambda: plane.stream.heard[-1].HasField("goodbye"))


async def test_killed_process_finishes_its_reports_the_next_time(
    plane: ScriptedPlane, tmp_path: Path
) -> None:
    """A result that was not acknowledged outlives even SIGKILL."""
    text = (spotplane_agents.__doc__ or "").split("::\n", 1)[1].split("\nIt registers", 1)[0]
    plane.acking = False
    async with process(textwrap.dedent(text), plane, tmp_path) as child:
        await eventually(lambda: plane.streams)
        plane.stream.say(command=command("greet", parameters={"name": "Ada"}))
        await plane.wait_reports("command_result")
        child.kill()
        await child.wait()

    async with process(textwrap.dedent(text), plane, tmp_path):
        results = await plane.wait_reports("command_result", 2)

    assert results[0] == results[1]


async def test_ec2_agent_finds_out_who_it_is(plane: ScriptedPlane, tmp_path: Path) -> None:
    """Everything from the metadata service; only key and server are given."""
    async with MetadataService() as metadata:
        metadata.items["dynamic/instance-identity/document"] = json.dumps(DOCUMENT)
        options = f"server={plane.address!r}, imds_endpoint={metadata.endpoint!r}"
        async with process(RUN.format(options=options), plane, tmp_path):
            await eventually(lambda: plane.streams)

    assert plane.stream.hello.instance_id == "i-0abc"
    assert plane.registrations[0].image_id == "ami-1"


async def test_simulated_agent_ends_on_sigterm(plane: ScriptedPlane, tmp_path: Path) -> None:
    options = f"server={plane.address!r}, provider='simulated', logical_agent_id='trial'"
    async with process(RUN.format(options=options), plane, tmp_path) as child:
        await eventually(lambda: plane.streams and plane.stream.heard)
        child.send_signal(signal.SIGTERM)
        assert await child.wait() == 0

    assert plane.registrations[0].logical_agent_id == "trial"
    await eventually(lambda: plane.stream.heard[-1].HasField("goodbye"))


def test_key_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    """Files keep it out of process listings."""
    path = tmp_path / "key"
    path.write_text("sp_file\n")

    assert api_key_from({"SPOTPLANE_API_KEY": "sp_env"}) == "sp_env"
    assert api_key_from({"SPOTPLANE_API_KEY_FILE": str(path)}) == "sp_file"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SPOTPLANE_API_KEY": "a", "SPOTPLANE_API_KEY_FILE": "b"},
        {"SPOTPLANE_API_KEY_FILE": "/nowhere"},
    ],
)
def test_unusable_key_is_refused_by_variable_name(environment: dict[str, str]) -> None:
    """The operator sees which variable to set."""
    with pytest.raises(ValueError, match="SPOTPLANE_API_KEY"):
        api_key_from(environment)
