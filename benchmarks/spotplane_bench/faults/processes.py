"""Servers and bridges as processes that are killed, paused and started again."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Final

import aiohttp
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.1


class Program:
    """`spotplane server` or `spotplane bridge`, on a port that stays the same over restarts."""

    def __init__(self, command: str, log: Path, settings: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.target = f"127.0.0.1:{self.port}"
        self._command = command
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        kept = {name: value for name, value in os.environ.items() if "SPOTPLANE" not in name}
        self._env = kept | {f"SPOTPLANE_{name}": value for name, value in settings.items()}
        self._env["SPOTPLANE_PORT" if command == "server" else "SPOTPLANE_BRIDGE_PORT"] = str(
            self.port
        )

    async def start(self, **settings: str) -> None:
        """Start it, with further settings for this time, and wait until it is ready."""
        more = {f"SPOTPLANE_{name.upper()}": value for name, value in settings.items()}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "spotplane_server.cli",
                self._command,
                env=self._env | more,
                stdout=log,
                stderr=log,
            )

    async def ready(self) -> None:
        """Wait until it is ready.

        Raises:
            TimeoutError: It is not within a minute.
        """
        check = self._serves if self._command == "server" else self._answers
        await until(check, START_SECONDS, f"{self._command} is ready")

    def signal(self, number: Signals) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def kill(self) -> None:
        """End it as a power cut would."""
        await self._end(SIGKILL)

    async def stop(self) -> None:
        """Ask it to drain; kill it when it does not end."""
        await self._end(SIGTERM)

    async def _end(self, number: Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _serves(self) -> bool:
        async with grpc.aio.insecure_channel(self.target) as channel:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service="jobs"), timeout=2
                )
            except grpc.aio.AioRpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def _answers(self) -> bool:
        try:
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"http://{self.target}/health") as answer,
            ):
                return answer.status == 200
        except aiohttp.ClientError:
            return False


async def until(check: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: It does not in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not await check():
        if loop.time() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s it is not so that {what}")
        await asyncio.sleep(_POLL_SECONDS)
