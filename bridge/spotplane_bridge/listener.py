"""aiohttp's server, with error objects for requests that are not valid HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from uuid import uuid4

import orjson
import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from spotplane_bridge.errors import ErrorFormat, Failure
from spotplane_bridge.headers import Ids, response_headers

log = structlog.get_logger("spotplane_bridge")

Handler: TypeAlias = Callable[[Any], Awaitable[web.StreamResponse]]


class _Protocol(RequestHandler):
    """One connection.

    A request that cannot be parsed never reaches the middleware; aiohttp's own response would name
    the library, quote the request, and lack the headers that every response carries.
    """

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        server = self._manager
        if isinstance(server, _Server) and len(server.connections) > server.max_connections:
            log.warning("connection_refused", connections=server.max_connections)
            self.force_close()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        error = kw.get("exc_info")
        if not isinstance(error, web.RequestPayloadError):
            super().log_exception(*args, **kw)
            return
        # The rest of a malformed body fails again after the response; that is no defect of ours.
        log.info("body_broken", error=type(error.__cause__).__name__)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        identity = str(uuid4())
        failure = Failure(500, "INTERNAL", "internal error")
        if _is_about_size(exc):
            failure = Failure(431, "PAYLOAD_TOO_LARGE", "the request headers are too large")
        elif 400 <= status < 500:
            failure = Failure(status, "INVALID_FIELD", "the request is not well-formed HTTP")
        log.warning(
            "request_malformed",
            request_id=identity,
            status=failure.status,
            client_ip=request.remote,
            error=type(exc).__name__,
        )
        headers = response_headers(Ids(identity, identity), None, frozenset())
        headers["Content-Type"] = "application/json"
        body = orjson.dumps(failure.body(ErrorFormat.CANONICAL, identity))
        response = web.Response(status=failure.status, body=body, headers=headers)
        response.force_close()
        return response


def _is_about_size(exc: BaseException | None) -> bool:
    # aiohttp has no exception of its own for the number of headers.
    return isinstance(exc, LineTooLong) or "Too many headers" in str(exc)


class _Server(web.Server):
    """Creates our protocol for each connection."""

    def __init__(
        self, inner: web.Server, handler: Handler, max_connections: int, options: dict[str, Any]
    ) -> None:
        super().__init__(handler, request_factory=inner.request_factory)
        self.max_connections = max_connections
        self._options = options

    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=asyncio.get_running_loop(), **self._options)


class Runner(web.AppRunner):
    """Runs an application on our server.

    Every request goes to one handler. The application's own router is not used: it would respond to
    some requests itself, in the library's name, and request bodies before admission.

    Args:
        app: Owner of the resources.
        handler: Handles each request.
        max_connections: Open connections at one time; one more is closed at once.
        options: Options of `aiohttp.web.AppRunner` and of its connections.
    """

    def __init__(
        self, app: web.Application, handler: Handler, max_connections: int, **options: Any
    ) -> None:
        # Compressed bodies are rejected by their header; nothing is decompressed before.
        super().__init__(app, auto_decompress=False, **options)
        self._handler = handler
        self._max_connections = max_connections

    async def _make_server(self) -> web.Server:
        # aiohttp has no public way to choose the protocol of an application's connections.
        inner = await super()._make_server()
        return _Server(inner, self._handler, self._max_connections, self._kwargs)
