"""aiohttp's server with our answer to what is not even HTTP."""

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

from spotplane_bridge.errors import Failure, Family
from spotplane_bridge.headers import Ids, answer_headers

log = structlog.get_logger("spotplane_bridge")

Handler: TypeAlias = Callable[[Any], Awaitable[web.StreamResponse]]


class _Protocol(RequestHandler):
    """One connection.

    What cannot be parsed never reaches the gateway; aiohttp's own answer would name the library,
    quote the request, and lack the headers that every answer carries.
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
        # What is left of a broken body breaks once more, after the answer: no defect of ours.
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
        headers = answer_headers(Ids(identity, identity), None, frozenset())
        headers["Content-Type"] = "application/json"
        body = orjson.dumps(failure.body(Family.CANONICAL, identity))
        response = web.Response(status=failure.status, body=body, headers=headers)
        response.force_close()
        return response


def _is_about_size(exc: BaseException | None) -> bool:
    # For the number of headers aiohttp has no exception of its own.
    return isinstance(exc, LineTooLong) or "Too many headers" in str(exc)


class _Server(web.Server):
    """Makes our protocol for each connection."""

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

    Every request goes to one handler. The application's own router is not used: it would answer
    some requests itself, in the library's name, and ask for bodies that nothing has admitted.

    Args:
        app: Owner of the resources.
        handler: Answers each request.
        max_connections: At one time; one more is closed at once.
        options: Of `aiohttp.web.AppRunner` and of its connections.
    """

    def __init__(
        self, app: web.Application, handler: Handler, max_connections: int, **options: Any
    ) -> None:
        # Compressed bodies are refused by their header; nothing is decompressed before.
        super().__init__(app, auto_decompress=False, **options)
        self._handler = handler
        self._max_connections = max_connections

    async def _make_server(self) -> web.Server:
        # aiohttp has no public way to choose the protocol of an application's connections.
        inner = await super()._make_server()
        return _Server(inner, self._handler, self._max_connections, self._kwargs)
