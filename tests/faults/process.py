"""Servers and bridges in processes of their own, to be killed and restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import aiohttp
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.eventually import eventually
from tests.support.plane import ADMIN_TOKEN

SERVER: Final = """
import asyncio
from spotplane_server.app import serve
from spotplane_server.config import load
from spotplane_server.kernel import logs
config = load()
logs.configure(config.log_level, json=config.log_json)
asyncio.run(serve(config))
"""
BRIDGE: Final = """
import os
from spotplane_bridge.app import run
from spotplane_bridge.config import BridgeConfig
run(BridgeConfig.from_env(os.environ))
"""


class _Process:
    """A program on a port that stays the same over restarts."""

    def __init__(self, program: str, log: Path, settings: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.target = f"127.0.0.1:{self.port}"
        self._program = program
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._env = os.environ | {
            f"SPOTPLANE_{name.upper()}": value for name, value in settings.items()
        }

    async def start(self) -> None:
        """Start it and wait until it serves."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", self._program, env=self._env, stdout=log, stderr=log
            )
        await eventually(self._serves, within=30, every=0.1)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def kill(self) -> None:
        """End it as a power cut would."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Ask it to drain, and wait until it has ended."""
        await self._end(signal.SIGTERM)

    async def _end(self, number: int) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            await self._process.wait()
            self._process = None

    async def _serves(self) -> bool:
        raise NotImplementedError


class ServerProcess(_Process):
    """``spotplane server``."""

    def __init__(self, database_url: str, log: Path, **settings: str) -> None:
        defaults = {
            "database_url": database_url,
            "admin_token": ADMIN_TOKEN,
            "admin_rate_limit_rpm": "1000000",
            "heartbeat_seconds": "1",
            "db_pool_size": "6",
            "log_level": "WARNING",
        }
        super().__init__(SERVER, log, defaults | settings)
        self._env["SPOTPLANE_PORT"] = str(self.port)

    async def _serves(self) -> bool:
        async with grpc.aio.insecure_channel(self.target) as channel:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=1
                )
            except grpc.aio.AioRpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


class BridgeProcess(_Process):
    """``spotplane bridge``."""

    def __init__(self, log: Path, **settings: str) -> None:
        super().__init__(BRIDGE, log, {"log_level": "WARNING"} | settings)
        self._env["SPOTPLANE_BRIDGE_PORT"] = str(self.port)

    async def _serves(self) -> bool:
        async with aiohttp.ClientSession() as http:
            try:
                async with http.get(f"http://{self.target}/ready") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False


@asynccontextmanager
async def spawned(
    database_url: str, directory: Path, **settings: str
) -> AsyncIterator[ServerProcess]:
    """A server process for the block."""
    server = ServerProcess(database_url, directory / "server.log", **settings)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
