"""Usage at scale: records coming in against COPY, and who spends the time."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc.aio

from spotplane_bench import machine, stack, usage_ingest, usage_world
from spotplane_bench.results import Result, Row


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    size: usage_world.Size = field(default_factory=usage_world.Size)
    records: int = 40_000
    rounds: int = 5


QUICK = Plan(records=20_000, rounds=2)
TINY = Plan(usage_world.Size(2, 2, 2, 1), records=40, rounds=1)


async def run(up: stack.Stack, plan: Plan) -> Result:
    """Measure."""
    async with AsyncExitStack() as opened:
        plane = await opened.enter_async_context(up.plane())
        channel = await opened.enter_async_context(grpc.aio.insecure_channel(plane.target))
        world = await usage_world.make(up, channel, plan.size)
        empty = machine.rss_bytes(plane.pid)
        ingested = await usage_ingest.measure(
            up, plane, world, records=plan.records, rounds=plan.rounds
        )
        memory = machine.rss_bytes(plane.pid)
    return Result(
        "usage",
        "COPY of the same rows, as bytes, into a table with the same columns, indexes and months;"
        " alternating rounds",
        [
            *usage_ingest.rows(ingested),
            Row("server memory, once records came in", memory / 2**20, "MiB", empty / 2**20),
        ],
        {
            "records_a_round": plan.records,
            "records_a_message": usage_world.CHUNK,
            "rounds": plan.rounds,
            "ingest": usage_ingest.details(ingested),
        },
    )
