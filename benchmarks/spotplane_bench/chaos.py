"""TCP proxy that injects faults: cuts, refusals, delays, silence and lost PostgreSQL answers.

The proxy forwards each connection to one upstream. Faults apply to all its connections, present and
future, until they are withdrawn. It runs on the caller's event loop.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

# A host and a port, or the path of a Unix socket.
Upstream: TypeAlias = tuple[str, int] | str

CHUNK_BYTES: Final = 64 * 1024
_STARTUP_LENGTH: Final = 4
_HEADER_LENGTH: Final = 5
# SSLRequest and GSSENCRequest; PostgreSQL answers each with one byte.
_ENCRYPTION_REQUESTS: Final = (80877103, 80877104)
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


def is_commit(sql: str) -> bool:
    """Whether a statement is COMMIT."""
    return sql.strip().rstrip("; ").upper() in {"COMMIT", "END", "COMMIT TRANSACTION"}


class ChaosProxy:
    """A listener on 127.0.0.1 and its connections; see `chaos_proxy`.

    Args:
        upstream: Where connections are forwarded to.

    Attributes:
        port: Where the proxy listens.
        lost_answers: PostgreSQL answers that `lose_answers` has withheld so far.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._links: dict[_Link, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self._refusing = False
        self._matches: Callable[[str], bool] = is_commit
        self._losses_due = 0
        self.delay_seconds = 0.0
        self.to_upstream = _Valve()
        self.to_client = _Valve()
        self.port = 0
        self.lost_answers = 0

    @property
    def target(self) -> str:
        """Address of the proxy, ``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Number of connections that are forwarded now."""
        return len(self._links)

    def cut(self) -> None:
        """Reset all connections on both sides."""
        for link in self._links:
            link.reset()

    def refuse(self) -> None:
        """Reset every new connection at once."""
        self._refusing = True

    def delay(self, seconds: float) -> None:
        """Hold back each chunk of bytes in either direction for so long."""
        self.delay_seconds = seconds

    def silence(self, *, to_upstream: bool = True, to_client: bool = True) -> None:
        """Forward nothing, not even the end of a connection, in the directions given.

        Bytes are still accepted, as by a host that was cut off behind the last switch. They are
        delivered by `restore`, as TCP would deliver them after the network came back.
        """
        if to_upstream:
            self.to_upstream.close()
        if to_client:
            self.to_client.close()

    def lose_answers(self, times: int, matches: Callable[[str], bool] = is_commit) -> None:
        """Withhold the answers to the next statements and reset their connections.

        The statement reaches PostgreSQL and takes effect; the client cannot know. It works without
        encryption and without pipelining only.

        Args:
            times: How many answers to lose; 0 stops.
            matches: Which statements, by their SQL; COMMIT unless given.
        """
        self._losses_due = times
        self._matches = matches

    def restore(self) -> None:
        """Withdraw all faults; connections that were silent go on where they stopped."""
        self._refusing = False
        self._losses_due = 0
        self.delay_seconds = 0.0
        self.to_upstream.open()
        self.to_client.open()

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Reset all connections and stop listening."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._links.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def is_to_lose(self, sql: str) -> bool:
        """Whether the answer to a statement is to be lost."""
        return self._losses_due > 0 and self._matches(sql)

    def count_loss(self) -> None:
        """Count an answer as lost."""
        self._losses_due -= 1
        self.lost_answers += 1

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        try:
            upstream_reader, upstream_writer = await _open(self._upstream)
        except OSError:
            _reset(writer)
            return
        link = _Link(self, (reader, writer), (upstream_reader, upstream_writer))
        task = asyncio.ensure_future(link.run())
        self._links[link] = task
        await asyncio.wait([task])
        self._links.pop(link, None)


@asynccontextmanager
async def chaos_proxy(upstream: Upstream) -> AsyncIterator[ChaosProxy]:
    """Run a proxy for the block."""
    proxy = ChaosProxy(upstream)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


def postgres_upstream(url: str) -> Upstream:
    """The upstream that a PostgreSQL URL names."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    host = query.get("host", [parts.hostname or "127.0.0.1"])[0]
    port = int(query.get("port", [parts.port or 5432])[0])
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


def postgres_url(url: str, proxy: ChaosProxy) -> str:
    """The URL of the same database through a proxy, without encryption."""
    parts = urlsplit(url)
    login = f"{unquote(parts.username or 'postgres')}"
    if parts.password:
        login += f":{parts.password}"
    return f"postgresql://{login}@{proxy.target}{parts.path}?sslmode=disable"


class _Valve:
    """Lets bytes of one direction pass while open."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._opened.set()

    def open(self) -> None:
        self._opened.set()

    def close(self) -> None:
        self._opened.clear()

    async def passed(self) -> None:
        await self._opened.wait()


_Stream: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One forwarded connection."""

    def __init__(self, proxy: ChaosProxy, client: _Stream, upstream: _Stream) -> None:
        self._proxy = proxy
        self._client = client
        self._upstream = upstream
        self._session = _Session()
        self._held = bytearray()

    async def run(self) -> None:
        """Forward until either side ends both directions or resets."""
        tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]
        try:
            await asyncio.gather(*tasks)
        except OSError:
            pass
        finally:
            for task in tasks:
                task.cancel()
            self.reset()

    def reset(self) -> None:
        """Close both sides at once, by RST where the socket is a TCP socket."""
        _reset(self._client[1])
        _reset(self._upstream[1])

    async def _send(self) -> None:
        async for chunk in self._chunks(self._client[0], self._proxy.to_upstream):
            for sql in self._session.statements(chunk):
                self._session.is_losing |= self._proxy.is_to_lose(sql)
            self._upstream[1].write(chunk)
            await self._upstream[1].drain()
        await _end(self._upstream[1])

    async def _receive(self) -> None:
        async for chunk in self._chunks(self._upstream[0], self._proxy.to_client):
            outcome = self._session.outcome(chunk)
            if self._session.is_losing:
                if outcome is None:
                    self._held += chunk
                    continue
                self._session.is_losing = False
                if outcome:
                    self._proxy.count_loss()
                    raise ConnectionResetError
            self._client[1].write(self._held + chunk if self._held else chunk)
            self._held.clear()
            await self._client[1].drain()
        await _end(self._client[1])

    async def _chunks(self, reader: asyncio.StreamReader, valve: _Valve) -> AsyncIterator[bytes]:
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                await valve.passed()
                if self._proxy.delay_seconds:
                    await asyncio.sleep(self._proxy.delay_seconds)
                yield chunk
        except OSError:
            # A reset is held back as long as bytes are.
            await valve.passed()
            raise
        await valve.passed()


class _Session:
    """Reads a connection's bytes as PostgreSQL's protocol 3; other protocols match nothing."""

    def __init__(self) -> None:
        self.is_losing = False
        self._sent = bytearray()
        self._received = bytearray()
        self._started = False
        self._is_postgres = True
        self._bytes_due = 0
        self._prepared: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}
        self._done = False

    def statements(self, chunk: bytes) -> Iterator[str]:
        """The statements whose execution a chunk of the client's completes."""
        if not self._is_postgres:
            return
        self._sent += chunk
        if not self._started:
            self._start()
        if self._started:
            for kind, body in _messages(self._sent):
                sql = self._executed(kind, body)
                if sql is not None:
                    yield sql

    def outcome(self, chunk: bytes) -> bool | None:
        """Whether the statement took effect whose answer ends with this chunk; None before."""
        if not self._is_postgres or not self._started:
            return None
        self._received += chunk
        skipped = min(self._bytes_due, len(self._received))
        self._bytes_due -= skipped
        del self._received[:skipped]
        outcome = None
        for kind, body in _messages(self._received):
            if kind == b"C":
                self._done = body != b"ROLLBACK\0"
            elif kind == b"Z":
                outcome, self._done = self._done, False
        return outcome

    def _start(self) -> None:
        while len(self._sent) >= 2 * _STARTUP_LENGTH:
            length, code = struct.unpack_from("!II", self._sent)
            if not (code >> 16 == 3 or (length, code) in {(8, c) for c in _ENCRYPTION_REQUESTS}):
                self._is_postgres = False
                return
            if len(self._sent) < length:
                return
            del self._sent[:length]
            if code >> 16 == 3:
                self._started = True
                return
            self._bytes_due += 1

    def _executed(self, kind: bytes, body: bytes) -> str | None:
        if kind == b"Q":
            return body[:-1].decode()
        if kind == b"P":
            name, sql, _ = body.split(b"\0", 2)
            self._prepared[name] = sql.decode()
        elif kind == b"B":
            portal, name, _ = body.split(b"\0", 2)
            self._portals[portal] = self._prepared.get(name, "")
        elif kind == b"E":
            return self._portals.get(body.split(b"\0", 1)[0], "")
        return None


def _messages(buffer: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Take the complete messages, their kind and body, off the front of a buffer."""
    while len(buffer) >= _HEADER_LENGTH:
        (length,) = struct.unpack_from("!I", buffer, 1)
        if len(buffer) <= length:
            return
        kind, body = bytes(buffer[:1]), bytes(buffer[_HEADER_LENGTH : length + 1])
        del buffer[: length + 1]
        yield kind, body


async def _open(upstream: Upstream) -> _Stream:
    if isinstance(upstream, str):
        return await asyncio.open_unix_connection(upstream)
    return await asyncio.open_connection(*upstream)


async def _end(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
