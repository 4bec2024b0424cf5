"""From posting a command by REST to the moment its agent has it, against a bare relay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp
import grpc.aio
from spotplane.v1 import agent_pb2_grpc, agent_stream_pb2

from spotplane_bench import agents, children, stack
from spotplane_bench.agents import LightAgent
from spotplane_bench.results import Aim, Result, Row, quantile

PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How many agents take turns, and how many commands each round posts, one after the other."""

    agents: int = 20
    commands: int = 200
    rounds: int = 5


QUICK = Plan(agents=10, commands=60, rounds=2)
TINY = Plan(agents=1, commands=2, rounds=1)


@dataclass(slots=True)
class Taken:
    """Seconds from before the post to receipt, and to the post's answer."""

    received: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)


async def run(up: stack.Stack, plan: Plan) -> Result:
    """Measure."""
    ours, bare = Taken(), Taken()
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        plane = await enter(up.plane())
        bridge = await enter(up.bridge(plane))
        relay = await enter(up.child(children.serve_relay))
        http = await enter(aiohttp.ClientSession())
        channel = await enter(grpc.aio.insecure_channel(plane.target))
        tenant = await stack.new_tenant(up, channel)
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        known = [
            await agents.register(stub, tenant.metadata, f"agent-{n}") for n in range(plan.agents)
        ]
        real = [LightAgent(plane.target, tenant.metadata, *ids, beats=True) for ids in known]
        relayed = [LightAgent(relay.target, (), *ids, beats=False) for ids in known]
        for agent in (*real, *relayed):
            await agent.connect()
            opened.push_async_callback(agent.close)
        headers = {"Authorization": f"Bearer {tenant.key}"}
        relay_host = f"127.0.0.1:{relay.said['http_port']}"
        for _ in range(plan.rounds):
            await _round(http, bridge.target, headers, real, plan.commands, ours)
            await _round(http, relay_host, headers, relayed, plan.commands, bare)
    return _result(plan, ours, bare)


async def _round(
    http: aiohttp.ClientSession,
    host: str,
    headers: dict[str, str],
    receivers: Sequence[LightAgent],
    count: int,
    taken: Taken,
) -> None:
    for number in range(count):
        agent = receivers[number % len(receivers)]
        received: asyncio.Future[tuple[float, str]] = asyncio.get_running_loop().create_future()
        agent.handlers["command"] = _receiver(received)
        url = f"http://{host}/v1/agents/{agent.agent_id}/commands"
        body = {"name": f"bench-{uuid4().hex}", "parameters": {"step": number}}
        started = time.perf_counter()
        async with http.post(url, json=body, headers=headers) as answer:
            await answer.read()
            answer.raise_for_status()
        taken.answered.append(time.perf_counter() - started)
        async with asyncio.timeout(PATIENCE_SECONDS):
            at, command_id = await received
        taken.received.append(at - started)
        await agent.report(
            command_result=agent_stream_pb2.CommandResult(command_id=command_id, success=True)
        )


def _receiver(received: asyncio.Future[tuple[float, str]]) -> Any:
    def take(command: Any) -> None:
        if not received.done():
            received.set_result((time.perf_counter(), command.command_id))

    return take


def _result(plan: Plan, ours: Taken, bare: Taken) -> Result:
    def row(name: str, q: float, mine: list[float], other: list[float], aim: Aim | None) -> Row:
        return Row(name, quantile(mine, q) * 1000, "ms", quantile(other, q) * 1000, aim=aim)

    return Result(
        "commands",
        "a bare relay: aiohttp handler, queue, grpc.aio stream; no database, no checks",
        [
            row("REST POST to the agent, p50", 0.5, ours.received, bare.received, Aim(10, True)),
            row("REST POST to the agent, p99", 0.99, ours.received, bare.received, None),
            row("REST POST to its answer, p50", 0.5, ours.answered, bare.answered, None),
        ],
        {"agents": plan.agents, "commands": plan.commands, "rounds": plan.rounds},
    )
