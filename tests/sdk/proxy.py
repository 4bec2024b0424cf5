"""A proxy between agents and their plane that can be cut."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards TCP to ``target``; while interrupted, every connection is closed at once."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._open: set[asyncio.StreamWriter] = set()
        self._passing = True
        self._server: asyncio.Server | None = None
        self.address = ""
        self.passed = 0
        """How many connections it has passed on."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut()
        assert self._server is not None
        self._server.close()

    def cut(self) -> None:
        """Close every connection, also new ones."""
        self._passing = False
        for writer in self._open:
            writer.transport.abort()

    def mend(self) -> None:
        """Forward connections again."""
        self._passing = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._passing:
            writer.transport.abort()
            return
        self.passed += 1
        there, onward = await asyncio.open_connection(*self._target)
        self._open |= {writer, onward}
        try:
            await asyncio.gather(_pump(reader, onward), _pump(there, writer))
        finally:
            self._open -= {writer, onward}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
