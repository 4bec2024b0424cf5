"""Usage at scale: records coming in against COPY, answers over months of them, both together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
import grpc.aio
from spotplane.v1 import usage_pb2, usage_pb2_grpc

from spotplane_bench import (
    machine,
    stack,
    usage_fill,
    usage_ingest,
    usage_routes,
    usage_together,
    usage_world,
)
from spotplane_bench.results import Result, Row
from spotplane_bench.usage_together import Together


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything.

    Attributes:
        records: Sent in a round of ingest.
        few: Records of the tenant with few of them.
        many: Of the one with many.
        days: How far those reach back.
        calls: Of every route, for each of both.
        chunks: Of a thousand, at most, that come in while queries run.
    """

    size: usage_world.Size = field(default_factory=lambda: usage_world.Size(tenants=6))
    records: int = 40_000
    rounds: int = 5
    few: int = 1_000_000
    many: int = 20_000_000
    days: int = usage_fill.DAYS
    calls: int = 60
    chunks: int = 400


QUICK = Plan(records=20_000, rounds=2, few=50_000, many=1_000_000, calls=20, chunks=100)
TINY = Plan(usage_world.Size(3, 2, 2, 1), 40, 1, 200, 400, 2, 1, 2)


@dataclass(frozen=True, slots=True)
class Found:
    """All that was measured; memory in bytes."""

    ingested: dict[usage_ingest.Load, usage_ingest.Spent]
    few: dict[str, usage_routes.Taken]
    many: dict[str, usage_routes.Taken]
    together: Together
    wrong: int
    memory: dict[str, int]


async def run(up: stack.Stack, plan: Plan) -> Result:
    """Measure."""
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        # Every answer is computed: what is kept of them is not what is measured.
        plane = await enter(up.plane(analytics_cache_mib=0))
        bridge = await enter(up.bridge(plane))
        channel = await enter(grpc.aio.insecure_channel(plane.target))
        http = await enter(aiohttp.ClientSession())
        world = await usage_world.make(up, channel, plan.size)
        memory = {"server_before": machine.rss_bytes(plane.pid)}
        ingested = await usage_ingest.measure(
            up,
            plane,
            usage_world.World(world.catalog, world.users[:-2]),
            records=plan.records,
            rounds=plan.rounds,
        )
        memory["server_after_ingest"] = machine.rss_bytes(plane.pid)
        few, many = world.users[-2:]
        await _fill(up, world, plan)
        wrong = await _wrong(channel, few, plan) + await _wrong(channel, many, plan)
        sides = [
            usage_routes.routes(channel, user, world.catalog, plan.days)
            | usage_routes.bridged(http, bridge, user, plan.days)
            for user in (few, many)
        ]
        of_few, of_many = await usage_routes.measure(sides, plan.calls)
        memory["server_after_queries"] = machine.rss_bytes(plane.pid)
        together = await usage_together.measure(
            channel,
            usage_world.Traffic(world, seed=1),
            many,
            sides[1],
            chunks=plan.chunks,
            calls=plan.calls,
        )
        memory["server"] = machine.rss_bytes(plane.pid)
        memory["server_peak"] = machine.peak_rss_bytes(plane.pid)
    return _result(plan, Found(ingested, of_few, of_many, together, wrong, memory))


async def _fill(up: stack.Stack, world: usage_world.World, plan: Plan) -> None:
    conn = await asyncpg.connect(up.database_url)
    try:
        for user, records in zip(world.users[-2:], (plan.few, plan.many), strict=True):
            await usage_fill.fill(conn, user, world.catalog, records, days=plan.days)
    finally:
        await conn.close()


async def _wrong(channel: grpc.aio.Channel, user: usage_world.User, plan: Plan) -> int:
    """Sums of some days that are not what the raw records say."""
    stub = usage_pb2_grpc.UsageServiceStub(channel)
    wrong = 0
    for back in sorted({0, 1, plan.days // 2, plan.days}):
        day = datetime.now(UTC) - timedelta(days=back)
        start = day.replace(hour=0, minute=0, second=0, microsecond=0)
        answer = await stub.VerifyRollups(
            usage_pb2.VerifyRollupsRequest(
                tenant_id=user.tenant.id,
                start_date=start.isoformat(),
                end_date=(start + timedelta(days=1)).isoformat(),
            ),
            metadata=stack.ADMIN,
        )
        wrong += answer.wrong_hours + answer.wrong_days + answer.wrong_minutes
    return wrong


def _result(plan: Plan, found: Found) -> Result:
    mib = {name: round(value / 2**20, 1) for name, value in found.memory.items()}
    titles = (f"{plan.few:,}", f"{plan.many:,}")
    return Result(
        "usage",
        "of records coming in: COPY of the same rows, as bytes, into a table with the same"
        f" columns, indexes and months, in turns; of answers: the same for {titles[0]} records",
        [
            *usage_ingest.rows(found.ingested),
            *usage_routes.rows(found.few, found.many, titles),
            *found.together.rows(),
            Row("server memory at its peak", mib["server_peak"], "MiB", mib["server_before"]),
        ],
        _details(plan, found) | {"memory_mib": mib},
    )


def _details(plan: Plan, found: Found) -> dict[str, Any]:
    return {
        "records_a_round": plan.records,
        "records_a_message": usage_world.CHUNK,
        "rounds": plan.rounds,
        "days": plan.days,
        "calls_a_route": plan.calls,
        "sums_that_were_wrong": found.wrong,
        "ingest": usage_ingest.details(found.ingested),
        "answers_of_few": usage_routes.details(found.few),
        "answers_of_many": usage_routes.details(found.many),
        "answers_while_records_come_in_p95_ms": found.together.details(),
    }
