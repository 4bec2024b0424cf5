"""Fixtures of the SDK's tests."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from spotplane_agents import Agent, Identity
from spotplane_agents.backoff import Pace

from tests.sdk.plane import ScriptedPlane

MakeAgent = Callable[..., Agent]
QUICK = Pace(0.02, 0.05)


@pytest.fixture
async def plane() -> AsyncIterator[ScriptedPlane]:
    """A running server."""
    async with ScriptedPlane() as running:
        yield running


def identity(instance_id: str = "i-1", **fields: Any) -> Identity:
    return Identity(instance_id, "g5.xlarge", "us-east-1", "us-east-1a", "chat", **fields)


@pytest.fixture
async def make_agent(plane: ScriptedPlane, tmp_path: Path) -> AsyncIterator[MakeAgent]:
    """A factory of agents on one disk with short retries; running agents are killed at the end."""
    made: list[Agent] = []

    def make(**options: Any) -> Agent:
        defaults: dict[str, Any] = {
            "server": plane.address,
            "api_key": "sp_test",
            "identity": identity(),
            "state_dir": tmp_path / "state",
            "retry": QUICK,
            "refused_retry": QUICK,
            "replaced_retry": QUICK,
        }
        made.append(Agent(**(defaults | options)))
        return made[-1]

    yield make
    for agent in made:
        await agent.kill()
