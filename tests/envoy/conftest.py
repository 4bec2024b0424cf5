"""Fixtures: a real Envoy in front of a small gRPC server and a small HTTP server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest
import pytest_asyncio
from spotplane_bridge.addresses import Address
from spotplane_bridge.edge.config import EdgeConfig, Exposed
from spotplane_bridge.edge.process import start_envoy
from yarl import URL

from tests.envoy.stack import Backend, grpc_server, http_server

ANY_PORT = Address("127.0.0.1", 0)


@dataclass
class Response:
    """A REST response of the edge."""

    status: int
    headers: dict[str, str]
    body: bytes
    json: Any

    @property
    def error(self) -> dict[str, Any]:
        """The members of the error object."""
        assert self.headers["content-type"] == "application/json", self
        error: dict[str, Any] = self.json["error"]
        return error


@dataclass
class Edge:
    """A running Envoy and its upstreams."""

    backend: Backend
    base: str
    target: str
    log_path: Path
    http: aiohttp.ClientSession
    channel: grpc.aio.Channel

    async def call(self, method: str, path: str, **options: Any) -> Response:
        """Send one request; the path goes out as it is."""
        url = URL(self.base + path, encoded=True)
        async with self.http.request(method, url, **options) as response:
            body = await response.read()
            headers = {name.lower(): value for name, value in response.headers.items()}
            is_json = headers.get("content-type", "").startswith("application/json")
            found = await response.json() if body and is_json else None
            return Response(response.status, headers, body, found)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """One Envoy for a test file; its tests share the event loop."""
    directory = tmp_path_factory.mktemp("edge")
    backend = Backend()
    async with grpc_server(backend) as grpc_port, http_server() as http_port:
        config = EdgeConfig(
            listen=ANY_PORT,
            admin=ANY_PORT,
            grpc_upstreams=(Address("127.0.0.1", grpc_port),),
            bridge_upstreams=(Address("127.0.0.1", http_port),),
            trusted_hops=1,
            exposed=frozenset(Exposed),
        )
        log_path = directory / "envoy.log"
        envoy = await start_envoy(config, directory, log_path, concurrency=1)
        target = f"{envoy.listen.host}:{envoy.listen.port}"
        try:
            async with (
                aiohttp.ClientSession() as http,
                grpc.aio.insecure_channel(target) as channel,
            ):
                yield Edge(backend, f"http://{target}", target, log_path, http, channel)
        finally:
            await envoy.stop()
