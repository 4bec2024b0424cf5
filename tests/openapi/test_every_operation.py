"""Every operation fulfils the API's description, for all requests and callers.

A real server and bridge receive requests that Schemathesis generates from the document, and
requests
that no document describes. No response is a 5xx, and each has a status, a media type and a shape
that the document names. The same requests are made in every run; `SPOTPLANE_TEST_EXAMPLES=200`
makes that many of each kind for each operation, and has every caller send them.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar
from spotplane_bridge.app import running as bridge_running
from spotplane_bridge.config import BridgeConfig

from tests.openapi import driver
from tests.openapi.driver import Driver, Effort
from tests.openapi.vocabulary import Vocabulary
from tests.openapi.world import World
from tests.support.plane import running

EXAMPLES: Final = int(os.environ.get("SPOTPLANE_TEST_EXAMPLES", "0"))
# Systematic and nasty ones find the most in a second; drawn ones cost ten times as much to make.
EFFORT: Final = (
    Effort(EXAMPLES, EXAMPLES, EXAMPLES, every_caller=True) if EXAMPLES else Effort(8, 0, 12)
)
# Every test takes a part, so that none takes long.
PARTS: Final = 12


# The first test starts what all use.
pytestmark = pytest.mark.timeout(0 if EXAMPLES else 60, func_only=True)


@dataclass
class Api:
    """The tested API and its callers."""

    operations: list[Any]
    driver: Driver


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(postgres: Any) -> AsyncIterator[Api]:
    """One server, bridge and world for the whole file; its requests change it on purpose."""
    name = f"openapi{uuid4().hex}"
    await _execute(postgres, f'CREATE DATABASE "{name}" TEMPLATE template_migrated')
    async with (
        running(postgres.get_uri(name), tenant_rpm=1_000_000) as plane,
        bridge_running(BridgeConfig(port=0, grpc_target=plane.target, log_level="WARNING")) as port,
        ClientSession(timeout=ClientTimeout(total=30), cookie_jar=DummyCookieJar()) as http,
    ):
        base = f"http://127.0.0.1:{port}"
        async with http.get(f"{base}/openapi.json") as answer:
            document = await answer.json()
        world = World(plane, http, base)
        await world.make()
        words = Vocabulary(document, world.pools)
        yield Api(driver.load(document), Driver(world, words, http, base))
    await _execute(postgres, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("part", range(PARTS))
async def test_responses_match_the_document(api: Api, part: int) -> None:
    """Status, media type and shape; and never a defect of ours."""
    operations = api.operations[part::PARTS]
    assert operations

    for operation in operations:
        await api.driver.drive(operation, EFFORT)

    faults = [
        fault
        for (label, _), fault in api.driver.faults.items()
        if label in {operation.label for operation in operations}
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.asyncio(loop_scope="module")
async def test_most_operations_succeed_at_times(api: Api) -> None:
    """Most operations succeed at times: the world is not so strange that all is refused."""
    for operation in api.operations:
        if operation.label not in api.driver.counts:
            await api.driver.drive(operation, EFFORT)
    succeeded = [
        label for label, counts in api.driver.counts.items() if any(s < 300 for s in counts)
    ]
    assert len(succeeded) > 0.7 * len(api.operations)


async def _execute(postgres: Any, statement: str) -> None:
    conn = await asyncpg.connect(postgres.get_uri())
    try:
        await conn.execute(statement)
    finally:
        await conn.close()
