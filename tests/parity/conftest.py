"""Fixtures: both frontends of one real server, the bridge and Envoy's transcoder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from spotplane_bridge import app as bridge
from spotplane_bridge.addresses import Address
from spotplane_bridge.config import BridgeConfig
from spotplane_bridge.edge.config import EdgeConfig, Exposed
from spotplane_bridge.edge.process import start_envoy
from yarl import URL

from tests.parity.worlds import Headers, World
from tests.support.atomicity import Atomicity
from tests.support.plane import running

ANY_PORT = Address("127.0.0.1", 0)


@dataclass
class Response:
    """A response of a frontend."""

    status: int
    headers: dict[str, str]
    body: bytes
    json: Any

    @property
    def media_type(self) -> str:
        """The content type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0]


@dataclass
class Door:
    """One REST frontend."""

    name: str
    base: str
    http: aiohttp.ClientSession

    async def send(self, method: str, path: str, **options: Any) -> Response:
        """Send one request; the path goes out as it is."""
        url = URL(self.base + path, encoded=True)
        async with self.http.request(method, url, **options) as response:
            body = await response.read()
            is_json = response.content_type == "application/json"
            return Response(
                response.status,
                {name.lower(): value for name, value in response.headers.items()},
                body,
                await response.json() if body and is_json else None,
            )


@dataclass
class Doors:
    """Both frontends, and the statements that their calls execute."""

    bridge: Door
    envoy: Door
    atomicity: Atomicity

    def world(self) -> World:
        """A new world, created through the bridge."""

        async def send(method: str, path: str, *, headers: Headers, json: object) -> Any:
            answer = await self.bridge.send(method, path, headers=headers, json=json)
            assert 200 <= answer.status < 300, (method, path, answer.status, answer.body)
            return answer.json

        return World(send)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def doors(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Doors]:
    """One server, bridge and Envoy for the whole file; worlds keep its tests apart."""
    name = f"parity{uuid4().hex}"
    await _execute(postgres, f'CREATE DATABASE "{name}" TEMPLATE template_migrated')
    directory = tmp_path_factory.mktemp("parity")
    atomicity = Atomicity()
    async with running(postgres.get_uri(name), on_statement=atomicity) as plane:
        bridge_config = BridgeConfig(port=0, grpc_target=plane.target, log_level="WARNING")
        async with bridge.running(bridge_config) as bridge_port, aiohttp.ClientSession() as http:
            edge_config = EdgeConfig(
                listen=ANY_PORT,
                admin=ANY_PORT,
                grpc_upstreams=(Address.parse(plane.target),),
                bridge_upstreams=(Address("127.0.0.1", bridge_port),),
                max_connections_per_address=0,
                exposed=frozenset(Exposed),
            )
            envoy = await start_envoy(edge_config, directory, directory / "log", concurrency=1)
            try:
                yield Doors(
                    Door("bridge", f"http://127.0.0.1:{bridge_port}", http),
                    Door("envoy", f"http://127.0.0.1:{envoy.listen.port}", http),
                    atomicity,
                )
            finally:
                await envoy.stop()
    await _execute(postgres, f'DROP DATABASE "{name}" WITH (FORCE)')


async def _execute(postgres: Any, statement: str) -> None:
    conn = await asyncpg.connect(postgres.get_uri())
    try:
        await conn.execute(statement)
    finally:
        await conn.close()
