"""Connected agents: memory, heartbeat acknowledgements, database statements, CPU."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc.aio

from spotplane_bench import agents, machine, stack
from spotplane_bench.results import Aim, Result, Row, quantile

HOLDERS = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """How many agents, at first and in the end, and how long each is watched."""

    few: int = 500
    many: int = 2000
    settle_seconds: float = 15.0
    watch_seconds: float = 30.0


QUICK = Plan(few=100, many=400, settle_seconds=6.0, watch_seconds=10.0)
TINY = Plan(few=2, many=4, settle_seconds=0.1, watch_seconds=6.0)


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen while so many agents were connected."""

    agents: int
    rss_bytes: int
    acks: list[float]
    flushes_per_second: float
    transactions_per_second: float
    cpu_share: float


async def run(up: stack.Stack, plan: Plan) -> Result:
    """Measure."""
    async with AsyncExitStack() as opened:
        plane = await opened.enter_async_context(up.plane())
        async with grpc.aio.insecure_channel(plane.target) as channel:
            tenant = await stack.new_tenant(up, channel)
        holders = [
            await opened.enter_async_context(
                up.child(agents.hold, plane.target, tenant.metadata, plan.many // HOLDERS)
            )
            for _ in range(HOLDERS)
        ]
        # The first streams fill caches and pools that do not grow with the agents.
        await _each(holders, "connect", 1)
        await asyncio.sleep(plan.settle_seconds / 2)
        empty = machine.rss_bytes(plane.pid)
        started = time.perf_counter()
        few = await _watch(up, plane, holders, plan, plan.few, joined=HOLDERS)
        many = await _watch(up, plane, holders, plan, plan.many, joined=plan.few)
        elapsed = time.perf_counter() - started
        await _each(holders, "stop", 0)
    return _result(plan, empty, few, many, elapsed)


async def _watch(
    up: stack.Stack,
    plane: stack.Child,
    holders: list[stack.Child],
    plan: Plan,
    wanted: int,
    *,
    joined: int,
) -> Watched:
    await _each(holders, "connect", (wanted - joined) // HOLDERS)
    await asyncio.sleep(plan.settle_seconds)
    flushes, transactions = await _flushes(plane), await _transactions(up)
    cpu, at = machine.cpu_seconds(plane.pid), time.perf_counter()
    acks = [
        taken
        for answer in await _each(holders, "watch", plan.watch_seconds)
        for taken in answer["acks"]
    ]
    elapsed = time.perf_counter() - at
    return Watched(
        wanted,
        machine.rss_bytes(plane.pid),
        acks,
        (await _flushes(plane) - flushes) / elapsed,
        (await _transactions(up) - transactions) / elapsed,
        (machine.cpu_seconds(plane.pid) - cpu) / elapsed,
    )


async def _each(holders: list[stack.Child], order: str, value: float) -> list[Any]:
    for holder in holders:
        holder.pipe.send((order, value))
    return [await asyncio.to_thread(holder.pipe.recv) for holder in holders]


async def _flushes(plane: stack.Child) -> float:
    return await asyncio.to_thread(_metric, plane, "agent_heartbeat_flushes_total")


def _metric(plane: stack.Child, name: str) -> float:
    url = f"http://127.0.0.1:{plane.said['metrics_port']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


async def _transactions(up: stack.Stack) -> int:
    conn = await asyncpg.connect(up.database_url)
    try:
        count: int = await conn.fetchval(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        )
    finally:
        await conn.close()
    return count


def _result(plan: Plan, empty: int, few: Watched, many: Watched, elapsed: float) -> Result:
    per_agent = (many.rss_bytes - empty) / many.agents / 1024
    ratio = many.flushes_per_second / max(few.flushes_per_second, 1e-9)
    rows = [
        Row(f"server memory per agent, {many.agents} agents", per_agent, "KiB", aim=Aim(60, True)),
        Row(
            "heartbeat to acknowledgement, p50",
            quantile(many.acks, 0.5) * 1000,
            "ms",
            quantile(few.acks, 0.5) * 1000,
        ),
        Row(
            "heartbeat to acknowledgement, p99",
            quantile(many.acks, 0.99) * 1000,
            "ms",
            quantile(few.acks, 0.99) * 1000,
            aim=Aim(50, True),
        ),
        Row(
            "statements that write heartbeats",
            many.flushes_per_second,
            "per s",
            few.flushes_per_second,
            ratio,
            Aim(1.1, True),
        ),
        Row(
            "database transactions of all kinds",
            many.transactions_per_second,
            "per s",
            few.transactions_per_second,
            many.transactions_per_second / max(few.transactions_per_second, 1e-9),
        ),
        Row("server CPU", many.cpu_share * 100, "% of a core", few.cpu_share * 100),
    ]
    return Result(
        "streams",
        f"the same with {few.agents} agents",
        rows,
        {
            "heartbeat_seconds": 5,
            "watch_seconds": plan.watch_seconds,
            "rss_mib": {
                "without_agents": round(empty / 2**20, 1),
                str(few.agents): round(few.rss_bytes / 2**20, 1),
                str(many.agents): round(many.rss_bytes / 2**20, 1),
            },
            "marginal_kib_per_agent": round(
                (many.rss_bytes - few.rss_bytes) / (many.agents - few.agents) / 1024, 1
            ),
            "acks": {str(few.agents): len(few.acks), str(many.agents): len(many.acks)},
            "seconds": round(elapsed),
        },
    )
