"""Servers in processes of their own, started as an operator starts them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from tests.support.plane import ADMIN_TOKEN


class ServerProcess:
    """A running server, its log lines so far, and a channel to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.channel: grpc.aio.Channel
        self._reader: asyncio.Task[None]

    async def start(self) -> None:
        """Wait until it serves."""
        while (line := await self._line()) is not None:
            if port := _port(line):
                self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
                self._reader = asyncio.create_task(self._read())
                return
        raise AssertionError(f"the server ended: {self.lines}")

    async def stop(self) -> None:
        """End it in order and read the rest of its lines."""
        await self.channel.close()
        self.process.terminate()
        await self._reader
        await self.process.wait()

    async def _line(self) -> dict[str, Any] | None:
        assert self.process.stderr is not None
        text = (await self.process.stderr.readline()).decode()
        if not text:
            return None
        try:
            self.lines.append(json.loads(text))
        except ValueError:
            self.lines.append({"text": text})
        return self.lines[-1]

    async def _read(self) -> None:
        while await self._line() is not None:
            pass


def _port(line: dict[str, Any]) -> str | None:
    if line.get("event") == "serving":
        return str(line["port"])
    found = re.search(r"serving .*port=(\d+)", line.get("text", ""))
    return found and found[1]


@asynccontextmanager
async def server_process(database_url: str, **settings: str) -> AsyncIterator[ServerProcess]:
    """Run `spotplane server` for the block."""
    ours = {"DATABASE_URL": database_url, "PORT": "0", "ADMIN_TOKEN": ADMIN_TOKEN, **settings}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "spotplane_server.cli",
        "server",
        env=os.environ | {f"SPOTPLANE_{name}": value for name, value in ours.items()},
        stderr=asyncio.subprocess.PIPE,
    )
    server = ServerProcess(process)
    try:
        await server.start()
        yield server
    finally:
        if process.returncode is None and hasattr(server, "channel"):
            await server.stop()
        elif process.returncode is None:
            process.kill()
            await process.wait()
