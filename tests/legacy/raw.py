"""Raw HTTP requests, for tests that send bytes which no HTTP client would send."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession


@dataclass(frozen=True)
class Response:
    """A response that ended its connection, or was interrupted by a test."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Reason of an error in either format."""
        body = self.json
        return str(body["error"]["code"] if isinstance(body["error"], dict) else body["code"])


def head(method: str, path: str, **headers: str | int) -> bytes:
    """Return a request without its body; underscores in the names of headers are dashes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bridge"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def connect(http: ClientSession) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a new connection to the address of a session's requests."""
    assert http._base_url is not None
    return await asyncio.open_connection(http._base_url.host, http._base_url.port)


async def send(http: ClientSession, data: bytes) -> Response:
    """Send bytes on a new connection, and read one response, however the request ends."""
    reader, writer = await connect(http)
    try:
        writer.write(data)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Response(int(first.split()[1]), headers, body)
    finally:
        writer.close()
