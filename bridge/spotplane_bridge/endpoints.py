"""Endpoints of annotated RPCs: convert the request, make the call, convert the response."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
import grpc.aio
import orjson
import structlog
from aiohttp import web

from spotplane_bridge import body_limits, errors, headers, transcode
from spotplane_bridge.config import BridgeConfig
from spotplane_bridge.middleware import Endpoint, RequestContext
from spotplane_bridge.parser import compile_parser
from spotplane_bridge.request_bodies import Bodies
from spotplane_bridge.routes import Route
from spotplane_bridge.serializer import compile_serializer
from spotplane_bridge.upstream import END, Upstream

log = structlog.get_logger("spotplane_bridge")

# Errors that end the reading of a stream early.
_BROKEN: Final = (grpc.aio.AioRpcError, TimeoutError)


def endpoint_of(route: Route, upstream: Upstream, config: BridgeConfig, bodies: Bodies) -> Endpoint:
    """Return the endpoint of a route."""
    reader = RequestReader(route, bodies)
    if route.server_streaming:
        return StreamEndpoint(route, upstream, reader, config)
    analytics = config.analytics_timeout_s
    return UnaryEndpoint(
        route, upstream, reader, analytics if route.is_analytics else config.unary_timeout_s
    )


class RequestReader:
    """Converts the requests of one route into messages of its RPC."""

    def __init__(self, route: Route, bodies: Bodies) -> None:
        # Compiled here, because several threads convert requests.
        compile_parser(route.descriptor.input_type)
        self._route = route
        self._bodies = bodies
        self._limit = body_limits.body_bytes(route.rpc)

    async def read(self, exchange: RequestContext) -> Any:
        """Read a request and its body, if the route has one.

        Raises:
            Failure: The request or its body is rejected; see `Bodies`.
        """
        route, body = self._route, b""
        if route.body:
            body = await self._bodies.read(exchange, self._limit, exchange.metadata)
        if body:
            transcode.check_media_type(exchange.request.headers.get("Content-Type"))
        return await self._bodies.convert(
            body,
            lambda: transcode.read_request(route, exchange.values, exchange.query, body),
            exchange.metadata,
        )


class UnaryEndpoint:
    """Serves a unary RPC."""

    def __init__(
        self, route: Route, upstream: Upstream, reader: RequestReader, timeout_s: float
    ) -> None:
        self.template = route.template
        self._route = route
        self._reader = reader
        self._call = upstream.unary(
            route.rpc,
            route.request_class,
            route.response_class,
            idempotent=route.method == "GET",
        )
        self._print = compile_serializer(route.descriptor.output_type)
        self._timeout_s = timeout_s

    async def serve(self, exchange: RequestContext) -> web.StreamResponse:
        """Handle one request; see `Endpoint`."""
        message = await self._reader.read(exchange)
        call = self._call(message, metadata=exchange.metadata(), timeout=self._timeout_s)
        try:
            response = await call
            # The response is complete, so a header may come in either: trailers cost the server
            # nothing, initial metadata one operation more.
            metadata = (*await call.initial_metadata(), *await call.trailing_metadata())
        except grpc.aio.AioRpcError as err:
            raise errors.from_rpc(err) from err
        status = headers.metadata_to_headers(metadata, exchange.headers)
        if status == 204:
            return exchange.bytes_response(204, "", b"")
        if self._route.is_raw:
            return exchange.bytes_response(status, response.content_type, response.data)
        return exchange.json_response(status, self._print(response))


class StreamEndpoint:
    """Serves a server-streaming RPC, as raw chunks or as JSON lines of messages.

    The first message decides between an error response and a success. A later failure breaks the
    connection, because the status is sent already and the client must not take a partial response
    for a complete one.
    """

    def __init__(
        self, route: Route, upstream: Upstream, reader: RequestReader, config: BridgeConfig
    ) -> None:
        self.template = route.template
        self._route = route
        self._reader = reader
        self._call = upstream.stream(route.rpc, route.request_class, route.response_class)
        self._print = compile_serializer(route.descriptor.output_type)
        self._idle_timeout_s = config.stream_idle_timeout_s
        self._write_timeout_s = config.stream_write_timeout_s

    async def serve(self, exchange: RequestContext) -> web.StreamResponse:
        """Handle one request; see `Endpoint`."""
        message = await self._reader.read(exchange)
        call = self._call(message, metadata=exchange.metadata())
        try:
            first = await self._read(call)
            initial = await call.initial_metadata()
        except grpc.aio.AioRpcError as err:
            raise errors.from_rpc(err) from err
        except TimeoutError as err:
            raise errors.Failure(504, "DEADLINE_EXCEEDED", "the server did not answer") from err
        status = headers.metadata_to_headers(initial, exchange.headers)
        exchange.headers["Content-Type"] = self._content_type(first)
        response = web.StreamResponse(status=status, headers=exchange.headers)
        try:
            await self._pass_on(exchange, call, first, response)
        finally:
            # No effect on a call that has ended; otherwise the rest of the stream would never be
            # read.
            call.cancel()
        return response

    async def _pass_on(
        self, exchange: RequestContext, call: Any, first: Any, response: web.StreamResponse
    ) -> None:
        try:
            await response.prepare(exchange.request)
            message = first
            while message is not END:
                async with asyncio.timeout(self._write_timeout_s):
                    await response.write(self._chunk(message))
                message = await self._read(call)
            await response.write_eof()
        except ConnectionError:
            log.info("client_left", request_id=exchange.ids.correlation, path=self.template)
        except _BROKEN as err:
            log.warning(
                "stream_broken",
                request_id=exchange.ids.correlation,
                path=self.template,
                error=type(err).__name__,
            )
            if exchange.request.transport is not None:
                exchange.request.transport.abort()

    async def _read(self, call: Any) -> Any:
        async with asyncio.timeout(self._idle_timeout_s):
            return await call.read()

    def _content_type(self, first: Any) -> str:
        if not self._route.is_raw:
            return "application/x-ndjson"
        if first is END:
            return "application/octet-stream"
        return first.content_type or "application/octet-stream"

    def _chunk(self, message: Any) -> bytes:
        if self._route.is_raw:
            return bytes(message.data)
        return orjson.dumps(self._print(message), option=orjson.OPT_APPEND_NEWLINE)
