"""A bridge process: builds it, serves, and ends it in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvloop
from aiohttp import web

from spotplane_bridge import logs
from spotplane_bridge.bodies import Bodies
from spotplane_bridge.callers import CallerVerifier
from spotplane_bridge.config import BridgeConfig
from spotplane_bridge.dialects import registry, serving
from spotplane_bridge.documents import document_endpoints
from spotplane_bridge.endpoints import endpoint_of
from spotplane_bridge.gateway import Endpoint, Gateway
from spotplane_bridge.listener import Runner
from spotplane_bridge.metrics import Metrics
from spotplane_bridge.ops import Health, ops_endpoints
from spotplane_bridge.routes import Router, load_routes
from spotplane_bridge.tasks import BackgroundTaskEnded, background_task
from spotplane_bridge.upstream import Upstream

if TYPE_CHECKING:
    from spotplane_bridge.tracing import Traces

log = structlog.get_logger("spotplane_bridge")

GATEWAY: Final = web.AppKey("gateway", Gateway)
HEALTH: Final = web.AppKey("health", Health)
METRICS: Final = web.AppKey("metrics", Metrics)
# Set when a background task has ended, without which the bridge must not go on.
FAILED: Final = web.AppKey("failed", asyncio.Event)

# Longer than Envoy keeps an idle connection to us, so that it never writes into one we just closed.
_KEEPALIVE_S: Final = 75.0
_MIB: Final = 1024 * 1024


def create_app(config: BridgeConfig) -> web.Application:
    """Build the application. Call it in the event loop that will run it.

    The server need not be there yet: requests get 503 until it is.
    """
    upstream = Upstream(config.grpc_target, config.channels)
    metrics = Metrics()
    health = Health(upstream, metrics)
    bodies = Bodies(
        CallerVerifier(upstream),
        config.max_body_mib * _MIB,
        config.body_memory_mib * _MIB,
        config.body_timeout_s,
    )
    router: Router[Endpoint] = Router()
    routes, declared = load_routes(), registry.load()
    for route in routes:
        router.add(route.method, route.template, endpoint_of(route, upstream, config, bodies))
    for endpoint in (*ops_endpoints(health, metrics), *document_endpoints(routes, declared)):
        router.add("GET", endpoint.template, endpoint)
    methods = registry.rpcs()
    event_streams: set[Any] = set()
    failed = asyncio.Event()
    for of_field in declared:
        router.add(
            of_field.method,
            of_field.template,
            serving.endpoint_of(of_field, methods, upstream, config, bodies, event_streams),
        )
    traces = _traces(config)
    gateway = Gateway(config, router, metrics, traces)
    metrics.count_event_streams(lambda: len(event_streams))

    async def end_event_streams(_app: web.Application) -> None:
        for call in list(event_streams):
            call.cancel()

    async def connected(_app: web.Application) -> AsyncIterator[None]:
        async with (
            background_task(health.watch(), "health", failed.set),
            background_task(upstream.watch(), "upstream", failed.set),
        ):
            yield
        await upstream.close()
        bodies.close()
        if traces is not None:
            await traces.close()

    app = web.Application()
    app[GATEWAY], app[HEALTH], app[METRICS], app[FAILED] = gateway, health, metrics, failed
    app.cleanup_ctx.append(connected)
    app.on_shutdown.append(end_event_streams)
    return app


def _traces(config: BridgeConfig) -> Traces | None:
    if config.otlp_endpoint is None:
        return None
    from spotplane_bridge.tracing import Traces  # noqa: PLC0415 - optional

    return Traces(config.otlp_endpoint)


@asynccontextmanager
async def running(config: BridgeConfig, app: web.Application | None = None) -> AsyncIterator[int]:
    """Serve while the block runs, and give it the bound port.

    On leaving, `/ready` answers 503, no new connection is accepted, and open requests have the
    drain time to finish.
    """
    app = app or create_app(config)
    runner = Runner(
        app,
        app[GATEWAY].handle,
        config.max_connections,
        access_log=None,
        keepalive_timeout=_KEEPALIVE_S,
        shutdown_timeout=config.drain_timeout_s,
    )
    await runner.setup()
    try:
        await web.TCPSite(
            runner, config.host, config.port, reuse_port=config.reuse_port or None
        ).start()
        server = runner.server
        if server is not None:
            app[METRICS].count_connections(lambda: len(server.connections))
        yield int(runner.addresses[0][1])
    finally:
        app[HEALTH].draining = True
        await runner.cleanup()


async def serve(config: BridgeConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the notice at once.

    Raises:
        BackgroundTaskEnded: The bridge stopped because it could not go on.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()

    def stopping() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping)
    app = create_app(config)
    async with running(config, app) as port:
        log.info("bridge_started", host=config.host, port=port, grpc_target=config.grpc_target)
        if config.port_file is not None:
            _write_whole(config.port_file, f"{port}\n")
        # Everything so far lives as long as the process. A collection started by a large body would
        # otherwise traverse it, which holds the event loop for 25 ms.
        gc.collect()
        gc.freeze()
        await _first_of(stop, app[FAILED])
        log.info("bridge_draining")
        app[HEALTH].draining = True
        # Load balancers see 503 of `/ready` and send their next requests elsewhere.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), config.drain_notice_s)
    log.info("bridge_stopped")
    if app[FAILED].is_set():
        raise BackgroundTaskEnded


def run(config: BridgeConfig) -> None:
    """Run a bridge process until it is told to stop."""
    logs.configure(config.log_level)
    uvloop.run(serve(config))


async def _first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def _write_whole(path: Path, text: str) -> None:
    """Write a file in one step, so that nobody reads half of it."""
    staged = path.with_name(f".{path.name}.new")
    staged.write_text(text, encoding="utf-8")
    os.replace(staged, path)
