"""Whatever happens, in whatever order it becomes known, the ledger is what the spans say."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Final, TypeAlias
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spotplane_server.kernel.db.database import Database
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.savings.jobs import SavingsJob

from tests.savings import reference
from tests.savings.world import Machine, Rows, World, bucket

# Histories run over the turn of a month.
START: Final = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0) - (
    timedelta(hours=3)
)
ZONES: Final = ("a", "b")

Step: TypeAlias = tuple[Any, ...]
PRICES = st.integers(1, 5_000_000_000)
# How far back something is told, minutes: mostly now, sometimes a day and more.
LATE = st.sampled_from([0, 0, 0, 3, 11, 47, 300, 1500])
WAITS = st.one_of(
    st.sampled_from([1, 777, 60_001, 299_999, 300_000, 1_200_000]),
    st.integers(1, 1_200_000),
    st.sampled_from([4_000_000, 11_000_123]),
)
EVENTS = st.one_of(
    st.tuples(
        st.just("launch"),
        st.integers(0, 1),
        st.sampled_from(["launching", "running_replica", "running_primary"]),
        st.sampled_from(["spot", "spot", "ondemand", "unknown"]),
        st.sampled_from(ZONES),
        st.none() | PRICES,
    ),
    st.tuples(
        st.just("move"),
        st.integers(0, 7),
        st.sampled_from(
            ["running_primary", "running_replica", "promoting", "zombie", "terminating"]
        ),
    ),
    st.tuples(st.just("end"), st.integers(0, 7)),
    st.tuples(
        st.just("place"),
        st.integers(0, 7),
        st.sampled_from(["spot", "ondemand"]),
        st.sampled_from(ZONES),
    ),
    st.tuples(st.just("heard"), st.integers(0, 7)),
    st.tuples(st.just("heard"), st.integers(0, 7)),
    st.tuples(st.just("spot"), st.sampled_from(ZONES), LATE, PRICES),
    st.tuples(st.just("spot"), st.sampled_from(ZONES), LATE, PRICES),
    st.tuples(st.just("on_demand"), LATE, PRICES),
)
JOBS = st.one_of(
    st.just(("run",)), st.just(("run",)), st.tuples(st.just("crash"), st.integers(0, 300))
)
# Time passes, most agents are heard of, something happens, and the job runs or is cut short.
ROUNDS = st.tuples(
    WAITS.map(lambda ms: [("wait", ms)]),
    st.sampled_from([[("alive",)], [("alive",)], []]),
    st.lists(EVENTS, max_size=2),
    st.lists(JOBS, max_size=1),
).map(lambda parts: [step for part in parts for step in part])


class History:
    """One tenant with two agents, and what happens to them."""

    def __init__(self, world: World, job: SavingsJob) -> None:
        self.world, self.job = world, job
        self.now = START
        self.machines: list[Machine] = []
        self.states: dict[str, str] = {}
        self.tenant_id = TenantId(UUID(int=0))
        self.agents: list[Any] = []

    async def begin(self) -> None:
        self.tenant_id = await self.world.tenant(self.now)
        self.agents = [await self.world.agent(self.tenant_id, self.now) for _ in range(2)]
        for agent, zone in enumerate(ZONES):
            await self._launch(agent, "running_primary", "spot", zone, None)

    async def take(self, step: Step) -> None:
        kind, *how = step
        await getattr(self, f"_{kind}")(*how)

    async def _wait(self, ms: int) -> None:
        self.now += timedelta(milliseconds=ms)

    async def _launch(
        self, agent: int, status: str, mode: str, zone: str, baseline: int | None
    ) -> None:
        if len(self.machines) == 8:
            return
        agent_id = self.agents[agent]
        if status == "running_primary":
            await self._free(agent_id)
        machine = await self.world.launch(
            self.tenant_id,
            agent_id,
            self.now,
            status=status,
            mode=mode,
            zone=zone,
            baseline=baseline,
        )
        self.machines.append(machine)
        self.states[machine.id] = status

    async def _free(self, agent_id: Any) -> None:
        """An agent has one primary at a time."""
        for machine in self.machines:
            if machine.agent_id == agent_id and self.states[machine.id] == "running_primary":
                await self._set(machine, "zombie")

    async def _move(self, which: int, status: str) -> None:
        machine = self._live(which)
        if machine is not None:
            if status == "running_primary":
                await self._free(machine.agent_id)
            await self._set(machine, status)

    async def _end(self, which: int) -> None:
        machine = self._live(which)
        if machine is not None:
            await self._set(machine, "terminated")

    async def _place(self, which: int, mode: str, zone: str) -> None:
        machine = self._live(which)
        if machine is not None:
            await self.world.move(machine, self.states[machine.id], self.now, mode=mode, zone=zone)

    async def _alive(self) -> None:
        for machine in self.machines:
            if self.states[machine.id] == "running_primary":
                await self.world.heard(machine, self.now)

    async def _heard(self, which: int) -> None:
        machine = self._live(which)
        if machine is not None:
            await self.world.heard(machine, self.now)

    async def _spot(self, zone: str, late: int, price: int) -> None:
        await self.world.spot(zone, self.now - timedelta(minutes=late), price)

    async def _on_demand(self, late: int, price: int) -> None:
        await self.world.on_demand(self.now - timedelta(minutes=late), price)

    async def _run(self) -> None:
        await self.job.run_once(self.now)

    async def _crash(self, after: int) -> None:
        running = asyncio.create_task(self.job.run_once(self.now))
        for _ in range(after):
            await asyncio.sleep(0)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    async def _set(self, machine: Machine, status: str) -> None:
        await self.world.move(machine, status, self.now)
        self.states[machine.id] = status

    def _live(self, which: int) -> Machine | None:
        live = [m for m in self.machines if self.states[m.id] != "terminated"]
        return live[which % len(live)] if live else None


async def expected(history: History) -> tuple[Rows, Rows]:
    """What the ledger must hold, and what is still running."""
    facts = await reference.read(history.world.conn, history.tenant_id)
    closed: Rows = {}
    running: Rows = {}
    for agent_id in history.agents:
        spans = [span for span in facts.spans if span["agent_id"] == agent_id]
        if not spans:
            continue
        first = bucket(min(span["started_at"] for span in spans))
        end = reference.horizon(facts, agent_id, history.now)
        # A ledger that was closed never opens again.
        closed |= reference.integrate(facts, agent_id, first, max(first, bucket(end)))
        running |= reference.integrate(facts, agent_id, max(first, bucket(end)), end)
    return closed, running


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rounds=st.lists(ROUNDS, min_size=4, max_size=20),
    size=st.sampled_from([(60_000, 1000, 10_000), (9, 1, 2)]),
)
async def test_the_ledger_is_what_the_spans_say(
    db: Database, world: World, rounds: list[list[Step]], size: tuple[int, int, int]
) -> None:
    """To the nano-dollar, after late prices, silences, crashes and repeated runs."""
    buckets, agents, changes = size
    own = World(world.conn)
    history = History(own, SavingsJob(db, buckets=buckets, agents=agents, changes=changes))
    await history.begin()
    for step in chain.from_iterable(rounds):
        await history.take(step)

    await history.job.run_once(history.now)
    closed, running = await expected(history)
    assert await own.ledger(history.tenant_id) == closed
    assert await own.running(history.tenant_id, history.now) == running
    for found, unit in (
        (await own.days(history.tenant_id), "day"),
        (await own.months(history.tenant_id), "month"),
    ):
        # A sum of buckets that were withdrawn stays, and is nothing.
        assert {k: v for k, v in found.items() if any(v)} == {
            k: v for k, v in reference.sums(closed, unit).items() if any(v)
        }

    assert await history.job.run_once(history.now) == 0
    assert await own.ledger(history.tenant_id) == closed
