"""A bare HTTP/2 client that sends frames as it likes: no flow control, no limits, no manners.

A proper client library refuses to send what an attacker sends, so the frames are written by hand
(RFC 9113); headers are HPACK literals without indexing (RFC 7541, 6.2.2).
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Mapping
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
NAMES: Final = {
    DATA: "data",
    HEADERS: "headers",
    RST_STREAM: "rst_stream",
    SETTINGS: "settings",
    PING: "ping",
    GOAWAY: "goaway",
    WINDOW_UPDATE: "window_update",
}
ACK, END_STREAM, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE: Final = 4
CANCEL: Final = 8
ENHANCE_YOUR_CALM: Final = 11


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return (
        struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload
    )


def settings(values: Mapping[int, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(struct.pack(">HI", key, value) for key, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


def headers(stream_id: int, fields: Mapping[str, str], *, end: bool = False) -> bytes:
    """A HEADERS frame that opens a stream."""
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream_id, block)


def call(stream_id: int, path: str, metadata: Mapping[str, str]) -> bytes:
    """The HEADERS of a gRPC call."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "abuse",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    return headers(stream_id, fields | dict(metadata))


def message(stream_id: int, body: bytes, *, end: bool = False) -> bytes:
    """One gRPC message as a DATA frame; at most 16 KiB with its prefix."""
    payload = b"\0" + struct.pack(">I", len(body)) + body
    return frame(DATA, END_STREAM if end else 0, stream_id, payload)


def reset(stream_id: int) -> bytes:
    """A RST_STREAM frame with CANCEL."""
    return frame(RST_STREAM, 0, stream_id, struct.pack(">I", CANCEL))


def window_update(stream_id: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream_id, struct.pack(">I", size))


class Connection:
    """A connection whose received frames are counted and not acted upon.

    Attributes:
        seen: Frames received, by kind; a GOAWAY is also counted by its error code.
        closed: Set once the server has closed the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen: Counter[str] = Counter()
        self.closed = asyncio.Event()
        self.reset_streams: set[int] = set()
        self._reader = reader
        self._writer = writer
        self._task = asyncio.create_task(self._count())

    @classmethod
    async def open(cls, target: str, *, window: int | None = None) -> Connection:
        """Connect and exchange settings.

        Args:
            target: Host and port.
            window: Initial window of every stream in bytes; 0 accepts no response at all.
        """
        host, _, port = target.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        connection = cls(reader, writer)
        values = {} if window is None else {INITIAL_WINDOW_SIZE: window}
        await connection.send(PREFACE + settings(values))
        return connection

    async def send(self, data: bytes) -> bool:
        """Send bytes; False once the connection is closed."""
        if self.closed.is_set():
            return False
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError:
            self.closed.set()
            return False
        return True

    async def close(self) -> None:
        """Drop the connection."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._writer.transport.abort()

    async def _count(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                self._note(head[3], head[4], int.from_bytes(head[5:9], "big"), payload)
                if head[3] == SETTINGS and not head[4] & ACK:
                    self._writer.write(frame(SETTINGS, ACK, 0))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed.set()

    def _note(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        self.seen[NAMES.get(kind, str(kind))] += 1
        if kind == GOAWAY:
            self.seen[f"goaway {int.from_bytes(payload[4:8], 'big')}"] += 1
        elif kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM):
            self.reset_streams.add(stream_id)
        elif kind == PING and not flags & ACK:
            self._writer.write(frame(PING, ACK, 0, payload))


def _text(text: str) -> bytes:
    data = text.encode()
    return _length(len(data)) + data


def _length(value: int) -> bytes:
    """An integer with a prefix of 7 bits (RFC 7541, 5.1)."""
    if value < 127:
        return bytes([value])
    out, value = bytearray([127]), value - 127
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    out.append(value)
    return bytes(out)
