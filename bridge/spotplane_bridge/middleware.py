"""What every request goes through, whatever answers it: ids, routing, errors, metrics, log line."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
import structlog
from aiohttp import web
from multidict import CIMultiDict

from spotplane_bridge.config import BridgeConfig
from spotplane_bridge.errors import Failure, Family, family_of
from spotplane_bridge.headers import (
    Ids,
    Metadata,
    answer_headers,
    client_ip,
    forwarded_metadata,
    ids_of,
    key_prefix,
    preflight_headers,
    trace_metadata,
)
from spotplane_bridge.metrics import Metrics
from spotplane_bridge.routes import Router

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from spotplane_bridge.tracing import Traces

log = structlog.get_logger("spotplane_bridge")

_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"})
# Stands for the template of paths that have none, so that nobody can fill the metrics with paths.
_UNMATCHED: Final = "unmatched"


@dataclass(slots=True)
class Exchange:
    """One request on its way to an answer.

    Attributes:
        request: As aiohttp read it.
        path: As it was sent, without the query.
        query: As it was sent, without the question mark.
        family: The path's conventions.
        ids: Of the request.
        client_ip: Where it comes from, past trusted proxies.
        headers: Of the answer.
        values: Of the path's variables, decoded.
        template: Of the path, once it is found.
        trace: Metadata that says which trace a call is part of.
        span: Of the request, None where nobody collects traces.
        at_end: Called once when the answer is complete.
    """

    request: web.Request
    path: str
    query: str
    family: Family
    ids: Ids
    client_ip: str | None
    headers: CIMultiDict[str]
    values: list[str]
    template: str = _UNMATCHED
    trace: Metadata = ()
    span: Span | None = None
    at_end: list[Callable[[], None]] = field(default_factory=list)

    def answer(self, status: int, body: Any) -> web.Response:
        """Answer with a JSON value."""
        return self.answer_bytes(status, "application/json", orjson.dumps(body))

    def answer_bytes(self, status: int, content_type: str, body: bytes) -> web.Response:
        """Answer with a body that is made already."""
        if status != 204:
            self.headers["Content-Type"] = content_type
        return web.Response(status=status, body=body, headers=self.headers)

    def metadata(self) -> Metadata:
        """Metadata of a call in the caller's name."""
        return (
            *forwarded_metadata(self.request.headers, self.ids, self.client_ip),
            *self.trace,
        )


class Endpoint(Protocol):
    """Answers the requests of one route."""

    @property
    def template(self) -> str:
        """The route's path, with its variables."""

    async def serve(self, exchange: Exchange) -> web.StreamResponse:
        """Answer one request.

        Raises:
            Failure: The answer is an error.
        """


class Gateway:
    """Handles every request of a bridge process.

    Args:
        config: Origins and proxies.
        router: All endpoints.
        metrics: Counts answers.
        traces: Collects spans.
    """

    def __init__(
        self,
        config: BridgeConfig,
        router: Router[Endpoint],
        metrics: Metrics,
        traces: Traces | None = None,
    ) -> None:
        self._trusted = config.trusted_proxies
        self._origins = frozenset(config.cors_origins)
        self._router = router
        self._metrics = metrics
        self._traces = traces

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request; an exception ends in a 500 that says nothing of it."""
        started = time.perf_counter()
        exchange = self._begin(request)
        try:
            response = await self._answer(exchange)
        finally:
            for call in exchange.at_end:
                call()
        if response.status >= 400 and not request.content.is_eof():
            # The client is still sending a body that will not be read.
            response.force_close()
        self._finish(exchange, response.status, time.perf_counter() - started)
        return response

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        try:
            return await self._serve(exchange)
        except Failure as failure:
            _release_frames(failure)
            return _fail(exchange, failure)
        except (web.RequestPayloadError, ConnectionError) as err:
            _release_frames(err)
            # The client sent something else than it said, or left; it may not even read this.
            response = _fail(exchange, Failure(400, "INVALID_JSON", "the body broke off"))
            # Where the next request begins nobody knows.
            response.force_close()
            return response
        except Exception as err:
            log.exception("request_failed", request_id=exchange.ids.correlation)
            _release_frames(err)
            return _fail(exchange, Failure(500, "INTERNAL", "internal error"))

    def _begin(self, request: web.Request) -> Exchange:
        target = request.raw_path
        if not target.startswith("/"):
            # A client that takes us for a proxy names the whole address.
            target = request.rel_url.raw_path_qs
        path, _, query = target.partition("?")
        received = request.headers
        family = family_of(path)
        ids = ids_of(received, family, request.method)
        peer = request.transport.get_extra_info("peername") if request.transport else None
        return Exchange(
            request=request,
            path=path,
            query=query,
            family=family,
            ids=ids,
            client_ip=client_ip(
                peer[0] if isinstance(peer, tuple) else None,
                received.getall("X-Forwarded-For", ()),
                self._trusted,
            ),
            headers=answer_headers(ids, received.get("Origin"), self._origins),
            values=[],
        )

    async def _serve(self, exchange: Exchange) -> web.StreamResponse:
        request = exchange.request
        if request.method == "OPTIONS":
            return self._options(exchange)
        found = self._router.find(request.method, exchange.path)
        if found is None:
            raise self._not_found(exchange)
        endpoint, exchange.values = found
        exchange.template = endpoint.template
        exchange.trace = trace_metadata(request.headers)
        if self._traces is not None:
            exchange.span, exchange.trace = self._traces.begin(
                request.method, endpoint.template, exchange.trace
            )
        return await endpoint.serve(exchange)

    def _options(self, exchange: Exchange) -> web.Response:
        """Answer a browser's question before a call, or anybody's about a path."""
        if "Access-Control-Request-Method" in exchange.request.headers:
            preflight_headers(exchange.headers)
            return exchange.answer_bytes(204, "", b"")
        allowed = self._router.allowed(exchange.path)
        if not allowed:
            raise self._not_found(exchange)
        exchange.headers["Allow"] = ", ".join([*allowed, "OPTIONS"])
        return exchange.answer_bytes(204, "", b"")

    def _not_found(self, exchange: Exchange) -> Failure:
        method, allowed = exchange.request.method, self._router.allowed(exchange.path)
        if not allowed:
            return Failure(404, "ROUTE_NOT_FOUND", "there is no such route")
        return Failure(
            405,
            "METHOD_NOT_ALLOWED",
            f"this route has no method {method}",
            headers={"Allow": ", ".join([*allowed, "OPTIONS"])},
        )

    def _finish(self, exchange: Exchange, status: int, elapsed: float) -> None:
        if self._traces is not None and exchange.span is not None:
            self._traces.end(exchange.span, status)
        method = exchange.request.method
        self._metrics.observe(
            method if method in _METHODS else "OTHER", exchange.template, status, elapsed
        )
        log.info(
            "request",
            request_id=exchange.ids.correlation,
            method=method,
            path=exchange.template,
            status=status,
            duration_ms=round(elapsed * 1000, 3),
            client_ip=exchange.client_ip,
            key_prefix=key_prefix(exchange.request.headers),
        )


def _release_frames(error: BaseException | None) -> None:
    """Remove the frames that an exception and its causes passed, and the links between them.

    A frame whose variable holds the exception, and the stream of a broken body, which does so too,
    are part of a cycle otherwise. It keeps the body until the next garbage collection.
    """
    while error is not None:
        cause = error.__cause__ or error.__context__
        # An exception may be its own cause; without these links the loop ends there as well.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = cause


def _fail(exchange: Exchange, failure: Failure) -> web.Response:
    exchange.headers.update(failure.headers)
    return exchange.answer(
        failure.status_in(exchange.family),
        failure.body(exchange.family, exchange.ids.correlation),
    )
