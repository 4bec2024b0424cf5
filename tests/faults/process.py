"""A server in a process of its own, to be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.eventually import eventually
from tests.support.plane import ADMIN_TOKEN

RUN = """
import asyncio
from spotplane_server.app import serve
from spotplane_server.config import load
from spotplane_server.kernel import logs
config = load()
logs.configure(config.log_level, json=config.log_json)
asyncio.run(serve(config))
"""


class ServerProcess:
    """``spotplane server`` on a port that stays the same over restarts."""

    def __init__(self, database_url: str, log: Path, **settings: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.target = f"127.0.0.1:{self.port}"
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._env = os.environ | {
            "SPOTPLANE_DATABASE_URL": database_url,
            "SPOTPLANE_PORT": str(self.port),
            "SPOTPLANE_ADMIN_TOKEN": ADMIN_TOKEN,
            "SPOTPLANE_ADMIN_RATE_LIMIT_RPM": "1000000",
            "SPOTPLANE_HEARTBEAT_SECONDS": "1",
            "SPOTPLANE_DB_POOL_SIZE": "6",
            "SPOTPLANE_LOG_LEVEL": "WARNING",
            **{f"SPOTPLANE_{name.upper()}": value for name, value in settings.items()},
        }

    async def start(self) -> None:
        """Start it and wait until it serves."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", RUN, env=self._env, stdout=log, stderr=log
            )
        await eventually(self._serves, within=30)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def _serves(self) -> bool:
        async with grpc.aio.insecure_channel(self.target) as channel:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=1
                )
            except grpc.aio.AioRpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


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
