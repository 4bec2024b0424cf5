"""Closed-loop load: so many callers, each asking again once it was answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from spotplane_bench import machine
from spotplane_bench.results import median, quantile

Ask: TypeAlias = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of load.

    Attributes:
        rate: Answers per second.
        p50_ms: Median time to an answer.
        p99_ms: What 99 % of the answers do not exceed.
        cpu_us: CPU time of the serving process for an answer, in microseconds; None when unknown.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None = None


async def measure(ask: Ask, *, concurrency: int, seconds: float, pid: int | None = None) -> Sample:
    """Ask for a while.

    Args:
        ask: One call; an exception ends the measurement.
        concurrency: Callers at the same time.
        seconds: How long.
        pid: The serving process, for its CPU time.
    """
    taken: list[float] = []
    clock = time.perf_counter
    started = clock()
    until = started + seconds
    cpu = machine.cpu_seconds(pid) if pid else 0.0

    async def caller() -> None:
        before = clock()
        while before < until:
            await ask()
            after = clock()
            taken.append(after - before)
            before = after

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    elapsed = clock() - started
    used = machine.cpu_seconds(pid) - cpu if pid else None
    return Sample(
        len(taken) / elapsed,
        quantile(taken, 0.5) * 1000,
        quantile(taken, 0.99) * 1000,
        None if used is None else used / len(taken) * 1e6,
    )


async def alternate(
    contenders: Mapping[str, tuple[Ask, int | None]],
    *,
    concurrency: int,
    seconds: float,
    rounds: int,
) -> dict[str, list[Sample]]:
    """Measure contenders in turns, so that a busy moment of the machine meets all of them.

    Args:
        contenders: By name: the call, and the process that serves it.
        concurrency: Callers at the same time.
        seconds: Of one turn.
        rounds: Turns of each, after one short turn to warm up.
    """
    for ask, _ in contenders.values():
        await measure(ask, concurrency=concurrency, seconds=min(1.0, seconds))
    samples: dict[str, list[Sample]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (ask, pid) in contenders.items():
            samples[name].append(
                await measure(ask, concurrency=concurrency, seconds=seconds, pid=pid)
            )
    return samples


def rate(samples: Sequence[Sample]) -> float:
    """Median rate of the rounds."""
    return median([sample.rate for sample in samples])


def ratio(ours: Sequence[Sample], yardstick: Sequence[Sample]) -> float:
    """Median over the rounds of our rate by the yardstick's in the same round."""
    return median([a.rate / b.rate for a, b in zip(ours, yardstick, strict=True)])


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """The rounds, for a result's details."""
    return {
        "rates": [round(sample.rate) for sample in samples],
        "p50_ms": round(median([sample.p50_ms for sample in samples]), 3),
        "p99_ms": round(median([sample.p99_ms for sample in samples]), 3),
        "server_cpu_us": [
            None if sample.cpu_us is None else round(sample.cpu_us) for sample in samples
        ],
    }
