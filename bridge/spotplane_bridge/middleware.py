"""Middleware of every request: ids, routing, errors, metrics and the log line."""

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
from spotplane_bridge.errors import ErrorFormat, Failure, error_format_of
from spotplane_bridge.headers import (
    Ids,
    Metadata,
    client_ip,
    forwarded_metadata,
    ids_of,
    key_prefix,
    preflight_headers,
    response_headers,
    trace_metadata,
)
from spotplane_bridge.metrics import Metrics
from spotplane_bridge.routes import Router

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from spotplane_bridge.tracing import Traces

log = structlog.get_logger("spotplane_bridge")

_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"})
# Template of paths without a route, so that unknown paths cannot create unlimited metric labels.
_UNMATCHED: Final = "unmatched"


@dataclass(slots=True)
class RequestContext:
    """One request from its arrival to the end of its response.

    Attributes:
        request: aiohttp's request.
        path: As it was sent, without the query.
        query: As it was sent, without the question mark.
        error_format: Format of errors on this path.
        ids: Ids of the request.
        client_ip: The client's address, past trusted proxies.
        headers: Headers of the response.
        values: Values of the path's variables, decoded.
        template: Template of the path, once it is found.
        trace: Metadata of the trace that a call belongs to.
        span: Span of the request, None without a trace collector.
        at_end: Called once when the response is complete.
    """

    request: web.Request
    path: str
    query: str
    error_format: ErrorFormat
    ids: Ids
    client_ip: str | None
    headers: CIMultiDict[str]
    values: list[str]
    template: str = _UNMATCHED
    trace: Metadata = ()
    span: Span | None = None
    at_end: list[Callable[[], None]] = field(default_factory=list)

    def json_response(self, status: int, body: Any) -> web.Response:
        """Return a response with a JSON value."""
        return self.bytes_response(status, "application/json", orjson.dumps(body))

    def bytes_response(self, status: int, content_type: str, body: bytes) -> web.Response:
        """Return a response with a serialized body."""
        if status != 204:
            self.headers["Content-Type"] = content_type
        return web.Response(status=status, body=body, headers=self.headers)

    def metadata(self) -> Metadata:
        """Return the metadata of a call in the caller's name."""
        return (
            *forwarded_metadata(self.request.headers, self.ids, self.client_ip),
            *self.trace,
        )


class Endpoint(Protocol):
    """Handles the requests of one route."""

    @property
    def template(self) -> str:
        """The route's path, with its variables."""

    async def serve(self, exchange: RequestContext) -> web.StreamResponse:
        """Handle one request.

        Raises:
            Failure: The response is an error.
        """


class RequestMiddleware:
    """Handles every request of a bridge process.

    Args:
        config: Origins and proxies.
        router: All endpoints.
        metrics: Counts responses.
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
        """Handle one request; an exception becomes a 500 without details."""
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

    async def _answer(self, exchange: RequestContext) -> web.StreamResponse:
        try:
            return await self._serve(exchange)
        except Failure as failure:
            _release_frames(failure)
            return _fail(exchange, failure)
        except (web.RequestPayloadError, ConnectionError) as err:
            _release_frames(err)
            # The client sent a malformed body or disconnected; it may not even read this response.
            response = _fail(exchange, Failure(400, "INVALID_JSON", "the body broke off"))
            # The beginning of the next request on this connection is unknown.
            response.force_close()
            return response
        except Exception as err:
            log.exception("request_failed", request_id=exchange.ids.correlation)
            _release_frames(err)
            return _fail(exchange, Failure(500, "INTERNAL", "internal error"))

    def _begin(self, request: web.Request) -> RequestContext:
        target = request.raw_path
        if not target.startswith("/"):
            # A client that uses us as a proxy sends an absolute URL.
            target = request.rel_url.raw_path_qs
        path, _, query = target.partition("?")
        received = request.headers
        error_format = error_format_of(path)
        ids = ids_of(received, error_format, request.method)
        peer = request.transport.get_extra_info("peername") if request.transport else None
        return RequestContext(
            request=request,
            path=path,
            query=query,
            error_format=error_format,
            ids=ids,
            client_ip=client_ip(
                peer[0] if isinstance(peer, tuple) else None,
                received.getall("X-Forwarded-For", ()),
                self._trusted,
            ),
            headers=response_headers(ids, received.get("Origin"), self._origins),
            values=[],
        )

    async def _serve(self, exchange: RequestContext) -> web.StreamResponse:
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

    def _options(self, exchange: RequestContext) -> web.Response:
        """Handle OPTIONS: a CORS preflight request, or the methods of a path."""
        if "Access-Control-Request-Method" in exchange.request.headers:
            preflight_headers(exchange.headers)
            return exchange.bytes_response(204, "", b"")
        allowed = self._router.allowed(exchange.path)
        if not allowed:
            raise self._not_found(exchange)
        exchange.headers["Allow"] = ", ".join([*allowed, "OPTIONS"])
        return exchange.bytes_response(204, "", b"")

    def _not_found(self, exchange: RequestContext) -> Failure:
        method, allowed = exchange.request.method, self._router.allowed(exchange.path)
        if not allowed:
            return Failure(404, "ROUTE_NOT_FOUND", "there is no such route")
        return Failure(
            405,
            "METHOD_NOT_ALLOWED",
            f"this route has no method {method}",
            headers={"Allow": ", ".join([*allowed, "OPTIONS"])},
        )

    def _finish(self, exchange: RequestContext, status: int, elapsed: float) -> None:
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

    Otherwise a frame whose variable holds the exception is part of a cycle, as is the stream of a
    malformed body. The cycle would hold the body in memory until the next garbage collection.
    """
    while error is not None:
        cause = error.__cause__ or error.__context__
        # An exception may be its own cause; without these links the loop ends there as well.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = cause


def _fail(exchange: RequestContext, failure: Failure) -> web.Response:
    exchange.headers.update(failure.headers)
    return exchange.json_response(
        failure.status_in(exchange.error_format),
        failure.body(exchange.error_format, exchange.ids.correlation),
    )
