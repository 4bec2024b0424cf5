"""Requests without a valid credential whose bodies are costly to parse."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

import aiohttp
import grpc
import grpc.aio

from spotplane_bench.abuse.target import ATTACKER, Outcome, Size, Target

AT_ONCE: Final = 4
# An empty submessage in field 1: two bytes that become an object of a few hundred.
_EMPTY_MESSAGE: Final = b"\x0a\x00"
_UNARY: Final = "/spotplane.v1.UsageService/IngestUsageBatch"
_CLIENT_STREAM: Final = "/spotplane.v1.UsageService/IngestUsage"
_SERVER_STREAM: Final = "/spotplane.v1.EventService/WatchEvents"
_BOTH_STREAM: Final = "/spotplane.v1.AgentService/Connect"


async def grpc_bomb(target: Target, size: Size) -> Outcome:
    """Send messages of millions of empty submessages, without metadata, in all four RPC shapes."""
    body = _EMPTY_MESSAGE * (size.body_bytes // 2)
    outcome: Outcome = Counter()
    options = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.insecure_channel(target.server, options) as opened:
        channel: Any = opened  # its stubs send bytes as they are

        async def stream() -> Any:
            yield body

        calls: list[Callable[[], Any]] = [
            lambda: channel.unary_unary(_UNARY)(body, timeout=size.seconds + 5),
            lambda: channel.stream_unary(_CLIENT_STREAM)(stream(), timeout=size.seconds + 5),
            lambda: _first(channel.unary_stream(_SERVER_STREAM)(body, timeout=size.seconds + 5)),
            lambda: _first(channel.stream_stream(_BOTH_STREAM)(stream(), timeout=size.seconds + 5)),
        ]

        async def one(n: int) -> None:
            try:
                await calls[n % len(calls)]()
                outcome["OK"] += 1
            except grpc.aio.AioRpcError as err:
                outcome[err.code().name] += 1

        await _at_most(size, one)
    return outcome


async def rest_usage_bomb(target: Target, size: Size) -> Outcome:
    """POST millions of `{}` as usage records without a credential."""
    return await _rest(target, size, "/v1/usage/records", b'{"records":[%b]}', b"{},", {})


async def rest_pricing_bomb(target: Target, size: Size) -> Outcome:
    """POST millions of `{}` as prices with an unknown token."""
    path = f"/api/agents/{uuid4()}/pricing-report"
    return await _rest(
        target, size, path, b'{"spot_pools":[%b]}', b"{},", {"Authorization": "Bearer unknown"}
    )


async def rest_nested_lists(target: Target, size: Size) -> Outcome:
    """POST a command whose parameters are millions of lists, with an unknown token."""
    path = f"/v1/agents/{uuid4()}/commands"
    shell = b'{"type":"custom","params":{"a":[%b]}}'
    return await _rest(target, size, path, shell, b"[],", {"Authorization": "Bearer unknown"})


async def rest_deep_nesting(target: Target, size: Size) -> Outcome:
    """POST a body of nested lists, with an unknown token."""
    body = b'{"type":"custom","params":{"a":%b}}'
    depth = size.body_bytes // 2
    return await _post(
        target,
        size,
        f"/v1/agents/{uuid4()}/commands",
        body % (b"[" * depth + b"]" * depth),
        {"Authorization": "Bearer unknown"},
    )


async def _rest(
    target: Target, size: Size, path: str, shell: bytes, item: bytes, headers: dict[str, str]
) -> Outcome:
    items = (item * (size.body_bytes // len(item)))[:-1]
    return await _post(target, size, path, shell % items, headers)


async def _post(
    target: Target, size: Size, path: str, body: bytes, headers: dict[str, str]
) -> Outcome:
    outcome: Outcome = Counter()
    headers = {"Content-Type": "application/json"} | headers
    timeout = aiohttp.ClientTimeout(total=size.seconds + 5)
    connector = aiohttp.TCPConnector(limit=0, local_addr=(ATTACKER, 0))
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:

        async def one(_n: int) -> None:
            try:
                async with http.post(
                    f"http://{target.bridge}{path}", data=body, headers=headers
                ) as answer:
                    outcome[str(answer.status)] += 1
            except (aiohttp.ClientError, TimeoutError) as err:
                outcome[type(err).__name__] += 1

        await _at_most(size, one)
    return outcome


async def _at_most(size: Size, one: Callable[[int], Any]) -> None:
    """Run attempts, a few at once, until the count or the time is used up."""
    loop = asyncio.get_running_loop()
    until = loop.time() + size.seconds
    numbers = iter(range(size.count))

    async def worker() -> None:
        for n in numbers:
            if loop.time() >= until:
                return
            await one(n)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def _first(call: Any) -> None:
    await call.read()
    await call.code()
    if await call.code() is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            await call.code(), grpc.aio.Metadata(), grpc.aio.Metadata(), await call.details()
        )
