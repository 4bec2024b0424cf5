"""What runs in processes of its own, so that its CPU and memory are its own.

Each entry point serves until SIGTERM, and sends what the parent needs to know once it serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc
import grpc.aio
import uvloop
from aiohttp import web
from prometheus_client import start_http_server
from spotplane.v1 import (
    agent_pb2_grpc,
    agent_stream_pb2,
    api_key_pb2,
    api_key_pb2_grpc,
    region_pb2,
    region_pb2_grpc,
)
from spotplane_bridge import logs as bridge_logs
from spotplane_bridge.app import running as bridge_running
from spotplane_bridge.config import BridgeConfig
from spotplane_server.app import Server
from spotplane_server.config import ServerConfig
from spotplane_server.kernel import gc_tuning
from spotplane_server.kernel import logs as server_logs
from spotplane_server.kernel.background_task import task_scope

# The bare servers get what any server would be given; ours has the same.
BARE_OPTIONS: Final = (("grpc.so_reuseport", 0),)


def serve_plane(pipe: Connection, log_path: str, config: ServerConfig) -> None:
    """A server process as in production, with its log lines going to a file."""
    log_to(log_path)
    server_logs.configure(config.log_level)

    async def serve(stop: asyncio.Event) -> None:
        server = await Server.start(config)
        admin, _ = start_http_server(0, addr="127.0.0.1")
        pipe.send({"port": server.port, "metrics_port": admin.server_port})
        async with task_scope(gc_tuning.run(), "collector"):
            await stop.wait()
        await server.stop()

    _run(serve)


def serve_bridge(pipe: Connection, log_path: str, config: BridgeConfig) -> None:
    """A bridge process as in production."""
    log_to(log_path)
    bridge_logs.configure(config.log_level)

    async def serve(stop: asyncio.Event) -> None:
        async with bridge_running(config) as port:
            pipe.send({"port": port})
            await stop.wait()

    _run(serve)


def serve_echo(pipe: Connection, log_path: str, region: bytes, keys: bytes) -> None:
    """A bare grpc.aio server: no interceptor, no database, the same messages.

    Args:
        pipe: To the parent.
        log_path: For whatever goes wrong.
        region: The region that it answers, serialized.
        keys: The list of keys that it answers, serialized.
    """
    log_to(log_path)

    class Regions(region_pb2_grpc.RegionServiceServicer):
        async def GetRegion(self, request: Any, context: Any) -> region_pb2.Region:
            return region_pb2.Region.FromString(region)

    class Keys(api_key_pb2_grpc.ApiKeyServiceServicer):
        async def ListOwnApiKeys(
            self, request: Any, context: Any
        ) -> api_key_pb2.ListOwnApiKeysResponse:
            return api_key_pb2.ListOwnApiKeysResponse.FromString(keys)

    async def serve(stop: asyncio.Event) -> None:
        server = grpc.aio.server(options=BARE_OPTIONS)
        region_pb2_grpc.add_RegionServiceServicer_to_server(Regions(), server)  # type: ignore[abstract]
        api_key_pb2_grpc.add_ApiKeyServiceServicer_to_server(Keys(), server)  # type: ignore[abstract]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        pipe.send({"port": port})
        await stop.wait()
        await server.stop(0)

    _run(serve)


def serve_relay(pipe: Connection, log_path: str) -> None:
    """A bare relay: what is posted by HTTP goes down the open stream of the agent it names."""
    log_to(log_path)
    outboxes: dict[str, asyncio.Queue[str]] = {}

    class Relay(agent_pb2_grpc.AgentServiceServicer):
        async def Connect(
            self, requests: AsyncIterator[agent_stream_pb2.ConnectRequest], context: Any
        ) -> AsyncIterator[agent_stream_pb2.ConnectResponse]:
            hello = (await anext(requests)).hello
            outbox = outboxes[hello.agent_id] = asyncio.Queue()
            yield agent_stream_pb2.ConnectResponse(welcome=agent_stream_pb2.Welcome())
            while True:
                command_id = await outbox.get()
                yield agent_stream_pb2.ConnectResponse(
                    command=agent_stream_pb2.CommandDelivery(command_id=command_id)
                )

    async def post(request: web.Request) -> web.Response:
        body = await request.json()
        outboxes[request.match_info["agent_id"]].put_nowait(body["name"])
        return web.json_response({"id": body["name"]}, status=201)

    async def serve(stop: asyncio.Event) -> None:
        server = grpc.aio.server(options=BARE_OPTIONS)
        agent_pb2_grpc.add_AgentServiceServicer_to_server(Relay(), server)  # type: ignore[abstract]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        app = web.Application()
        app.router.add_post("/v1/agents/{agent_id}/commands", post)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send({"port": port, "http_port": runner.addresses[0][1]})
        await stop.wait()
        await server.stop(0)
        await runner.cleanup()

    _run(serve)


def _run(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    async def until_told() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await serve(stop)

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(until_told())


def log_to(path: str) -> None:
    """Send this process's standard error to a file."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    os.close(log)
