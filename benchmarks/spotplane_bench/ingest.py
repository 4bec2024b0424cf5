"""Usage records by client streaming, against COPY of the same rows into the same kind of table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import grpc.aio
from spotplane.v1 import (
    model_pb2,
    model_pb2_grpc,
    region_pb2,
    region_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

from spotplane_bench import machine, stack, unary
from spotplane_bench.results import Aim, Result, Row, median

BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """How many records a round sends, and by how many streams at the same time."""

    records: int = 50_000
    streams: int = 2
    rounds: int = 5


QUICK = Plan(records=10_000, rounds=2)
TINY = Plan(records=20, streams=1, rounds=1)

# What COPY fills: the columns and indexes of the real one, in one partition.
COPY_TABLE: Final = """
    CREATE TABLE bench_usage (LIKE usage_records INCLUDING ALL) PARTITION BY RANGE ("timestamp");
    CREATE TABLE bench_usage_all PARTITION OF bench_usage DEFAULT;
"""
COLUMNS: Final = (
    "tenant_id",
    "timestamp",
    "request_id",
    "model_id",
    "region_id",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "total_tokens",
    "latency_ms",
    "status_code",
    "outcome",
    "cost_nanos",
    "ingested_at",
)


@dataclass(frozen=True, slots=True)
class Served:
    """One request served: what both ways store."""

    request_id: str
    at: datetime
    prompt: int
    completion: int
    latency_ms: int


async def run(up: stack.Stack, plan: Plan) -> Result:
    """Measure."""
    ours: list[float] = []
    bare: list[float] = []
    cpu: list[float] = []
    async with up.plane() as plane, grpc.aio.insecure_channel(plane.target) as channel:
        tenant = await stack.new_tenant(up, channel)
        region = await unary.some_region(region_pb2_grpc.RegionServiceStub(channel))
        model = await _model(channel)
        stub = usage_pb2_grpc.UsageServiceStub(channel)
        conn = await asyncpg.connect(up.database_url)
        try:
            await conn.execute(COPY_TABLE)
            await _stream(stub, tenant, model, region, _served(BATCH), plan.streams)
            for _ in range(plan.rounds):
                served = _served(plan.records)
                used = machine.cpu_seconds(plane.pid)
                ours.append(
                    len(served) / await _stream(stub, tenant, model, region, served, plan.streams)
                )
                cpu.append((machine.cpu_seconds(plane.pid) - used) / len(served) * 1e6)
                bare.append(len(served) / await _copy(conn, tenant, model, region, served))
        finally:
            await conn.close()
    return _result(plan, ours, bare, cpu)


async def _model(channel: grpc.aio.Channel) -> model_pb2.Model:
    model: model_pb2.Model = await model_pb2_grpc.ModelServiceStub(channel).CreateModel(
        model_pb2.CreateModelRequest(
            name=f"bench-{uuid4().hex[:8]}",
            family="bench",
            type="chat",
            context_length=8192,
            vram_required_gb=24,
            price_input_per_million=0.5,
            price_output_per_million=1.5,
        ),
        metadata=stack.ADMIN,
    )
    return model


def _served(count: int) -> list[Served]:
    now = datetime.now(UTC)
    return [
        Served(
            uuid4().hex,
            now - timedelta(milliseconds=n % 3_600_000),
            200 + n % 1800,
            50 + n % 450,
            80 + n % 1900,
        )
        for n in range(count)
    ]


async def _stream(
    stub: Any,
    tenant: stack.Tenant,
    model: model_pb2.Model,
    region: region_pb2.Region,
    served: list[Served],
    streams: int,
) -> float:
    """Seconds until all of it was stored."""
    # Built before the clock starts: the client's own work is not what is measured.
    messages = list(_messages(model, region, served))
    shares = [messages[n::streams] for n in range(streams)]
    started = time.perf_counter()
    calls = [stub.IngestUsage(iter(share), metadata=tenant.metadata) for share in shares]
    answers = [await call for call in calls]
    elapsed = time.perf_counter() - started
    accepted = sum(answer.accepted for answer in answers)
    if accepted != len(served):
        raise RuntimeError(f"{accepted} of {len(served)} records were accepted: {answers[0]}")
    return elapsed


def _messages(
    model: model_pb2.Model, region: region_pb2.Region, served: list[Served]
) -> Iterator[usage_pb2.IngestUsageRequest]:
    for start in range(0, len(served), BATCH):
        yield usage_pb2.IngestUsageRequest(
            records=[
                usage_pb2.UsageRecord(
                    request_id=one.request_id,
                    timestamp=one.at.isoformat(),
                    model_id=model.id,
                    region_id=region.id,
                    prompt_tokens=one.prompt,
                    completion_tokens=one.completion,
                    latency_ms=one.latency_ms,
                    status_code=200,
                )
                for one in served[start : start + BATCH]
            ]
        )


async def _copy(
    conn: Any,
    tenant: stack.Tenant,
    model: model_pb2.Model,
    region: region_pb2.Region,
    served: list[Served],
) -> float:
    tenant_id, model_id, region_id = UUID(tenant.id), UUID(model.id), UUID(region.id)
    now = datetime.now(UTC)
    rows = [
        (
            tenant_id,
            one.at,
            one.request_id,
            model_id,
            region_id,
            one.prompt,
            one.completion,
            0,
            one.prompt + one.completion,
            one.latency_ms,
            200,
            "success",
            1000,
            now,
        )
        for one in served
    ]
    started = time.perf_counter()
    await conn.copy_records_to_table("bench_usage", records=rows, columns=COLUMNS)
    return time.perf_counter() - started


def _result(plan: Plan, ours: list[float], bare: list[float], cpu: list[float]) -> Result:
    ratio = median([a / b for a, b in zip(ours, bare, strict=True)])
    return Result(
        "ingest",
        "COPY of the same rows into a partitioned table with the same indexes, alternating rounds",
        [
            Row(
                "records stored, priced, deduplicated, summed",
                median(ours),
                "records/s",
                median(bare),
                ratio,
                Aim(0.1, at_most=False),
            )
        ],
        {
            "records": plan.records,
            "records_per_message": BATCH,
            "streams": plan.streams,
            "rates": [round(rate) for rate in ours],
            "copy_rates": [round(rate) for rate in bare],
            "server_cpu_us_per_record": [round(used, 1) for used in cpu],
        },
    )
