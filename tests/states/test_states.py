"""Agents, instances, replicas and commands under any interleaving of everything that may happen.

Two servers with their jobs share a database. Their messages come in any order, twice, at the same
time, and are cut off in the middle; after every step the database is looked at. `STATES_EXAMPLES`
says how many stories are told: a few, always the same, unless it is set.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any, ClassVar
from uuid import uuid4

import asyncpg
import grpc.aio
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from spotplane_server.kernel.db.database import CONNECTION_ERRORS
from spotplane_server.kernel.errors import DomainError

from tests.states import steps
from tests.states.cuts import TABLES, cut_at
from tests.states.invariants import check
from tests.states.steps import Step
from tests.states.world import AGENTS, Fleet, Stubs, World
from tests.support.clock import FakeClock
from tests.support.link import by_hand
from tests.support.plane import running
from tests.support.reader import Reader

EXAMPLES = os.environ.get("STATES_EXAMPLES")
SETTINGS = settings(
    max_examples=int(EXAMPLES or 12),
    stateful_step_count=30,
    deadline=None,
    derandomize=EXAMPLES is None,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)

servers = st.integers(0, 1)


class States(RuleBasedStateMachine):
    """One tenant's story."""

    runner: ClassVar[asyncio.Runner]
    world: ClassVar[World]
    fleet: Fleet

    @initialize()
    def begin(self) -> None:
        """Two agents serve, each on an instance of its own."""
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self.fleet = Fleet(self.world, await self.world.planes[0].tenant())
        for number, name in enumerate(AGENTS, 1):
            await steps.register(self.fleet, 0, name, f"i-{number}", "spot")

    @rule(step=steps.REGISTERING, server=servers)
    def registers(self, step: Step, server: int) -> None:
        self.run(self.take(step, server))

    @rule(step=steps.SPEAKING, server=servers)
    def speaks(self, step: Step, server: int) -> None:
        self.run(self.take(step, server))

    @rule(step=steps.ORDERING, server=servers)
    def orders(self, step: Step, server: int) -> None:
        self.run(self.take(step, server))

    @rule(step=steps.SWITCHING, server=servers)
    def switches(self, step: Step, server: int) -> None:
        self.run(self.take(step, server))

    @rule(step=steps.ENDING, server=servers)
    def ends(self, step: Step, server: int) -> None:
        self.run(self.take(step, server))

    @rule(step=steps.STANDING_BY, server=servers)
    def stands_by(self, step: Step, server: int) -> None:
        self.run(self.take(step, server))

    @rule(step=steps.NOTICED, server=servers)
    def is_noticed(self, step: Step, server: int) -> None:
        self.run(self.take(step, server))

    @rule(step=steps.WAITING, server=servers)
    def waits(self, step: Step, server: int) -> None:
        self.run(self.take(step, server))

    @rule(step=steps.MESSAGES)
    def repeats(self, step: Step) -> None:
        """A message arrives, and arrives again at the other server."""
        self.run(self.take(step, 0))
        self.run(self.take(step, 1))

    @rule(one=steps.MESSAGES, other=steps.MESSAGES)
    def at_once(self, one: Step, other: Step) -> None:
        """Both servers take a message at the same time."""
        self.run(self.take(one, 0), self.take(other, 1))

    @rule(step=steps.MESSAGES)
    def twice_at_once(self, step: Step) -> None:
        """Both servers take the same message at the same time."""
        self.run(self.take(step, 0), self.take(step, 1))

    @rule(step=st.one_of(steps.MESSAGES, steps.WAITING), table=st.sampled_from(TABLES))
    def is_cut_off(self, step: Step, table: str) -> None:
        """A server dies in the middle of a message, which is sent again to the other one."""
        self.run(cut_at(self.world.url, table, self.take(step, 0)))
        self.run(self.take(step, 1))

    @invariant()
    def is_whole(self) -> None:
        """What was committed is whole."""
        if hasattr(self, "fleet"):
            self.runner.run(check(self.fleet))

    def run(self, *work: Any) -> None:
        """Do some work at the same time, and look at what it has left."""

        async def together() -> None:
            await asyncio.gather(*work)

        self.runner.run(together())

    async def take(self, step: Step, server: int) -> None:
        """Make a step; that it is refused or cut off is part of life, a defect is not."""
        with suppress(DomainError, asyncpg.PostgresError, *CONNECTION_ERRORS):
            try:
                await step(self.fleet, server)
            except grpc.aio.AioRpcError as err:
                defects = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
                assert err.code() not in defects, (step, err.details())  # noqa: PT017


@pytest.fixture
def world(postgres: Any) -> Iterator[tuple[asyncio.Runner, World]]:
    """Two servers and their prices; every story is a tenant's of its own."""
    name, clock = f"t{uuid4().hex}", FakeClock()
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def start() -> World:
            admin = await asyncpg.connect(postgres.get_uri())
            await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template_migrated')
            await admin.close()
            url = postgres.get_uri(name)
            first = await stack.enter_async_context(running(url, clock))
            second = await stack.enter_async_context(running(url, clock))
            hand = await stack.enter_async_context(by_hand(first))
            _, stream = await hand.start("i-prices", name="prices")
            await hand.prices(stream)
            own = await asyncpg.connect(url)
            stack.push_async_callback(own.close)
            stubs = (Stubs(first.channel), Stubs(second.channel))
            return World((first, second), stubs, clock, url, Reader(own))

        yield runner, runner.run(start())
        runner.run(stack.aclose())


@pytest.mark.timeout(60 + 10 * SETTINGS.max_examples)
def test_whatever_happens_what_is_committed_is_whole(world: tuple[asyncio.Runner, World]) -> None:
    """One primary, one effect a command, one promotion a replica, no end without consent."""
    runner, here = world
    bound: Any = type("Bound", (States,), {"runner": runner, "world": here})
    case = bound.TestCase
    case.settings = SETTINGS
    case().runTest()
