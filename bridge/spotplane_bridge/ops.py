"""Operations routes: health, readiness and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import grpc
import grpc.aio
from aiohttp import web
from grpc_health.v1 import health_pb2

from spotplane_bridge.metrics import Metrics
from spotplane_bridge.middleware import RequestContext
from spotplane_bridge.upstream import Upstream

# Checks that the server publishes as services of gRPC's health protocol.
CHECKS: Final = ("database", "migrations", "partitions", "rollups", "jobs", "trusted-proxies")
DECISIONS: Final = "spotplane.v1.DecisionService"
# Likewise, but a server with a failed check of these still works; callers read the text.
WARNINGS: Final = {
    "sandbox": "uploaded models and rule sets are not confined by this machine's kernel",
    "clock": "the clock of a server's machine differs from the database's by more than a second",
}
CHECK_TIMEOUT_S: Final = 2.0
# `/health` is at most this much older than `/ready`. A round is three small calls.
CHECK_PERIOD_S: Final = 1.0

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"


def installed_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("spotplane")
    except PackageNotFoundError:
        return "0"


@dataclass(frozen=True, slots=True)
class State:
    """The server's health at one time.

    Attributes:
        reachable: Whether it responded at all.
        checks: By name, `server` for all of them together.
        engine: Whether the configured decision engine decides.
        warnings: Conditions that impair the server without stopping its work.
    """

    reachable: bool
    checks: dict[str, bool]
    engine: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the server can do its work."""
        return all(self.checks.values())

    @property
    def fault(self) -> str | None:
        """The component that does not work; None when all do."""
        if not self.reachable:
            return "the server cannot be reached"
        failed = [name for name in CHECKS if not self.checks[name]]
        if not self.checks["server"] and len(failed) in {0, len(CHECKS)}:
            return "the server is starting or stopping"
        if "database" in failed:
            # The server cannot check the other components without it.
            failed = ["database"]
        if not failed and not self.engine:
            failed = ["decision engine"]
        return f"not working: {', '.join(failed)}" if failed else None


class Health:
    """Queries the server's health, and stores the last report.

    Args:
        upstream: The server.
        metrics: Records whether the server works.
    """

    def __init__(self, upstream: Upstream, metrics: Metrics) -> None:
        self._check = upstream.unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest,
            health_pb2.HealthCheckResponse,
            idempotent=True,
        )
        self._metrics = metrics
        self.draining = False
        # The last report of any query; None before the first.
        self.last: State | None = None

    async def ask(self) -> State:
        """Query the server now.

        Single checks are queried only when the server as a whole does not work; a check that it
        does
        not publish follows its overall status, which covers it.
        """
        names = ("", DECISIONS, *WARNINGS)
        overall, engine, *impaired = await asyncio.gather(*map(self._serving, names))
        works = overall is True
        checks = dict.fromkeys(("server", *CHECKS), works)
        if overall is False:
            found = await asyncio.gather(*map(self._serving, CHECKS))
            checks |= {
                name: bool(one) for name, one in zip(CHECKS, found, strict=True) if one is not None
            }
        warnings = [
            text
            for text, one in zip(WARNINGS.values(), impaired, strict=True)
            if works and one is False
        ]
        self._metrics.set_dependency("server", up=works)
        decides = works if engine is None else engine
        self.last = State(overall is not None, checks, decides, tuple(warnings))
        return self.last

    async def watch(self) -> None:
        """Keep `last` fresh until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(CHECK_PERIOD_S)

    def verdict(self) -> tuple[str, str | None]:
        """Return the status and the faults.

        `unhealthy` whenever `/ready` would return 503. Before the first report only this process is
        known to work.
        """
        if self.draining:
            return "unhealthy", "this process is stopping"
        if self.last is None or (self.last.ready and self.last.fault is None):
            return "healthy", None
        return "degraded" if self.last.ready else "unhealthy", self.last.fault

    async def _serving(self, service: str) -> bool | None:
        """Return whether a service serves; None when it is unknown or unreachable."""
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            response = await self._check(request, timeout=CHECK_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return None
        return bool(response.status == _SERVING)


class OpsEndpoint:
    """Serves an operations route by a function; these routes have no parameters."""

    def __init__(
        self, template: str, handler: Callable[[RequestContext], Awaitable[web.StreamResponse]]
    ) -> None:
        self.template = template
        self._handler = handler

    async def serve(self, exchange: RequestContext) -> web.StreamResponse:
        """Handle one request; see `Endpoint`."""
        return await self._handler(exchange)


def ops_endpoints(health: Health, metrics: Metrics) -> list[OpsEndpoint]:
    """Return the endpoints of `/health`, `/ready` and `/metrics`."""

    async def alive(exchange: RequestContext) -> web.StreamResponse:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        status, error = health.verdict()
        last = health.last or State(False, dict.fromkeys(CHECKS, False))
        body = {
            "status": status,
            "time": now,
            "timestamp": now,
            "version": installed_version(),
            "server": "connected" if last.reachable else "disconnected",
            "database": "connected" if last.checks["database"] else "disconnected",
            "decision_engine_loaded": last.engine,
            **_warnings(last),
        }
        return exchange.json_response(200, body if error is None else {**body, "error": error})

    async def ready(exchange: RequestContext) -> web.StreamResponse:
        state = await health.ask()
        is_ready = state.ready and not health.draining
        status = "ready" if is_ready else "draining" if health.draining else "not_ready"
        checks = {name: "ok" if works else "failed" for name, works in state.checks.items()}
        return exchange.json_response(
            200 if is_ready else 503, {"status": status, "checks": checks, **_warnings(state)}
        )

    async def counted(exchange: RequestContext) -> web.StreamResponse:
        return exchange.bytes_response(200, _PROMETHEUS, metrics.text())

    return [
        OpsEndpoint("/health", alive),
        OpsEndpoint("/ready", ready),
        OpsEndpoint("/metrics", counted),
    ]


def _warnings(state: State) -> dict[str, list[str]]:
    return {"warnings": list(state.warnings)} if state.warnings else {}
