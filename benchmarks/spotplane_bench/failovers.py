"""From a termination notice to a committed promotion, against the bare writes of one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import grpc.aio
from google.protobuf import timestamp_pb2
from spotplane.v1 import (
    agent_pb2_grpc,
    agent_stream_pb2,
    failover_pb2,
    failover_pb2_grpc,
    replica_pb2,
    replica_pb2_grpc,
)

from spotplane_bench import agents, stack
from spotplane_bench.agents import LightAgent
from spotplane_bench.results import Aim, Result, Row, quantile

PATIENCE_SECONDS = 30.0
NOTICE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Plan:
    """How many agents with a standing replica lose their instance, so many at the same time."""

    agents: int = 300
    at_once: int = 4


QUICK = Plan(agents=40)
TINY = Plan(agents=2, at_once=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """An agent's serving instance and the one that stands by."""

    primary: LightAgent
    replica: LightAgent

    async def close(self) -> None:
        """Leave without a word."""
        await self.primary.close()
        await self.replica.close()


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of one failover, all from before the notice was sent."""

    acknowledged: float
    told: float


async def run(up: stack.Stack, plan: Plan) -> Result:
    """Measure."""
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        plane = await enter(up.plane())
        channel = await enter(grpc.aio.insecure_channel(plane.target))
        tenant = await stack.new_tenant(up, channel)
        await price(up)
        made = await pairs(channel, plane.target, tenant, plan.agents)
        for pair in made:
            opened.push_async_callback(pair.close)
        bare = await _bare_writes(up, plan.agents)
        taken = await agents.few_at_a_time([failover(pair) for pair in made], width=plan.at_once)
        responses = await _responses(channel, tenant, made)
        bare += await _bare_writes(up, plan.agents)
    return _result(plan, taken, responses, bare)


async def pairs(
    channel: grpc.aio.Channel, target: str, tenant: stack.Tenant, count: int
) -> list[Pair]:
    """Agents of a tenant, each with a replica that stands by."""
    made: list[Pair] = await agents.few_at_a_time(
        [_make(channel, target, tenant, n) for n in range(count)], width=8
    )
    return made


def _make(channel: grpc.aio.Channel, target: str, tenant: stack.Tenant, number: int) -> Any:
    async def make() -> Pair:
        fleet = agent_pb2_grpc.AgentServiceStub(channel)
        name = f"agent-{number}"
        agent_id, instance_id = await agents.register(fleet, tenant.metadata, name)
        primary = LightAgent(target, tenant.metadata, agent_id, instance_id, beats=True)
        await primary.connect()
        made = await replica_pb2_grpc.ReplicaServiceStub(channel).CreateReplica(
            replica_pb2.CreateReplicaRequest(agent_id=agent_id), metadata=tenant.metadata
        )
        _, standby = await agents.register(
            fleet, tenant.metadata, name, zone=agents.ZONES[1], replica_id=made.id
        )
        replica = LightAgent(target, tenant.metadata, agent_id, standby, beats=True)
        await replica.connect()
        acknowledged = _once(replica, "report_ack", lambda _ack: True)
        await replica.report(
            replica=agent_stream_pb2.ReplicaReport(
                replica_id=made.id, instance_id=standby, status="ready"
            )
        )
        await acknowledged
        return Pair(primary, replica)

    return make


def failover(pair: Pair) -> Any:
    """What tells a pair's primary that it will be taken, and waits for the promotion."""

    async def taken() -> Taken:
        acknowledged = _once(pair.primary, "report_ack", lambda ack: not ack.HasField("error"))
        told = _once(pair.replica, "desired_state", lambda state: state.role == "primary")
        deadline = timestamp_pb2.Timestamp(seconds=int(time.time()) + NOTICE_SECONDS)
        started = time.perf_counter()
        await pair.primary.report(
            notice=agent_stream_pb2.Notice(
                kind=agent_stream_pb2.Notice.KIND_TERMINATION, deadline=deadline
            )
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            return Taken(await acknowledged - started, await told - started)

    return taken


def _once(agent: LightAgent, kind: str, wanted: Any) -> asyncio.Future[float]:
    """When the first message of a kind came that was as wanted."""
    came: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def take(message: Any) -> None:
        if not came.done() and wanted(message):
            came.set_result(time.perf_counter())

    agent.handlers[kind] = take
    return came


async def price(up: stack.Stack) -> None:
    """Make the pools known, as agents' price reports would."""
    conn = await asyncpg.connect(up.database_url)
    try:
        await conn.executemany(
            "INSERT INTO pools (id, instance_type, region, az, price_nanousd, price_observed_at,"
            " created_at) VALUES ($1, $2, $3, $4, 300000000, now(), now())",
            [
                (f"{agents.INSTANCE_TYPE}.{zone}", agents.INSTANCE_TYPE, agents.REGION, zone)
                for zone in agents.ZONES
            ],
        )
    finally:
        await conn.close()


async def _responses(
    channel: grpc.aio.Channel, tenant: stack.Tenant, pairs: Sequence[Pair]
) -> list[float]:
    """What the plane itself says: seconds from the notice's arrival to the promotion."""
    stub = failover_pb2_grpc.FailoverServiceStub(channel)

    async def one(pair: Pair) -> float:
        answer = await stub.ListFailovers(
            failover_pb2.ListFailoversRequest(agent_id=pair.primary.agent_id),
            metadata=tenant.metadata,
        )
        (found,) = answer.data
        if found.action != "promoted_replica":
            raise RuntimeError(f"a failover ended in {found.action or found.status}")
        return float(found.response_ms) / 1000

    return await agents.few_at_a_time([partial(one, pair) for pair in pairs])


async def _bare_writes(up: stack.Stack, count: int) -> list[float]:
    """One transaction that updates three rows by key and inserts three, ``count`` times."""
    conn = await asyncpg.connect(up.database_url)
    taken = []
    try:
        await conn.execute(
            "CREATE TABLE IF NOT EXISTS bench_rows"
            " (id uuid PRIMARY KEY, state text NOT NULL, at timestamptz NOT NULL)"
        )
        for _ in range(count):
            ids = [uuid4() for _ in range(3)]
            started = time.perf_counter()
            async with conn.transaction():
                for row_id in ids:
                    await conn.execute("INSERT INTO bench_rows VALUES ($1, 'new', now())", row_id)
                for row_id in ids:
                    await conn.execute("UPDATE bench_rows SET state = 'old' WHERE id = $1", row_id)
            taken.append(time.perf_counter() - started)
    finally:
        await conn.close()
    return taken


def _result(
    plan: Plan, taken: Sequence[Taken], responses: Sequence[float], bare: Sequence[float]
) -> Result:
    committed = [found.acknowledged for found in taken]
    told = [found.told for found in taken]

    def row(name: str, q: float, mine: Sequence[float], aim: Aim | None = None) -> Row:
        return Row(name, quantile(mine, q) * 1000, "ms", quantile(bare, q) * 1000, aim=aim)

    return Result(
        "failovers",
        "one transaction of three inserts and three updates by key, alone on its connection",
        [
            row("notice sent to promotion committed and acknowledged, p50", 0.5, committed),
            row(
                "notice sent to promotion committed and acknowledged, p99",
                0.99,
                committed,
                Aim(250, True),
            ),
            row("notice sent to replica told it is primary, p50", 0.5, told),
            row("notice sent to replica told it is primary, p99", 0.99, told),
            row("notice arrived to promotion, as the plane records it, p99", 0.99, responses),
        ],
        {"agents": plan.agents, "at_once": plan.at_once},
    )
