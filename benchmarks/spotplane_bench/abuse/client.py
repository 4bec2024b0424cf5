"""The well-behaved client: steady reads by gRPC and REST, in a process of its own.

Requests start at fixed times, whether or not earlier ones were answered (open loop), and are timed
from when they were due. A closed loop would send less the slower the answers come, and so hide the
delay that it is meant to measure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import aiohttp
import grpc.aio
from spotplane.v1 import api_key_pb2, api_key_pb2_grpc

DOORS: Final = ("grpc", "bridge", "edge")
REQUEST_SECONDS: Final = 20.0
Read: TypeAlias = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Reads:
    """What a client got within a span.

    Attributes:
        seconds: By door, from when each request was due to its answer.
        failed: Requests without a good answer, by door and error.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)


class Client:
    """Reads through every door at a constant rate."""

    def __init__(self, addresses: dict[str, str], key: str, rate: float) -> None:
        self._rate = rate
        self._channel = grpc.aio.insecure_channel(addresses["grpc"])
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
        )
        self._reads: dict[str, Read] = {"grpc": self._by_grpc(key)}
        for door in DOORS[1:]:
            if door in addresses:
                self._reads[door] = self._by_rest(addresses[door], key)

    async def close(self) -> None:
        """Drop the connections."""
        await self._http.close()
        await self._channel.close()

    async def measure(self, seconds: float) -> Reads:
        """Send reads for a while and wait for all answers."""
        found = Reads({door: [] for door in self._reads})
        loops = (self._send(door, read, seconds, found) for door, read in self._reads.items())
        await asyncio.gather(*loops)
        return found

    async def _send(self, door: str, read: Read, seconds: float, found: Reads) -> None:
        started = time.perf_counter()
        open_reads = []
        for n in range(int(seconds * self._rate)):
            due = started + n / self._rate
            await asyncio.sleep(due - time.perf_counter())
            open_reads.append(asyncio.create_task(_timed(door, read, due, found)))
        await asyncio.gather(*open_reads)

    def _by_grpc(self, key: str) -> Read:
        stub = api_key_pb2_grpc.ApiKeyServiceStub(self._channel)
        request = api_key_pb2.ListOwnApiKeysRequest()
        metadata = (("authorization", f"Bearer {key}"),)

        async def read() -> None:
            await stub.ListOwnApiKeys(request, metadata=metadata, timeout=REQUEST_SECONDS)

        return read

    def _by_rest(self, address: str, key: str) -> Read:
        headers = {"Authorization": f"Bearer {key}"}

        async def read() -> None:
            async with self._http.get(f"http://{address}/v1/api-keys", headers=headers) as answer:
                await answer.read()
                answer.raise_for_status()

        return read


async def _timed(door: str, read: Read, due: float, found: Reads) -> None:
    try:
        await read()
    except (grpc.aio.AioRpcError, aiohttp.ClientError, TimeoutError) as err:
        what = f"{door} {_name(err)}"
        found.failed[what] = found.failed.get(what, 0) + 1
    found.seconds[door].append(time.perf_counter() - due)


def _name(err: Exception) -> str:
    if isinstance(err, grpc.aio.AioRpcError):
        return err.code().name
    if isinstance(err, aiohttp.ClientResponseError):
        return str(err.status)
    return type(err).__name__


def serve(pipe: Any, log_path: str, addresses: dict[str, str], key: str, rate: float) -> None:
    """Entry point of the client's process: a number of seconds in, `Reads` out; None ends it."""
    import uvloop

    from spotplane_bench.children import log_to

    log_to(log_path)
    uvloop.run(_serve(pipe, addresses, key, rate))


async def _serve(pipe: Any, addresses: dict[str, str], key: str, rate: float) -> None:
    client = Client(addresses, key, rate)
    pipe.send({})
    try:
        while (seconds := await asyncio.to_thread(pipe.recv)) is not None:
            pipe.send(await client.measure(seconds))
    finally:
        await client.close()
