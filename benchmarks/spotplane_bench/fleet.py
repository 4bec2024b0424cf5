"""A whole fleet at its own pace on one server and one bridge, and what waits meanwhile.

Streams, polling agents and dashboards at their default periods; on top of them whole lives of
polling agents, failovers, and listeners to events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import grpc.aio

from spotplane_bench import agents, failovers, fanout, machine, polling, stack
from spotplane_bench.results import Aim, Result, Row, quantile

HOLDERS: Final = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the fleet is, and what is done to it while it is watched."""

    streams: int = 5000
    pollers: int = 500
    watch_seconds: float = 90.0
    settle_seconds: float = 20.0
    lives: int = 20
    failovers: int = 60
    listeners: int = 200
    rounds: int = 20


QUICK = Plan(500, 50, 30.0, 6.0, 5, 20, 50, 5)
TINY = Plan(2, 2, 1.0, 0.1, 1, 1, 2, 1)


@dataclass(frozen=True, slots=True)
class Load:
    """The processes of one run.

    Attributes:
        plane: The server.
        bridge: The bridge.
        streams: Holders of streams.
        pollers: Holder of polling agents and dashboards.
    """

    plane: stack.Child
    bridge: stack.Child
    streams: Sequence[stack.Child]
    pollers: stack.Child


@dataclass(frozen=True, slots=True)
class Cost:
    """Shares of a core while the fleet was watched, and the server's memory."""

    plane_cpu: float
    bridge_cpu: float
    plane_rss: int
    bridge_rss: int
    empty_rss: int


async def run(up: stack.Stack, plan: Plan) -> Result:
    """Measure."""
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        plane = await enter(up.plane())
        bridge = await enter(up.bridge(plane))
        channel = await enter(grpc.aio.insecure_channel(plane.target))
        tenants = [await stack.new_tenant(up, channel) for _ in range(HOLDERS + 3)]
        await failovers.price(up)
        pairs = await failovers.pairs(channel, plane.target, tenants[0], plan.failovers)
        for pair in pairs:
            opened.push_async_callback(pair.close)
        empty = machine.rss_bytes(plane.pid)
        holders = [
            await enter(
                up.child(agents.hold, plane.target, tenant.metadata, plan.streams // HOLDERS)
            )
            for tenant in tenants[1 : 1 + HOLDERS]
        ]
        for holder in holders:
            await _tell(holder, "connect", plan.streams // HOLDERS)
        keys = [(tenant.id, tenant.key) for tenant in tenants[-2:]]
        pollers = await enter(up.child(polling.hold, bridge.target, keys, plan.pollers))
        load = Load(plane, bridge, holders, pollers)
        await asyncio.sleep(plan.settle_seconds)
        cost, taken, acks = await _watch(load, plan, empty)
        busy = await _during(load, plan, channel, tenants[0], pairs)
        routes = await _tell(pollers, "watch", 0)
        bare = await _round_trips(up, 200)
        for holder in (*holders, pollers):
            await _tell(holder, "stop", 0)
    return _result(plan, cost, taken, acks, busy, routes, bare)


@dataclass(frozen=True, slots=True)
class Busy:
    """Seconds measured while the fleet ran on.

    Attributes:
        failovers: From a notice sent to its promotion acknowledged.
        told: From a commit's answer to a listener's hearing of it.
    """

    failovers: list[float]
    told: list[float]


async def _during(
    load: Load,
    plan: Plan,
    channel: grpc.aio.Channel,
    tenant: stack.Tenant,
    pairs: Sequence[failovers.Pair],
) -> Busy:
    taken = await agents.few_at_a_time([failovers.failover(pair) for pair in pairs], width=2)
    await _tell(load.pollers, "live", plan.lives)
    told: list[float] = []
    async with fanout.Listeners(load.bridge, tenant, plan.listeners) as listeners:
        for number in range(plan.rounds):
            told += await listeners.round(channel, tenant, number)
    return Busy([found.acknowledged for found in taken], told)


async def _watch(load: Load, plan: Plan, empty: int) -> tuple[Cost, dict[str, Any], list[float]]:
    pids = (load.plane.pid, load.bridge.pid)
    before, at = [machine.cpu_seconds(pid) for pid in pids], time.perf_counter()
    answers = await asyncio.gather(
        _tell(load.pollers, "watch", plan.watch_seconds),
        *(_tell(holder, "watch", plan.watch_seconds) for holder in load.streams),
    )
    elapsed = time.perf_counter() - at
    plane_cpu, bridge_cpu = [
        (machine.cpu_seconds(pid) - was) / elapsed for pid, was in zip(pids, before, strict=True)
    ]
    plane_rss, bridge_rss = [machine.rss_bytes(pid) for pid in pids]
    cost = Cost(plane_cpu, bridge_cpu, plane_rss, bridge_rss, empty)
    return cost, answers[0], [ack for answer in answers[1:] for ack in answer["acks"]]


async def _tell(child: stack.Child, order: str, value: float) -> Any:
    child.pipe.send((order, value))
    return await asyncio.to_thread(child.pipe.recv)


async def _round_trips(up: stack.Stack, count: int) -> list[float]:
    """The yardstick: one indexed read and nothing else, while the fleet runs on."""
    conn = await asyncpg.connect(up.database_url)
    taken = []
    try:
        for _ in range(count):
            started = time.perf_counter()
            await conn.fetchval("SELECT epoch FROM auth_epoch")
            taken.append(time.perf_counter() - started)
    finally:
        await conn.close()
    return taken


def _result(
    plan: Plan,
    cost: Cost,
    watched: dict[str, Any],
    acks: list[float],
    busy: Busy,
    routes: dict[str, Any],
    bare: list[float],
) -> Result:
    floor = quantile(bare, 0.99) * 1000

    def milliseconds(name: str, values: Sequence[float], aim: float | None = None) -> Row:
        return Row(
            name,
            quantile(values, 0.99) * 1000,
            "ms",
            floor,
            aim=None if aim is None else Aim(aim, at_most=True),
        )

    per_agent = (cost.plane_rss - cost.empty_rss) / (plan.streams + plan.pollers) / 1024
    rows = [
        Row("server CPU", cost.plane_cpu * 100, "% of a core"),
        Row("bridge CPU", cost.bridge_cpu * 100, "% of a core"),
        Row("server memory per agent", max(per_agent, 0.0), "KiB", aim=Aim(60, at_most=True)),
        milliseconds("heartbeat on a stream to its acknowledgement, p99", acks or [0.0], 50),
        milliseconds("notice to committed promotion, p99", busy.failovers, 250),
        milliseconds(f"commit to each of {plan.listeners} listeners, p99", busy.told, 1000),
        *(
            milliseconds(f"{name}, p99 of {len(values)}", values, 200)
            for name, values in sorted(routes["taken"].items())
        ),
        Row("calls that failed", sum(routes["failed"].values()), "", aim=Aim(0, at_most=True)),
    ]
    return Result(
        "fleet",
        "p99 of one indexed read on a connection of its own, while the fleet runs",
        rows,
        {
            "streams": plan.streams,
            "polling_agents": plan.pollers,
            "dashboards": 5,
            "watch_seconds": plan.watch_seconds,
            "listeners_p50_ms": round(quantile(busy.told, 0.5) * 1000, 2),
            "failover_p50_ms": round(quantile(busy.failovers, 0.5) * 1000, 2),
            "calls_while_watched": sum(map(len, watched["taken"].values())),
            "rss_mib": {
                "server_before": round(cost.empty_rss / 2**20, 1),
                "server": round(cost.plane_rss / 2**20, 1),
                "bridge": round(cost.bridge_rss / 2**20, 1),
            },
            "failed": routes["failed"],
        },
    )
