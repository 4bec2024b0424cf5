"""Runs attacks next to a well-behaved client, and compares its latency and the stack's memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
from spotplane.v1 import agent_pb2_grpc

from spotplane_bench import agents, machine, stack
from spotplane_bench.abuse import client as well_behaved
from spotplane_bench.abuse.catalogue import ATTACKS, MIB
from spotplane_bench.abuse.client import Reads
from spotplane_bench.abuse.target import Size, Target
from spotplane_bench.results import Aim, Result, Row, quantile

SAMPLE_SECONDS: Final = 0.05
RETURN_SECONDS: Final = 10.0
# "Returned" within this: the allocators keep some of what they once had.
RETURNED_MIB: Final = 16.0
GROWTH_MIB: Final = 64.0
SLOWER_MS: Final = 50.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Which attacks, and how long the client is watched before each.

    Attributes:
        attacks: By name; empty for all.
        before_seconds: Of reads before each attack.
        return_seconds: From the end of an attack until memory is read again.
        rate: Reads per second through each door.
        tiny: Whether attacks are run in miniature.
    """

    attacks: Sequence[str] = ()
    before_seconds: float = 4.0
    return_seconds: float = RETURN_SECONDS
    rate: float = 40.0
    tiny: bool = False


QUICK = Plan(before_seconds=2.0, return_seconds=3.0)
TINY = Plan(("PING flood", "Envoy, oversized headers"), 0.3, 0.1, 10.0, tiny=True)


@dataclass(frozen=True, slots=True)
class Found:
    """What one attack did.

    Attributes:
        before: Reads before the attack.
        during: Reads while it ran.
        memory_mib: Resident memory by process before the attack, at its peak, and afterwards.
        outcome: What the attacker saw.
    """

    before: Reads
    during: Reads
    memory_mib: dict[str, tuple[float, float, float]]
    outcome: dict[str, int]

    def total(self, moment: int) -> float:
        """Memory of all processes together: 0 before, 1 at the peak, 2 afterwards."""
        return sum(values[moment] for values in self.memory_mib.values())


async def run(up: stack.Stack, plan: Plan) -> Result:
    """Measure."""
    found: dict[str, Found] = {}
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        plane = await enter(up.plane(auth_failures_per_minute=1_000_000))
        bridge = await enter(up.bridge(plane))
        edge = await enter(up.edge(plane, bridge))
        pids = {"server": plane.pid, "bridge": bridge.pid, "envoy": edge.pid}
        addresses = {"grpc": plane.target, "bridge": bridge.target, "edge": edge.target}
        async with grpc.aio.insecure_channel(plane.target) as channel:
            reader = await stack.new_tenant(up, channel)
            target = await _target(up, channel, addresses)
        client = await enter(up.child(well_behaved.serve, addresses, reader.key, plan.rate))
        attacker = await enter(up.child(attack_on_order, target))
        await _ask(client, plan.before_seconds)
        for name in plan.attacks or ATTACKS:
            found[name] = await _attack(name, plan, client, attacker, pids)
        client.pipe.send(None)
        attacker.pipe.send(None)
    return _result(plan, found)


async def _target(up: stack.Stack, channel: grpc.aio.Channel, addresses: dict[str, str]) -> Target:
    tenant = await stack.new_tenant(up, channel)
    stub = agent_pb2_grpc.AgentServiceStub(channel)
    agent_id, instance_id = await agents.register(stub, tenant.metadata, "abuse")
    return Target(
        server=addresses["grpc"],
        bridge=addresses["bridge"],
        edge=addresses["edge"],
        database_url=up.database_url,
        tenant_id=tenant.id,
        key=tenant.key,
        agent_id=agent_id,
        instance_id=instance_id,
    )


async def _attack(
    name: str, plan: Plan, client: stack.Child, attacker: stack.Child, pids: dict[str, int]
) -> Found:
    size = ATTACKS[name].tiny if plan.tiny else ATTACKS[name].full
    before = await _ask(client, plan.before_seconds)
    memory = _memory(pids)
    async with _peak(pids) as peak:
        outcome, during = await asyncio.gather(
            _ask(attacker, name, size), _ask(client, size.seconds)
        )
    if isinstance(outcome, str):
        raise RuntimeError(f"{name} failed:\n{outcome}")
    await asyncio.sleep(plan.return_seconds)
    after = _memory(pids)
    return Found(
        before,
        during,
        {process: (memory[process], peak[process], after[process]) for process in pids},
        outcome,
    )


async def _ask(child: stack.Child, *order: Any) -> Any:
    child.pipe.send(order if len(order) > 1 else order[0])
    return await asyncio.to_thread(child.pipe.recv)


def _memory(pids: dict[str, int]) -> dict[str, float]:
    return {name: machine.rss_bytes(pid) / MIB for name, pid in pids.items()}


@contextlib.asynccontextmanager
async def _peak(pids: dict[str, int]) -> AsyncIterator[dict[str, float]]:
    """Memory by process at the moment when their sum was largest."""
    peak = _memory(pids)

    async def sample() -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            now = _memory(pids)
            if sum(now.values()) > sum(peak.values()):
                peak.update(now)

    task = asyncio.create_task(sample())
    try:
        yield peak
    finally:
        task.cancel()
        await asyncio.wait([task])


def attack_on_order(pipe: Any, log_path: str, target: Target) -> None:
    """Entry point of the attacker's process: a name and a size in, an outcome out; None ends it."""
    import uvloop

    from spotplane_bench.children import log_to

    log_to(log_path)
    # An attacker has machines of its own: this one must not take the stack's share of the cores.
    os.nice(15)

    async def serve() -> None:
        pipe.send({})
        while (order := await asyncio.to_thread(pipe.recv)) is not None:
            name, size = order
            pipe.send(await _outcome(name, size, target))

    uvloop.run(serve())


async def _outcome(name: str, size: Size, target: Target) -> dict[str, int] | str:
    try:
        return dict(await ATTACKS[name].attack(target, size))
    except Exception:  # noqa: BLE001 - it ends the benchmark in the other process
        return traceback.format_exc()


def _result(plan: Plan, found: dict[str, Found]) -> Result:
    return Result(
        "abuse",
        "the same client, or the same processes, before the attack",
        [row for name, one in found.items() for row in _rows(name, one)],
        {
            "reads_per_second_and_door": plan.rate,
            "attacks": {name: _details(one) for name, one in found.items()},
        },
    )


def _rows(name: str, found: Found) -> list[Row]:
    before, during = _p(found.before, 0.99), _p(found.during, 0.99)
    start, peak, after = (found.total(moment) for moment in range(3))
    return [
        Row(
            f"{name}: p99",
            during,
            "ms",
            before,
            None,
            Aim(max(2 * before, before + SLOWER_MS), True),
        ),
        Row(f"{name}: memory", max(0.0, peak - start), "MiB", None, None, Aim(GROWTH_MIB, True)),
        Row(f"{name}: kept", max(0.0, after - start), "MiB", None, None, Aim(RETURNED_MIB, True)),
        Row(
            f"{name}: failed reads", sum(found.during.failed.values()), "", None, None, Aim(0, True)
        ),
    ]


def _p(reads: Reads, q: float) -> float:
    return quantile([s for taken in reads.seconds.values() for s in taken], q) * 1000


def _details(found: Found) -> dict[str, Any]:
    def by_door(reads: Reads) -> dict[str, Any]:
        return {
            door: {
                "p50_ms": round(quantile(taken, 0.5) * 1000, 2),
                "p99_ms": round(quantile(taken, 0.99) * 1000, 2),
            }
            for door, taken in reads.seconds.items()
        }

    return {
        "before": by_door(found.before),
        "during": by_door(found.during),
        "failed": found.during.failed,
        "memory_mib_before_peak_after": {
            process: [round(value, 1) for value in values]
            for process, values in found.memory_mib.items()
        },
        "outcome": found.outcome,
    }
