"""How fast records come in, against COPY of the same rows, and who spends the time."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import grpc.aio
from spotplane.v1 import usage_pb2

from spotplane_bench import machine, stack
from spotplane_bench.results import Aim, Row, median
from spotplane_bench.usage_world import Traffic, User, World

STREAM: Final = "/spotplane.v1.UsageService/IngestUsage"
BATCH: Final = "/spotplane.v1.UsageService/IngestUsageBatch"

# The real one's columns, indexes and months.
COPY_TABLE: Final = """
    CREATE TABLE bench_usage (LIKE usage_records INCLUDING ALL) PARTITION BY RANGE ("timestamp");
    SELECT format('CREATE TABLE bench_%s PARTITION OF bench_usage %s', c.relname,
                  pg_get_expr(c.relpartbound, c.oid))
      FROM pg_inherits i
      JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'usage_records'::regclass
"""

# What one way of sending stored since a row of the table was the newest.
STORED: Final = """
    SELECT tenant_id, "timestamp", request_id, environment_id, api_key_id, model_id, region_id,
           node_id, prompt_tokens, completion_tokens, cached_tokens, total_tokens, latency_ms,
           status_code, outcome, price_input, price_cached, price_output, region_multiplier,
           cost_nanos, metadata, ingested_at
      FROM usage_records
     WHERE ingested_at > $1
"""


@dataclass(frozen=True, slots=True)
class Load:
    """One way of sending.

    Attributes:
        title: As it is shown.
        method: Path of the RPC.
        calls: So many at the same time.
        tenants: Of one call's records.
    """

    title: str
    method: str
    calls: int
    tenants: int = 1


LOADS: Final = (
    Load("streams of 4 tenants at the same time", STREAM, 4),
    Load("one stream of one tenant", STREAM, 1),
    Load("one administrator's stream of 4 tenants", STREAM, 1, 4),
    Load("batch RPC, 4 tenants at the same time", BATCH, 4),
)


@dataclass(slots=True)
class Spent:
    """What rounds of one load took.

    Attributes:
        ours: Records a second.
        copied: Rows a second by COPY.
        server_us: CPU time of the server for a record.
        database_us: CPU time of PostgreSQL for a record, and of COPY for a row.
        parse_us: CPU time that reading the same bytes as protobuf messages takes.
    """

    ours: list[float] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)
    database_us: list[float] = field(default_factory=list)
    copy_us: list[float] = field(default_factory=list)
    parse_us: list[float] = field(default_factory=list)


async def measure(
    up: stack.Stack, plane: stack.Child, world: World, *, records: int, rounds: int
) -> dict[Load, Spent]:
    """Send and copy in turns."""
    found = {load: Spent() for load in LOADS}
    async with grpc.aio.insecure_channel(plane.target) as channel:
        conn = await asyncpg.connect(up.database_url)
        try:
            await _prepare(conn)
            backend = await conn.fetchval("SELECT pg_backend_pid()")
            postmaster = machine.parent(backend)
            traffic = Traffic(world, seed=len(LOADS) + rounds)
            for number in range(rounds + 1):
                for load in LOADS:
                    share = records if number else records // 5  # The first one is to warm up.
                    calls = _calls(traffic, world, load, share)
                    spent = found[load] if number else Spent()
                    await _round(channel, conn, calls, plane.pid, postmaster, spent)
        finally:
            await conn.close()
    return found


@dataclass(frozen=True, slots=True)
class Call:
    """What one caller sends: messages as bytes, so that the client's own work is not measured."""

    method: str
    metadata: Sequence[tuple[str, str]]
    messages: Sequence[bytes]


def _calls(traffic: Traffic, world: World, load: Load, records: int) -> list[Call]:
    calls = []
    for number in range(load.calls):
        users: Sequence[User] = world.users[: load.tenants]
        metadata: Sequence[tuple[str, str]] = stack.ADMIN
        if load.tenants == 1:
            users = [world.users[number % len(world.users)]]
            metadata = users[0].tenant.metadata
        chunks = traffic.chunks(users, records // load.calls, named=load.tenants > 1)
        # Both requests have their records in the same field.
        messages = [usage_pb2.IngestUsageRequest(records=c).SerializeToString() for c in chunks]
        calls.append(Call(load.method, metadata, messages))
    return calls


async def _round(
    channel: grpc.aio.Channel,
    conn: Any,
    calls: Sequence[Call],
    plane: int,
    postmaster: int,
    spent: Spent,
) -> None:
    newest = await conn.fetchval("SELECT clock_timestamp()")
    ours, database = machine.cpu_seconds(plane), machine.children_cpu_seconds(postmaster)
    started = time.perf_counter()
    accepted = sum(await asyncio.gather(*(send(channel, call) for call in calls)))
    elapsed = time.perf_counter() - started
    spent.ours.append(accepted / elapsed)
    spent.server_us.append((machine.cpu_seconds(plane) - ours) / accepted * 1e6)
    used = machine.children_cpu_seconds(postmaster) - database
    spent.database_us.append(used / accepted * 1e6)
    _parse(calls, accepted, spent)
    await _copy(conn, newest, accepted, postmaster, spent)


async def send(channel: grpc.aio.Channel, call: Call) -> int:
    """Make one call; how many records were accepted, which must be all."""
    answers: list[Any] = []
    if call.method == STREAM:
        stream: Any = channel.stream_unary(
            call.method, response_deserializer=usage_pb2.IngestUsageResponse.FromString
        )
        answers.append(await stream(iter(call.messages), metadata=call.metadata))
    else:
        batch: Any = channel.unary_unary(
            call.method, response_deserializer=usage_pb2.IngestUsageBatchResponse.FromString
        )
        answers += [await batch(message, metadata=call.metadata) for message in call.messages]
    for answer in answers:
        if answer.duplicates or answer.rejected:
            raise RuntimeError(f"records were refused: {answer.errors[:1]}")
    return int(sum(answer.accepted for answer in answers))


def _parse(calls: Sequence[Call], records: int, spent: Spent) -> None:
    started = time.process_time()
    for call in calls:
        for message in call.messages:
            usage_pb2.IngestUsageRequest.FromString(message)
    spent.parse_us.append((time.process_time() - started) / records * 1e6)


async def _prepare(conn: Any) -> None:
    create, months = COPY_TABLE.split(";")
    await conn.execute(create)
    for month in await conn.fetch(months):
        await conn.execute(month[0])


async def _copy(conn: Any, newest: Any, rows: int, postmaster: int, spent: Spent) -> None:
    """Store the rows that were stored last once more, by COPY and nothing else."""
    file = io.BytesIO()
    await conn.copy_from_query(STORED, newest, output=file, format="binary")
    file.seek(0)
    used = machine.children_cpu_seconds(postmaster)
    started = time.perf_counter()
    done = await conn.copy_to_table("bench_usage", source=file, format="binary")
    spent.copied.append(rows / (time.perf_counter() - started))
    spent.copy_us.append((machine.children_cpu_seconds(postmaster) - used) / rows * 1e6)
    if done != f"COPY {rows}":
        raise RuntimeError(f"{rows} records were accepted, and then {done}")


def rows(found: dict[Load, Spent]) -> list[Row]:
    """The numbers with their aims."""
    told = []
    for load, spent in found.items():
        ratio = median([a / b for a, b in zip(spent.ours, spent.copied, strict=True)])
        main = load is LOADS[0]
        told.append(
            Row(
                f"records stored, {load.title}",
                median(spent.ours),
                "records/s",
                median(spent.copied),
                ratio,
                Aim(0.2, at_most=False) if main else None,
            )
        )
    spent = found[LOADS[0]]
    rate = Aim(50_000, at_most=False)
    per_core = 1e6 / median(spent.server_us)
    return [
        *told,
        Row("the same by the clock", median(spent.ours), "records/s", aim=rate),
        Row("the same for a second of the server's CPU", per_core, "records/s", aim=rate),
    ]


def details(found: dict[Load, Spent]) -> dict[str, Any]:
    """Where the time went, in microseconds of CPU for a record."""
    return {
        load.title: {
            "records_per_second": [round(rate) for rate in spent.ours],
            "copy_rows_per_second": [round(rate) for rate in spent.copied],
            "server_cpu_us": round(median(spent.server_us), 1),
            "database_cpu_us": round(median(spent.database_us), 1),
            "copy_cpu_us": round(median(spent.copy_us), 1),
            "protobuf_parse_us": round(median(spent.parse_us), 2),
        }
        for load, spent in found.items()
    }
