"""Connections, headers and bodies that exhaust the public address."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from spotplane_bench.abuse.target import ATTACKER, Outcome, Size, Target

_PATH: Final = "/v1/usage/records"
_CHUNK: Final = 64 * 1024
Peer: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def half_sent_bodies(target: Target, size: Size) -> Outcome:
    """Send all but the last byte of large bodies, and wait."""

    async def attack(peer: Peer) -> None:
        await _write(peer, _head(size.body_bytes + 1), b"x" * size.body_bytes)

    return await _hold(target, size, attack)


async def slow_bytes(target: Target, size: Size) -> Outcome:
    """Send a body at one byte per second."""

    async def attack(peer: Peer) -> None:
        await _write(peer, _head(size.body_bytes), b"{")
        while True:
            await asyncio.sleep(1)
            await _write(peer, b" ")

    return await _hold(target, size, attack)


async def slow_headers(target: Target, size: Size) -> Outcome:
    """Send a header line per second and never the last."""

    async def attack(peer: Peer) -> None:
        await _write(peer, f"GET /health HTTP/1.1\r\nHost: {target.edge}\r\n".encode())
        while True:
            await asyncio.sleep(1)
            await _write(peer, b"X-More: 1\r\n")

    return await _hold(target, size, attack)


async def connection_flood(target: Target, size: Size) -> Outcome:
    """Open connections and send nothing."""

    async def attack(_peer: Peer) -> None:
        await asyncio.sleep(size.seconds)

    return await _hold(target, size, attack)


async def oversized_headers(target: Target, size: Size) -> Outcome:
    """Send requests with more than a megabyte of headers."""
    line = b"X-Large: " + b"a" * 4000 + b"\r\n"

    async def attack(peer: Peer) -> None:
        await _write(peer, b"GET /health HTTP/1.1\r\nHost: abuse\r\n", line * 256, b"\r\n")

    return await _hold(target, size, attack)


async def oversized_bodies(target: Target, size: Size) -> Outcome:
    """Announce and send bodies far above the limit."""

    async def attack(peer: Peer) -> None:
        await _write(peer, _head(1 << 30), b"x" * size.body_bytes)

    return await _hold(target, size, attack)


def _head(length: int) -> bytes:
    lines = (
        f"POST {_PATH} HTTP/1.1",
        "Host: abuse",
        "Authorization: Bearer unknown",
        "Content-Type: application/json",
        f"Content-Length: {length}",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


async def _hold(target: Target, size: Size, attack: Callable[[Peer], Awaitable[None]]) -> Outcome:
    """Attack on many connections at once, and note how the server ended each."""
    outcome: Outcome = Counter()
    loop = asyncio.get_running_loop()
    until = loop.time() + size.seconds

    async def one() -> None:
        host, _, port = target.edge.rpartition(":")
        try:
            async with asyncio.timeout_at(until):
                peer = await asyncio.open_connection(host, int(port), local_addr=(ATTACKER, 0))
        except (OSError, TimeoutError) as err:
            outcome[type(err).__name__] += 1
            return
        try:
            outcome[await _ended(peer, attack, until)] += 1
        finally:
            peer[1].transport.abort()

    await asyncio.gather(*(one() for _ in range(size.connections)))
    return outcome


async def _ended(peer: Peer, attack: Callable[[Peer], Awaitable[None]], until: float) -> str:
    """The status of the response, "closed", or "held" for a connection that outlived the attack."""
    sending = asyncio.ensure_future(attack(peer))
    try:
        async with asyncio.timeout_at(until):
            line = await peer[0].readline()
    except TimeoutError:
        return "held"
    except ConnectionError:
        return "closed"
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await sending
    return line.split()[1].decode() if line.startswith(b"HTTP/") else "closed"


async def _write(peer: Peer, *parts: bytes) -> None:
    for part in parts:
        for start in range(0, len(part), _CHUNK):
            peer[1].write(part[start : start + _CHUNK])
            await peer[1].drain()
