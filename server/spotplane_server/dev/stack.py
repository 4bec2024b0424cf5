"""The processes of the plane, brought up together."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from spotplane_bridge.addresses import Address
from spotplane_bridge.edge.config import EdgeConfig, Exposed
from spotplane_bridge.edge.process import Envoy, EnvoyError, start_envoy

from spotplane_server.dev import children, database
from spotplane_server.dev.children import Child, Children, DataDir, StackError
from spotplane_server.dev.event_log import Narrator
from spotplane_server.kernel.auth import secrets

HOST: Final = "127.0.0.1"
TOKEN_FILE: Final = "admin_token"
# How long calls may take to finish at the end; agents of a demo need no patience.
DRAIN_SECONDS: Final = 3


@dataclass(frozen=True, slots=True)
class Ports:
    """Where to listen; 0 takes a free port."""

    edge: int
    bridge: int
    grpc: int


class Stack:
    """A plane that runs; attributes say where its parts are."""

    def __init__(
        self, data: DataDir, group: Children, ports: Ports, token: str, narrator: Narrator
    ) -> None:
        self.data = data
        self.token = token
        self.database_url = ""
        self.new = False
        self.grpc = f"{HOST}:{children.claim_port(ports.grpc, '--grpc-port')}"
        self.bridge = f"{HOST}:{children.claim_port(ports.bridge, '--bridge-port')}"
        self.metrics = f"{HOST}:{children.claim_port(0, '')}"
        # Envoy binds a free port itself; a taken one it would only tell its log.
        self._edge_port = children.claim_port(ports.edge, "--port") if ports.edge else 0
        self.edge = self.edge_admin = ""
        self._group = group
        self._narrator = narrator
        self._postgres: database.Postgres | None = None
        self._envoy: Envoy | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._server = self._child(
            "server",
            SPOTPLANE_PORT=self.grpc.rpartition(":")[2],
            SPOTPLANE_ADMIN_PORT=self.metrics.rpartition(":")[2],
            SPOTPLANE_ADMIN_TOKEN_FILE=str(data.path / TOKEN_FILE),
            SPOTPLANE_ADMIN_RATE_LIMIT_RPM="100000",
            SPOTPLANE_DRAIN_SECONDS=str(DRAIN_SECONDS),
            # There is no other server to send calls to meanwhile.
            SPOTPLANE_DRAIN_NOTICE_SECONDS="0",
        )
        self._bridge = self._child(
            "bridge",
            SPOTPLANE_BRIDGE_PORT=self.bridge.rpartition(":")[2],
            SPOTPLANE_GRPC_TARGET=self.grpc,
            SPOTPLANE_DRAIN_TIMEOUT_S=str(DRAIN_SECONDS),
            SPOTPLANE_DRAIN_NOTICE_SECONDS="0",
        )

    async def start(self) -> None:
        """Bring everything up, side by side where it can be.

        Raises:
            StackError: Something does not come up.
        """
        starting = (self._start_plane(), self._start_bridge(), self._start_edge())
        try:
            async with asyncio.TaskGroup() as group:
                for part in starting:
                    group.create_task(part)
        except* (StackError, EnvoyError) as errors:
            raise StackError(str(_first(errors))) from errors

    async def stop(self) -> None:
        """End everything, the edge first and PostgreSQL last."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._envoy is not None:
            await self._envoy.stop()
        await self._bridge.stop()
        await self._server.stop()
        if self._postgres is not None:
            await self._postgres.stop()

    def describe(self) -> dict[str, Any]:
        """What `dev.json` says about it."""
        return {
            "edge": f"http://{self.edge}",
            "bridge": f"http://{self.bridge}",
            "grpc": self.grpc,
            "metrics": {
                "server": f"http://{self.metrics}/metrics",
                "bridge": f"http://{self.bridge}/metrics",
                "envoy": f"http://{self.edge_admin}/stats/prometheus",
            },
            "database_url": self.database_url,
            "admin_token": self.token,
            "logs": str(self.data.logs),
        }

    async def _start_plane(self) -> None:
        postgres = await database.Postgres.start(self.data.path / "postgres")
        self._postgres = postgres
        # SIGINT is PostgreSQL's fast shutdown.
        self._group.note("postgres", postgres.pid, signal.SIGINT)
        self.database_url = postgres.url
        self.new = await database.prepare(postgres.url)
        await self._server.start(SPOTPLANE_DATABASE_URL=postgres.url)
        async with grpc.aio.insecure_channel(
            self.grpc, (("grpc.max_reconnect_backoff_ms", 100),)
        ) as channel:
            health = health_pb2_grpc.HealthStub(channel)

            async def serving() -> bool:
                with suppress(grpc.aio.AioRpcError):
                    answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
                    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
                return False

            await children.until(serving, self._server)

    async def _start_bridge(self) -> None:
        await self._bridge.start()
        await children.until(lambda: _answers(f"http://{self.bridge}/ready"), self._bridge)

    async def _start_edge(self) -> None:
        envoy = await self._run_envoy()
        self._keeping = asyncio.create_task(self._keep_edge(envoy))

    async def _keep_edge(self, envoy: Envoy) -> None:
        while True:
            self._narrator.died("envoy", await envoy.wait())
            envoy = await self._run_envoy()

    async def _run_envoy(self) -> Envoy:
        config = EdgeConfig(
            listen=Address(HOST, self._edge_port),
            grpc_upstreams=(Address.parse(self.grpc),),
            bridge_upstreams=(Address.parse(self.bridge),),
            max_connections_per_address=0,
            exposed=frozenset(Exposed),
            admin=Address(HOST, 0),
        )
        directory = self.data.path / "envoy"
        directory.mkdir(exist_ok=True)
        envoy = self._envoy = await start_envoy(config, directory, self.data.log("envoy"))
        self._group.note("envoy", envoy.pid)
        self._edge_port = envoy.listen.port
        self.edge = f"{HOST}:{envoy.listen.port}"
        self.edge_admin = f"{HOST}:{envoy.admin.port}"
        return envoy

    def _child(self, name: str, **environment: str) -> Child:
        return Child(
            self._group,
            name,
            ("-m", "spotplane_server.cli", name),
            {"SPOTPLANE_TRUSTED_PROXIES": f"{HOST}/32"} | environment,
            self.data.log(name),
            self._narrator.died,
        )


def admin_token(data: DataDir) -> str:
    """The data directory's administrator token, made once and kept readable to its owner only."""
    try:
        return (data.path / TOKEN_FILE).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        token = secrets.issue(secrets.ADMIN_LABEL).secret
        data.write_secret(TOKEN_FILE, token)
        return token


@asynccontextmanager
async def fleet(
    data: DataDir, group: Children, settings: dict[str, Any]
) -> AsyncIterator[asyncio.StreamReader]:
    """Run the fleet's process for the block, and give what it prints."""
    with data.log("fleet").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "spotplane_server.dev.fleet"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    group.note("fleet", process.pid)
    if process.stdin is None or process.stdout is None:
        raise StackError("the fleet has no pipes")
    try:
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        yield process.stdout
    finally:
        await children.end(process)


async def _answers(url: str) -> bool:
    timeout = aiohttp.ClientTimeout(total=1.0)
    with suppress(aiohttp.ClientError, TimeoutError):
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            return answer.status == 200
    return False


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def wipe(directory: Path) -> None:
    """Empty a directory of files that only one run needs."""
    import shutil

    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
