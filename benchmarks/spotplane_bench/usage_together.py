"""What queries take while records come in as fast as they can."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc.aio
from spotplane.v1 import usage_pb2

from spotplane_bench import usage_ingest
from spotplane_bench.results import Aim, Row, quantile
from spotplane_bench.usage_routes import P95_MS, Ask
from spotplane_bench.usage_world import CHUNK, Traffic, User


@dataclass(frozen=True, slots=True)
class Together:
    """What was seen.

    Attributes:
        rate: Records a second that came in meanwhile.
        taken: Seconds of the queries by route.
    """

    rate: float
    taken: Mapping[str, Sequence[float]]

    def rows(self) -> list[Row]:
        """The numbers with their aims."""
        values = [value for route in self.taken.values() for value in route]
        return [
            Row("records stored while queries run", self.rate, "records/s"),
            Row(
                "queries while records come in, p95",
                quantile(values, 0.95) * 1000,
                "ms",
                aim=Aim(P95_MS, at_most=True),
            ),
        ]

    def details(self) -> dict[str, float]:
        """p95 of each route in milliseconds."""
        return {
            name: round(quantile(values, 0.95) * 1000, 2) for name, values in self.taken.items()
        }


async def measure(
    channel: grpc.aio.Channel,
    traffic: Traffic,
    user: User,
    asks: Mapping[str, Ask],
    *,
    chunks: int,
    calls: int,
) -> Together:
    """Send a tenant's records without a pause and ask for its usage, route by route."""
    sent, stop = 0, asyncio.Event()
    messages = [
        usage_pb2.IngestUsageRequest(records=chunk).SerializeToString()
        for chunk in traffic.chunks([user], CHUNK * chunks)
    ]

    async def send() -> None:
        nonlocal sent
        for message in messages:
            if stop.is_set():
                return
            call = usage_ingest.Call(usage_ingest.BATCH, user.tenant.metadata, [message])
            sent += await usage_ingest.send(channel, call)

    started = time.perf_counter()
    sending = asyncio.create_task(send())
    taken: dict[str, list[float]] = {name: [] for name in asks}
    try:
        # Round and round the routes, so that each is asked as many times or once more.
        for number, name in zip(range(calls * len(asks)), itertools.cycle(asks), strict=False):
            if sending.done():
                break
            before = time.perf_counter()
            await asks[name](number)
            taken[name].append(time.perf_counter() - before)
    finally:
        elapsed = time.perf_counter() - started
        rate = sent / elapsed
        stop.set()
        await sending
    return Together(rate, {name: values for name, values in taken.items() if values})
