"""Authenticated clients that open many streams, or do not read what is sent to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import grpc.aio
from spotplane.v1 import (
    agent_pb2_grpc,
    agent_stream_pb2,
    event_pb2,
    event_pb2_grpc,
)

from spotplane_bench.abuse import http2
from spotplane_bench.abuse.target import ATTACKER, Outcome, Size, Target

# Streams on one connection; a client with more opens further connections.
PER_CONNECTION: Final = 90
_CONNECT: Final = "/spotplane.v1.AgentService/Connect"
_WATCH: Final = "/spotplane.v1.EventService/WatchEvents"
SMALL_BUFFER: Final = 4096
_EVENT_BATCH: Final = 50
_EVENT_BYTES: Final = 4000
_INSERT_EVENTS: Final = """
    INSERT INTO outbox_events (occurred_at, id, event_type, tenant_id, aggregate_id, data)
    SELECT now(), gen_random_uuid(), 'notification.created', $1::uuid, 'abuse',
           jsonb_build_object('id', n, 'message', $2::text, 'severity', 'info')
      FROM generate_series(1, $3) AS n
"""


async def stream_opening(target: Target, size: Size) -> Outcome:
    """Open agent streams that never send their first message."""

    def open_stream(channel: grpc.aio.Channel) -> Any:
        return agent_pb2_grpc.AgentServiceStub(channel).Connect(metadata=target.metadata)

    return await _open_many(target, size, open_stream)


async def subscription_opening(target: Target, size: Size) -> Outcome:
    """Open subscriptions to events, far more than a dashboard needs."""

    def open_stream(channel: grpc.aio.Channel) -> Any:
        stub = event_pb2_grpc.EventServiceStub(channel)
        return stub.Subscribe(event_pb2.SubscribeRequest(), metadata=target.metadata)

    return await _open_many(target, size, open_stream)


async def sse_opening(target: Target, size: Size) -> Outcome:
    """Open event streams through the bridge."""
    outcome: Outcome = Counter()
    async with event_streams(target, size, outcome):
        await asyncio.sleep(size.seconds)
    return outcome


async def slow_sse_readers(target: Target, size: Size) -> Outcome:
    """Open event streams through the bridge, cause events, and read nothing."""
    outcome: Outcome = Counter()
    async with event_streams(target, size, outcome, buffer=SMALL_BUFFER) as peers:
        await _cause_events(target, size)
        closed = await asyncio.gather(*(is_closed(reader) for reader, _ in peers))
        outcome["closed by server"] = sum(closed)
    return outcome


async def slow_watchers(target: Target, size: Size) -> Outcome:
    """Watch events by gRPC with a flow-control window of nothing, and cause events."""
    request = event_pb2.WatchEventsRequest(after_cursor="0").SerializeToString()
    return await _windowless(target, size, _WATCH, [request], end=True)


async def slow_agent_readers(target: Target, size: Size) -> Outcome:
    """Hold an agent's stream with a window of nothing, and cause answers by heartbeats."""
    hello = agent_stream_pb2.Hello(agent_id=target.agent_id, instance_id=target.instance_id)
    messages = [agent_stream_pb2.ConnectRequest(hello=hello).SerializeToString()]
    messages += [
        agent_stream_pb2.ConnectRequest(
            heartbeat=agent_stream_pb2.Heartbeat(seq=n)
        ).SerializeToString()
        for n in range(1, size.count + 1)
    ]
    return await _windowless(target, size, _CONNECT, messages, end=False)


async def _windowless(
    target: Target, size: Size, path: str, messages: list[bytes], *, end: bool
) -> Outcome:
    outcome: Outcome = Counter()
    connections = []
    try:
        for start in range(0, size.connections, PER_CONNECTION):
            connection = await http2.Connection.open(target.server, window=0)
            connections.append(connection)
            for n in range(min(PER_CONNECTION, size.connections - start)):
                stream_id = 2 * n + 1
                await connection.send(http2.call(stream_id, path, dict(target.metadata)))
                outcome["opened"] += 1
                for message in messages:
                    last = end and message is messages[-1]
                    await connection.send(http2.message(stream_id, message, end=last))
        await _cause_events(target, size)
        for connection in connections:
            outcome.update(connection.seen)
            outcome["ended streams"] += len(connection.reset_streams)
            outcome["closed by server"] += connection.closed.is_set()
    finally:
        for connection in connections:
            await connection.close()
    return outcome


async def _open_many(
    target: Target, size: Size, open_stream: Callable[[grpc.aio.Channel], Any]
) -> Outcome:
    """Open streams on as many connections as it takes, and hold them."""
    outcome: Outcome = Counter()
    async with contextlib.AsyncExitStack() as stack:
        calls = []
        options = (("grpc.use_local_subchannel_pool", 1),)
        for start in range(0, size.connections, PER_CONNECTION):
            channel = grpc.aio.insecure_channel(target.server, options)
            await stack.enter_async_context(channel)
            count = min(PER_CONNECTION, size.connections - start)
            calls += [open_stream(channel) for _ in range(count)]
        tasks = [asyncio.create_task(_fate(call)) for call in calls]
        done, pending = await asyncio.wait(tasks, timeout=size.seconds)
        outcome.update(task.result() for task in done)
        outcome["held"] += len(pending)
        for task in pending:
            task.cancel()
        await asyncio.wait(tasks)
    return outcome


async def _fate(call: Any) -> str:
    """The status of a stream, once it ends."""
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as err:
        return err.code().name
    return "OK"


@asynccontextmanager
async def event_streams(
    target: Target, size: Size, outcome: Outcome, *, buffer: int | None = None
) -> AsyncIterator[list[Peer]]:
    """Open event streams through the bridge for the block; count their statuses."""
    peers: list[Peer] = []
    try:
        while len(peers) < size.connections:
            peers.append(await _sse(target, outcome, buffer))
        yield peers
    finally:
        for _, writer in peers:
            writer.transport.abort()


Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _sse(target: Target, outcome: Outcome, buffer: int | None) -> Peer:
    host, _, port = target.bridge.rpartition(":")
    sock = socket.socket()
    sock.setblocking(False)
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.bind((ATTACKER, 0))
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=sock, limit=SMALL_BUFFER)
    writer.write(
        b"GET /api/events/stream HTTP/1.1\r\nHost: abuse\r\n"
        b"Authorization: Bearer %b\r\n\r\n" % target.key.encode()
    )
    async with asyncio.timeout(20):
        line = await reader.readline()
    outcome[line.split()[1].decode() if line.startswith(b"HTTP/") else "closed"] += 1
    return reader, writer


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Whether a connection has ended behind what was received of it."""
    try:
        async with asyncio.timeout(0.5):
            while await reader.read(1 << 16):
                pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


async def _cause_events(target: Target, size: Size) -> None:
    """Store events until the time is over, and wait for its end."""
    loop = asyncio.get_running_loop()
    until = loop.time() + size.seconds
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            await store_events(target, size.count)
    await asyncio.sleep(until - loop.time())


async def store_events(target: Target, count: int) -> None:
    """Store events of the attacker's tenant, a batch every 50 ms.

    They are inserted directly: an attacker causes as many through the API, only more slowly.
    """
    conn = await asyncpg.connect(target.database_url)
    try:
        for _ in range(0, count, _EVENT_BATCH):
            await conn.execute(_INSERT_EVENTS, target.tenant_id, "x" * _EVENT_BYTES, _EVENT_BATCH)
            await asyncio.sleep(0.05)
    finally:
        await conn.close()
