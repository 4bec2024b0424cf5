"""A metadata service with EC2's IMDSv2 protocol, over a real socket."""

import asyncio
from typing import Self

TOKEN_PATH = "/latest/api/token"


class MetadataService:
    """Returns ``items`` to callers with the newest token."""

    def __init__(self) -> None:
        self.items: dict[str, str] = {}
        self.silent = False
        self.tokens_given = 0
        self.requests: list[str] = []
        self._server: asyncio.Server | None = None

    @property
    def endpoint(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def expire_token(self) -> None:
        """Reject the last token."""
        self.tokens_given += 1

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request, *lines = head.strip().split("\r\n")
        method, path, _ = request.split(" ")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        self.requests.append(path)
        if not self.silent:
            status, body = self._answer(method, path, headers)
            writer.write(
                f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            await writer.drain()
            writer.close()
        else:
            await reader.read()
            writer.close()

    def _answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if method == "PUT" and path == TOKEN_PATH:
            if "x-aws-ec2-metadata-token-ttl-seconds" not in headers:
                return 400, ""
            self.tokens_given += 1
            return 200, f"token-{self.tokens_given}"
        if headers.get("x-aws-ec2-metadata-token") != f"token-{self.tokens_given}":
            return 401, ""
        item = self.items.get(path.removeprefix("/latest/"))
        return (404, "") if item is None else (200, item)
