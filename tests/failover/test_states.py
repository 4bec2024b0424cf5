"""Agents, replicas and failovers under whatever two servers, repeats and cuts do to them.

Steps are drawn by hypothesis and carried out in batches, the calls of one batch at the same time on
two servers of one database. Some batches lose their connections in the middle. After each batch the
database is looked at: what was committed must be whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import asyncpg
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spotplane.v1 import agent_pb2, agent_pb2_grpc, failover_pb2, replica_pb2
from spotplane_server.kernel.db.database import CONNECTION_ERRORS
from spotplane_server.kernel.errors import DomainError

from tests.support.clock import FakeClock
from tests.support.fleet import REGION, TYPE, ZONES, Calls
from tests.support.link import by_hand, run_job
from tests.support.plane import Plane, Tenant, running
from tests.support.reader import Reader

PLACEHOLDERS = ("manual-", "replica-", "emergency-")
# What an instance may be that is on its way out, and what must then be true of it: its replica was
# ended, its agent said so, or the cloud had announced it and its time was over.
UNCONSENTED = """
    SELECT i.id
      FROM instances i
     WHERE i.agent_id = $1 AND i.status IN ('terminating', 'terminated')
       AND NOT EXISTS (SELECT FROM replicas r
                        WHERE r.tenant_id = i.tenant_id AND r.instance_id = i.id
                          AND r.status = 'terminated')
       AND NOT EXISTS (SELECT FROM failovers f
                        WHERE f.tenant_id = i.tenant_id AND f.instance_id = i.id
                          AND f.kind = 'termination')
"""


@dataclass
class World:
    """Two servers, one database, one tenant, under one clock."""

    planes: tuple[Plane, Plane]
    clock: FakeClock
    tenant: Tenant
    url: str
    reader: Reader


@dataclass
class Life:
    """One agent's, from its registration on."""

    world: World
    agent_id: str
    primary: str
    launched: int = 0
    told: list[str] = field(default_factory=list)

    def calls(self, server: int) -> Calls:
        """The tenant's calls on one of the servers."""
        return Calls(self.world.planes[server].channel, self.world.tenant)

    async def rows(self, statement: str, *more: Any) -> list[Any]:
        """Read the agent's rows."""
        return list(await self.world.reader.fetch(statement, self.agent_id, *more))

    async def replica(self) -> Any | None:
        """The newest replica, if there ever was one."""
        found = await self.rows(
            "SELECT id::text, instance_id, bound, status FROM replicas WHERE agent_id = $1"
            " ORDER BY created_at DESC LIMIT 1"
        )
        return found[0] if found else None

    async def instance(self, part: str) -> str | None:
        """An instance that has a part in this agent's life; None means that nothing is named."""
        if part == "unknown":
            return "i-unknown"
        if part == "nothing":
            return None
        found = await self.rows(
            "SELECT id FROM instances WHERE agent_id = $1 AND status = $2 ORDER BY id LIMIT 1", part
        )
        return found[0]["id"] if found else None

    def fresh(self) -> str:
        """The id of an instance that was launched just now."""
        self.launched += 1
        return f"{self.primary}-{self.launched}"


Step = Callable[[Life, int], Awaitable[Any]]
PARTS = ("running_primary", "running_replica", "zombie", "terminated", "unknown", "nothing")


def notice(part: str) -> Step:
    """A termination notice for whoever has a part."""

    async def step(life: Life, server: int) -> None:
        request = failover_pb2.HandleTerminationNoticeRequest(
            agent_id=life.agent_id, instance_id=await life.instance(part)
        )
        calls = life.calls(server)
        said = await calls.failovers.HandleTerminationNotice(request, metadata=calls.metadata)
        if said.success:
            assert not said.new_instance_id.startswith(PLACEHOLDERS)
            life.told.append(said.new_instance_id)

    return step


def emergency(kind: str, part: str) -> Step:
    """A call for an emergency replica."""

    async def step(life: Life, server: int) -> None:
        request = failover_pb2.CreateEmergencyReplicaRequest(
            agent_id=life.agent_id, signal_type=kind, instance_id=await life.instance(part)
        )
        calls = life.calls(server)
        await calls.failovers.CreateEmergencyReplica(request, metadata=calls.metadata)

    return step


def bind(*, again: bool) -> Step:
    """The newest replica's launch is reported, with its instance or with one too many."""

    async def step(life: Life, server: int) -> None:
        replica = await life.replica()
        if replica is None:
            return
        same = again and replica["bound"]
        request = replica_pb2.BindReplicaInstanceRequest(
            agent_id=life.agent_id,
            replica_id=replica["id"],
            instance_id=replica["instance_id"] if same else life.fresh(),
        )
        calls = life.calls(server)
        await calls.replicas.BindReplicaInstance(request, metadata=calls.metadata)

    return step


def tell(status: str) -> Step:
    """The newest replica's state is reported."""

    async def step(life: Life, server: int) -> None:
        replica = await life.replica()
        if replica is None:
            return
        request = replica_pb2.ReportReplicaStatusRequest(
            agent_id=life.agent_id, replica_id=replica["id"], status=status
        )
        calls = life.calls(server)
        await calls.replicas.ReportReplicaStatus(request, metadata=calls.metadata)

    return step


def promote(*, demote: bool) -> Step:
    """An operator promotes the newest replica."""

    async def step(life: Life, server: int) -> None:
        replica = await life.replica()
        if replica is None:
            return
        request = replica_pb2.PromoteReplicaRequest(
            agent_id=life.agent_id, replica_id=replica["id"], demote_old_primary=demote
        )
        calls = life.calls(server)
        await calls.replicas.PromoteReplica(request, metadata=calls.metadata)

    return step


async def end(life: Life, server: int) -> None:
    """An operator ends the newest replica."""
    replica = await life.replica()
    if replica is not None:
        request = replica_pb2.DeleteReplicaRequest(agent_id=life.agent_id, replica_id=replica["id"])
        calls = life.calls(server)
        await calls.replicas.DeleteReplica(request, metadata=calls.metadata)


async def launch(life: Life, server: int) -> None:
    """The agent has launched an instance on its own."""
    request = replica_pb2.RegisterReplicaInstanceRequest(
        agent_id=life.agent_id, instance_id=life.fresh()
    )
    calls = life.calls(server)
    await calls.replicas.RegisterReplicaInstance(request, metadata=calls.metadata)


def mode(*, manual: bool) -> Step:
    """Manual mode goes on or off."""

    async def step(life: Life, server: int) -> None:
        await life.calls(server).configure(life.agent_id, manual_replica_enabled=manual)

    return step


def alive(part: str) -> Step:
    """An instance registers again."""

    async def step(life: Life, server: int) -> None:
        instance_id = await life.instance(part)
        if instance_id is None:
            return
        request = agent_pb2.RegisterRequest(
            logical_agent_id=life.primary,
            instance_id=instance_id,
            instance_type=TYPE,
            region=REGION,
            az=ZONES[0],
            mode="spot",
        )
        calls = life.calls(server)
        stub = agent_pb2_grpc.AgentServiceStub(life.world.planes[server].channel)
        await stub.Register(request, metadata=calls.metadata)

    return step


def job(name: str) -> Step:
    """A background job runs, perhaps on both servers at once."""

    async def step(life: Life, server: int) -> None:
        await run_job(life.world.planes[server], name)

    return step


def later(seconds: int) -> Step:
    """Time goes by."""

    async def step(life: Life, _server: int) -> None:
        life.world.clock.advance(timedelta(seconds=seconds))

    return step


async def cut(life: Life, _server: int) -> None:
    """Every connection of both servers is cut, whatever it is in the middle of."""
    conn = await asyncpg.connect(life.world.url)
    try:
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'spotplane'"
            " AND query NOT LIKE 'LISTEN%'"
        )
    finally:
        await conn.close()


STEPS = st.one_of(
    st.sampled_from(PARTS).map(notice),
    st.builds(
        emergency,
        st.sampled_from(["rebalance-recommendation", "termination-notice"]),
        st.sampled_from(PARTS),
    ),
    st.booleans().map(lambda again: bind(again=again)),
    st.sampled_from(["syncing", "ready", "ready", "failed", "terminated"]).map(tell),
    st.booleans().map(lambda demote: promote(demote=demote)),
    st.booleans().map(lambda manual: mode(manual=manual)),
    st.sampled_from(["running_primary", "running_replica", "zombie"]).map(alive),
    st.sampled_from(["replica-coordinator", "failover", "commands"]).map(job),
    st.sampled_from([1, 30, 70, 200]).map(later),
    st.sampled_from([end, launch, cut]),
)
BATCHES = st.lists(
    st.lists(st.tuples(STEPS, st.integers(0, 1)), min_size=1, max_size=3), min_size=4, max_size=14
)


async def carry_out(world: World, batches: list[list[tuple[Step, int]]]) -> None:
    """Lead one agent's life, and look at it after every batch."""
    life = await begin(world)
    for batch in batches:
        await asyncio.gather(*(attempt(step, life, server) for step, server in batch))
        await check(life)


async def attempt(step: Step, life: Life, server: int) -> None:
    """Carry out a step; that it is refused or cut is part of life."""
    with suppress(grpc.aio.AioRpcError, DomainError, asyncpg.PostgresError, *CONNECTION_ERRORS):
        await step(life, server)


async def begin(world: World) -> Life:
    """Register an agent whose zombies nobody may end."""
    name = f"i-{uuid4().hex[:12]}"
    life = Life(world, "", name)
    stub = agent_pb2_grpc.AgentServiceStub(world.planes[0].channel)
    registered = await stub.Register(
        agent_pb2.RegisterRequest(
            logical_agent_id=name,
            instance_id=name,
            instance_type=TYPE,
            region=REGION,
            az=ZONES[0],
            mode="spot",
        ),
        metadata=world.tenant.metadata,
    )
    life.agent_id = registered.agent_id
    await life.calls(0).configure(life.agent_id, auto_terminate_enabled=False)
    return life


async def check(life: Life) -> None:
    """What was committed is whole."""
    async with life.world.reader.snapshot():
        await _check(life)


async def _check(life: Life) -> None:
    instances = await life.rows("SELECT id, status FROM instances WHERE agent_id = $1")
    primaries = [row["id"] for row in instances if row["status"] == "running_primary"]
    assert len(primaries) == 1
    assert not [row["id"] for row in instances if row["id"].startswith(PLACEHOLDERS)]
    replicas = await life.rows(
        "SELECT id::text, status, bound, instance_id FROM replicas WHERE agent_id = $1"
    )
    live = [row for row in replicas if row["status"] in {"launching", "syncing", "ready"}]
    assert len(live) <= 1
    standing = {row["id"] for row in instances if row["status"] == "running_replica"}
    assert standing <= {row["instance_id"] for row in live}
    promoted = await life.rows(
        "SELECT data ->> 'replica_id' AS id FROM outbox_events"
        " WHERE event_type = 'replica.promoted' AND aggregate_id = $1"
    )
    assert sorted(row["id"] for row in promoted) == sorted(
        row["id"] for row in replicas if row["status"] == "promoted"
    )
    assert await life.rows(UNCONSENTED) == []
    assert set(life.told) <= {row["instance_id"] for row in replicas if row["status"] == "promoted"}
    moves = await life.rows(
        "SELECT data ->> 'old_instance_id' AS old, data ->> 'new_instance_id' AS new"
        " FROM outbox_events WHERE event_type = 'agent.moved' AND aggregate_id = $1"
        " ORDER BY txid, seq"
    )
    for before, after in pairwise(moves):
        assert before["new"] == after["old"]
    assert moves[-1]["new"] == primaries[0]


@pytest.fixture(scope="module")
def world(postgres: Any) -> Iterator[tuple[asyncio.Runner, World]]:
    """Two servers for all examples: each example is an agent of its own."""
    name = f"t{uuid4().hex}"
    clock = FakeClock()
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
            return World((first, second), clock, hand.tenant, url, Reader(own))

        yield runner, runner.run(start())
        runner.run(stack.aclose())


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(BATCHES)
def test_what_is_committed_is_whole(
    world: tuple[asyncio.Runner, World], batches: list[list[tuple[Step, int]]]
) -> None:
    """One primary, no replica promoted twice, no placeholder serving, no end without consent."""
    runner, planes = world
    runner.run(carry_out(planes, batches))
