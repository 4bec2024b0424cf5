"""Operations routes: is it alive, is it ready, what does it count, what does it offer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import grpc
import grpc.aio
from aiohttp import web
from grpc_health.v1 import health_pb2

from spotplane_bridge.gateway import Exchange
from spotplane_bridge.metrics import Metrics
from spotplane_bridge.upstream import Upstream

# Checks that the server publishes as services of gRPC's health protocol.
CHECKS: Final = ("database", "migrations", "partitions", "rollups", "jobs")
DECISIONS: Final = "spotplane.v1.DecisionService"
CHECK_TIMEOUT_S: Final = 2.0
CHECK_PERIOD_S: Final = 10.0

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"


def installed_version() -> str:
    """Version of the installed distribution."""
    try:
        return version("spotplane")
    except PackageNotFoundError:
        return "0"


class Health:
    """What the server says of itself.

    Args:
        upstream: Where to ask.
        metrics: Told whether the server answered.
    """

    def __init__(self, upstream: Upstream, metrics: Metrics) -> None:
        self._check = upstream.unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest,
            health_pb2.HealthCheckResponse,
        )
        self._metrics = metrics
        self.draining = False
        # From the last check in the background; nothing is known before the first.
        self.last: dict[str, bool] = {}

    async def ask(self) -> dict[str, bool]:
        """Ask for every check at once, `server` among them; nothing is True when it is away.

        A check that the server does not publish follows its overall word, which covers it.
        """
        names = ("", *CHECKS)
        answers = await asyncio.gather(*(self._serving(name) for name in names))
        overall = bool(answers[0])
        self._metrics.set_dependency("server", up=overall)
        return {
            "server": overall,
            **{
                name: overall if answer is None else answer
                for name, answer in zip(CHECKS, answers[1:], strict=True)
            },
        }

    async def watch(self) -> None:
        """Keep `last` fresh until cancelled."""
        while True:
            self.last = await self.ask()
            self.last[DECISIONS] = bool(await self._serving(DECISIONS))
            await asyncio.sleep(CHECK_PERIOD_S)

    def verdict(self) -> tuple[str, str | None]:
        """The last check in a word, and what is wrong, if anything is.

        Before the first check all that is known is that this process answers.
        """
        if not self.last or all(self.last.values()):
            return "healthy", None
        failed = ", ".join(name for name in CHECKS if not self.last.get(name))
        if any(self.last.get(name) for name in CHECKS):
            return "degraded", f"not working: {failed}"
        return "unhealthy", "the control plane cannot be reached"

    async def _serving(self, service: str) -> bool | None:
        """Whether a service serves; None when the server does not know it."""
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            response = await self._check(request, timeout=CHECK_TIMEOUT_S)
        except grpc.aio.AioRpcError as err:
            return None if err.code() is grpc.StatusCode.NOT_FOUND else False
        return bool(response.status == _SERVING)


class OpsEndpoint:
    """Answers an operations route by a function; these routes have no parameters."""

    def __init__(
        self, template: str, answer: Callable[[Exchange], Awaitable[web.StreamResponse]]
    ) -> None:
        self.template = template
        self._answer = answer

    async def serve(self, exchange: Exchange) -> web.StreamResponse:
        """Answer one request; see `Endpoint`."""
        return await self._answer(exchange)


def ops_endpoints(health: Health, metrics: Metrics) -> list[OpsEndpoint]:
    """The endpoints of `/health`, `/ready` and `/metrics`."""

    async def alive(exchange: Exchange) -> web.StreamResponse:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        status, error = health.verdict()
        body = {
            "status": status,
            "time": now,
            "timestamp": now,
            "version": installed_version(),
            "server": "connected" if health.last.get("server") else "disconnected",
            "database": "connected" if health.last.get("database") else "disconnected",
            "decision_engine_loaded": health.last.get(DECISIONS, False),
        }
        return exchange.answer(200, body if error is None else {**body, "error": error})

    async def ready(exchange: Exchange) -> web.StreamResponse:
        checks = await health.ask()
        is_ready = all(checks.values()) and not health.draining
        status = "ready" if is_ready else "draining" if health.draining else "not_ready"
        return exchange.answer(
            200 if is_ready else 503,
            {"status": status, "checks": {n: "ok" if ok else "failed" for n, ok in checks.items()}},
        )

    async def counted(exchange: Exchange) -> web.StreamResponse:
        return exchange.answer_bytes(200, _PROMETHEUS, metrics.text())

    return [
        OpsEndpoint("/health", alive),
        OpsEndpoint("/ready", ready),
        OpsEndpoint("/metrics", counted),
    ]
