"""Endpoints of declared routes: parse the request, make the call, print the response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl

import grpc
import grpc.aio
import orjson
import structlog
from aiohttp import web
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from spotplane_bridge import errors, headers
from spotplane_bridge.config import BridgeConfig
from spotplane_bridge.errors import Failure
from spotplane_bridge.headers import Metadata
from spotplane_bridge.legacy import errors as errors_module
from spotplane_bridge.legacy import exports, paths, sse, uploads
from spotplane_bridge.legacy.credentials import LEGACY_ERROR_FORMAT, credential_of
from spotplane_bridge.legacy.exports import Csv, Table
from spotplane_bridge.legacy.requests import Incoming, Reader, TextReader
from spotplane_bridge.legacy.routes import NEVER_BY_REQUEST_ID, Call, LegacyRoute
from spotplane_bridge.legacy.sse import Events, Frame
from spotplane_bridge.middleware import Endpoint, RequestContext
from spotplane_bridge.request_bodies import Bodies
from spotplane_bridge.transcode import MAX_PARAMETERS
from spotplane_bridge.upstream import END, Upstream

log = structlog.get_logger("spotplane_bridge")

_ENVELOPE: Final = "application/vnd.spotplane.envelope+json"
_WRITES: Final = frozenset({"POST", "PUT", "DELETE"})
_PERMISSION_STATUSES: Final = frozenset({401, 403, 429})
_BROKEN: Final = (grpc.aio.AioRpcError, TimeoutError)


class BoundCall:
    """A call bound to its RPC: reads requests and prints responses.

    Raises:
        ValueError: The RPC or a field that the declaration names does not exist.
    """

    def __init__(self, route: LegacyRoute, declared: Call, method: MethodDescriptor) -> None:
        self.declared = declared
        self.method = method
        self.rpc = f"/{method.containing_service.full_name}/{method.name}"
        self.request_class = message_factory.GetMessageClass(method.input_type)
        self.response_class = message_factory.GetMessageClass(method.output_type)
        self.path_fields = paths.fields(route.template, declared.path, method.input_type)
        self._path = TextReader(
            method.input_type, paths.parameters(route.template, declared.path, method.input_type)
        )
        self._query = TextReader(method.input_type, declared.query)
        self._headers = TextReader(method.input_type, declared.headers)
        self._body = Reader(method.input_type, declared.body)
        shape = declared.shape
        self.shape = None if isinstance(shape, Events) else shape.compile(method.output_type)
        self.paging = paths.paging(method.output_type)

    def message(self, incoming: Incoming) -> Any:
        """Build the RPC's request.

        Raises:
            Failure: 400.
        """
        message = self.request_class()
        if self.declared.body:
            self._body.from_json(message, incoming.body)
        if incoming.query:
            self._query.from_text(message, incoming.query)
        if self.declared.headers:
            self._headers.from_text(message, incoming.headers)
        self._path.from_text(message, incoming.path)
        if self.declared.fill is not None:
            self.declared.fill(incoming, message)
        return message

    def status(self, response: Any, requested: int) -> int:
        """Return the status of a success: the route's, else the RPC's."""
        status = self.declared.status
        if callable(status):
            return int(status(response))
        return requested if status == 200 else status


@dataclass(frozen=True, slots=True)
class Bound:
    """A call and the stub that makes it."""

    call: BoundCall
    stub: Any


class LegacyEndpoint:
    """Serves one declared route.

    Args:
        route: The declaration.
        calls: Its calls, in their order.
        upstream: The server.
        config: Timeouts.
        bodies: Reads the bodies.
        streams: Open event streams, which end when the process does.
    """

    def __init__(
        self,
        route: LegacyRoute,
        calls: list[BoundCall],
        upstream: Upstream,
        config: BridgeConfig,
        bodies: Bodies,
        streams: set[Any],
    ) -> None:
        self.template = route.template
        self._route = route
        self._names = paths.variables(route.template)
        self._bound = [
            Bound(call, _stub(call, upstream, idempotent=route.method == "GET")) for call in calls
        ]
        self._timeout_s = config.unary_timeout_s
        self._idle_timeout_s = config.stream_idle_timeout_s
        self._write_timeout_s = config.stream_write_timeout_s
        self._bodies = bodies
        self._streams = streams

    async def serve(self, exchange: RequestContext) -> web.StreamResponse:
        """Handle one request; see `Endpoint`."""
        bound = self._bound[-1]
        try:
            incoming, body = await self._incoming(exchange, bound.call.declared)
            metadata = self._metadata(exchange, incoming)
            bound = next(b for b in self._bound if _applies(b.call.declared, incoming))
            return await self._serve(exchange, incoming, body, metadata, bound)
        except Failure as failure:
            raise errors_module.translate_error(
                failure, bound.call.declared, bound.call.path_fields
            ) from failure

    async def _serve(
        self,
        exchange: RequestContext,
        incoming: Incoming,
        body: bytes,
        metadata: Metadata,
        bound: Bound,
    ) -> web.StreamResponse:
        declared = bound.call.declared
        if declared.upload is not None:
            await self._bodies.begin_upload(exchange, declared.upload.max_bytes, lambda: metadata)
            parts = uploads.messages(declared.upload, exchange.request)
            return await self._unary(exchange, incoming, metadata, bound, parts)
        message = await self._bodies.convert(
            body, lambda: bound.call.message(incoming), lambda: metadata
        )
        if isinstance(declared.shape, Events):
            return await self._events(exchange, incoming, metadata, bound, message)
        if isinstance(declared.shape, Csv):
            return await self._export(exchange, incoming, metadata, bound, message)
        return await self._unary(exchange, incoming, metadata, bound, message)

    async def _incoming(self, exchange: RequestContext, declared: Call) -> tuple[Incoming, bytes]:
        """Read a request and, unless it is an upload, its body."""
        request = exchange.request
        incoming = Incoming(
            dict(zip(self._names, exchange.values, strict=True)),
            _query(exchange.query),
            {},
            request.headers,
        )
        if declared.upload is not None:
            return incoming, b""

        def metadata() -> Metadata:
            # A large body is read only after its credential is verified, so the credential cannot
            # be in it.
            try:
                return self._metadata(exchange, incoming)
            except Failure as failure:
                failure.suggestion = "a large body needs its credential in a header"
                raise

        body = await self._bodies.read(exchange, declared.max_body_bytes, metadata)
        strict = request.method != "GET"
        members = await self._bodies.parse(body, lambda d: _object(d, strict=strict), metadata)
        return replace(incoming, body=members), body

    def _metadata(self, exchange: RequestContext, incoming: Incoming) -> Metadata:
        """Return the metadata of the call: one credential, ids, and an idempotency key."""
        credential = credential_of(incoming.headers, incoming.body, incoming.query)
        metadata = [LEGACY_ERROR_FORMAT, (credential.key, credential.value)]
        metadata += headers.anonymous_metadata(
            exchange.request.headers, exchange.ids, exchange.client_ip
        )
        metadata += exchange.trace
        method = exchange.request.method
        if credential.key == "x-spotplane-ticket":
            metadata.append(("x-spotplane-path", paths.without_ticket(exchange)))
        if method in _WRITES:
            by_request_id = self._route.id not in NEVER_BY_REQUEST_ID
            metadata += headers.idempotency_metadata(
                incoming.headers, f"{method} {exchange.path}", by_request_id=by_request_id
            )
        return tuple(metadata)

    async def _unary(
        self,
        exchange: RequestContext,
        _incoming: Incoming,
        metadata: Metadata,
        bound: Bound,
        sent: Any,
    ) -> web.Response:
        response, status = await self._call(exchange, metadata, bound, sent)
        call = bound.call
        call.paging(response, exchange.headers)
        assert call.shape is not None
        assert not isinstance(call.shape, Table)
        body = call.shape.get(response)
        status = call.status(response, status)
        return exchange.json_response(status, enveloped(exchange.request, body))

    async def _call(
        self, exchange: RequestContext, metadata: Metadata, bound: Bound, sent: Any
    ) -> tuple[Any, int]:
        failed: list[Failure] = []
        if isinstance(sent, AsyncIterator):
            sent = _with_failure(sent, failed)
        call = bound.stub(sent, metadata=metadata, timeout=self._timeout_s)
        try:
            response = await call
            metadata = (*await call.initial_metadata(), *await call.trailing_metadata())
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as err:
            call_failure = errors.from_rpc(err) if isinstance(err, grpc.aio.AioRpcError) else None
            # A caller without permission is rejected first, independent of the body.
            if failed and (call_failure is None or call_failure.status not in _PERMISSION_STATUSES):
                raise failed[0] from err
            if call_failure is not None:
                raise call_failure from err
            raise
        if failed:
            raise failed[0]
        return response, headers.metadata_to_headers(metadata, exchange.headers)

    async def _export(
        self,
        exchange: RequestContext,
        incoming: Incoming,
        metadata: Metadata,
        bound: Bound,
        message: Any,
    ) -> web.StreamResponse:
        table = bound.call.shape
        assert isinstance(table, Table)
        if not bound.call.method.server_streaming:
            response, _ = await self._call(exchange, metadata, bound, message)
            source = _once(response)
        else:
            source = self._stream(exchange, bound.stub(message, metadata=metadata))
        first = await anext(source, None)
        if exports.wants_json(incoming):
            rows = list(table.rows(first)) if first is not None else []
            async for response in source:
                rows += table.rows(response)
            return exchange.json_response(200, {"rows": rows})
        exchange.headers["Content-Type"] = exports.CONTENT_TYPE
        name = table.declared.filename(incoming)
        exchange.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        http_response = web.StreamResponse(headers=exchange.headers)
        try:
            await http_response.prepare(exchange.request)
            await self._write(
                http_response, table.header() + (table.lines(first) if first is not None else b"")
            )
            async for response in source:
                await self._write(http_response, table.lines(response))
            await http_response.write_eof()
        except ConnectionError:
            log.info("client_left", request_id=exchange.ids.correlation, path=self.template)
        except (*_BROKEN, Failure) as err:
            _break_off(exchange, self.template, err)
        return http_response

    async def _stream(self, exchange: RequestContext, call: Any) -> AsyncIterator[Any]:
        try:
            while (message := await self._read(call)) is not END:
                yield message
        except grpc.aio.AioRpcError as err:
            raise errors.from_rpc(err) from err
        except TimeoutError as err:
            raise Failure(504, "DEADLINE_EXCEEDED", "the server did not answer") from err
        finally:
            call.cancel()

    async def _read(self, call: Any) -> Any:
        async with asyncio.timeout(self._idle_timeout_s):
            return await call.read()

    async def _write(self, http_response: web.StreamResponse, data: bytes) -> None:
        """Send a part of a response.

        Raises:
            TimeoutError: The client does not read. A client may be behind by the buffers up to
            here;
                the rest stays at the server.
        """
        async with asyncio.timeout(self._write_timeout_s):
            await http_response.write(data)

    async def _events(
        self,
        exchange: RequestContext,
        incoming: Incoming,
        metadata: Metadata,
        bound: Bound,
        message: Any,
    ) -> web.StreamResponse:
        declared = bound.call.declared.shape
        assert isinstance(declared, Events)
        call = bound.stub(message, metadata=metadata)
        self._streams.add(call)
        http_response = None
        try:
            first = await self._read(call)
            exchange.headers.update(sse.HEADERS)
            http_response = web.StreamResponse(headers=exchange.headers)
            await http_response.prepare(exchange.request)
            await _send_events(partial(self._write, http_response), call, first, declared, incoming)
            await http_response.write_eof()
        except ConnectionError:
            log.info("client_left", request_id=exchange.ids.correlation, path=self.template)
        except _BROKEN as err:
            if http_response is None and isinstance(err, grpc.aio.AioRpcError):
                raise errors.from_rpc(err) from err
            if http_response is None:
                raise Failure(504, "DEADLINE_EXCEEDED", "the server did not answer") from err
            _break_off(exchange, self.template, err)
        except asyncio.CancelledError:
            # The call was cancelled because the process ends or the request was cancelled.
            if http_response is None or not call.cancelled():
                raise
        finally:
            self._streams.discard(call)
            call.cancel()
        assert http_response is not None
        return http_response


def endpoint_of(
    route: LegacyRoute,
    methods: Mapping[str, MethodDescriptor],
    upstream: Upstream,
    config: BridgeConfig,
    bodies: Bodies,
    streams: set[Any],
) -> Endpoint:
    """Return the endpoint that serves a declared route.

    Raises:
        ValueError: The declaration names an RPC or a field that does not exist.
    """
    return LegacyEndpoint(route, bind(route, methods), upstream, config, bodies, streams)


def bind(route: LegacyRoute, methods: Mapping[str, MethodDescriptor]) -> list[BoundCall]:
    """Bind a route's calls to their RPCs.

    Args:
        route: The declaration.
        methods: RPCs by service and method, e.g. ``AgentService.GetAgent``.

    Raises:
        ValueError: The declaration names an RPC or a field that does not exist.
    """
    bound = []
    for declared in route.calls:
        method = methods.get(declared.rpc)
        if method is None:
            raise ValueError(f"route {route.id}: there is no RPC {declared.rpc}")
        try:
            bound.append(BoundCall(route, declared, method))
        except ValueError as err:
            raise ValueError(f"route {route.id} ({route.template}): {err}") from err
    return bound


def enveloped(request: web.Request, body: Any) -> Any:
    """Return the body, wrapped in an envelope if the caller requests it."""
    wanted = request.headers.get("X-Response-Format", "").lower() == "envelope"
    if not wanted and _ENVELOPE not in request.headers.get("Accept", "").lower():
        return body
    wrapped = {"status": "success", "data": body, "error": None}
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        wrapped["message"] = body["message"]
    return wrapped


def _stub(call: BoundCall, upstream: Upstream, *, idempotent: bool) -> Any:
    if call.method.client_streaming:
        return upstream.upload(call.rpc, call.request_class, call.response_class)
    if call.method.server_streaming:
        return upstream.stream(call.rpc, call.request_class, call.response_class)
    return upstream.unary(call.rpc, call.request_class, call.response_class, idempotent=idempotent)


def _applies(declared: Call, incoming: Incoming) -> bool:
    return declared.when is None or declared.when(incoming)


def _object(body: bytes, *, strict: bool) -> Mapping[str, Any]:
    """Return the body's members; a read ignores a body unless it has members."""
    if not body.strip():
        return {}
    try:
        members = orjson.loads(body)
    except orjson.JSONDecodeError as err:
        if not strict:
            return {}
        where = f"line {err.lineno}, column {err.colno}"
        raise Failure(400, "INVALID_JSON", f"the body is not JSON: {where}") from err
    if isinstance(members, dict):
        return members
    if strict and members is not None:
        raise Failure(400, "INVALID_JSON", "the body must be a JSON object")
    return {}


def _query(query: str) -> Mapping[str, str]:
    if not query:
        return {}
    try:
        return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS))
    except ValueError as err:
        raise Failure(400, "OUT_OF_RANGE", "too many query parameters") from err


async def _with_failure(source: AsyncIterator[Any], failed: list[Failure]) -> AsyncIterator[Any]:
    """Yield an upload's messages and store their failure, which gRPC reports as cancellation."""
    has_begun = False
    try:
        async for message in source:
            has_begun = True
            yield message
    except Failure as failure:
        failed.append(failure)
        # Nothing was sent, so let the call end by itself: its error, e.g. a missing permission, has
        # precedence. Later, an end would look like the end of the file.
        if has_begun:
            raise


async def _once(response: Any) -> AsyncIterator[Any]:
    yield response


async def _send_events(
    write: Callable[[bytes], Awaitable[None]],
    call: Any,
    first: Any,
    declared: Events,
    incoming: Incoming,
) -> None:
    """Send messages as events until the stream ends, with a heartbeat in every period."""
    message, newest = first, None
    loop = asyncio.get_running_loop()
    beat_at = loop.time() + declared.seconds
    reading: asyncio.Task[Any] | None = None
    try:
        while message is not END:
            frames = declared.frames(incoming, message) or []
            newest = next((f.id for f in reversed(frames) if f.id is not None), newest)
            if frames:
                await write(b"".join(frame.encode() for frame in frames))
            reading = asyncio.ensure_future(call.read())
            while not (await asyncio.wait((reading,), timeout=max(0.0, beat_at - loop.time())))[0]:
                await write(_heartbeat(declared, incoming, newest).encode())
                beat_at = loop.time() + declared.seconds
            message = reading.result()
    finally:
        if reading is not None:
            reading.cancel()


def _heartbeat(declared: Events, incoming: Incoming, newest: str | None) -> Frame:
    return declared.heartbeat(incoming, newest, sse.now())


def _break_off(exchange: RequestContext, template: str, err: BaseException) -> None:
    """Break the connection of a started response, so that the client sees it is incomplete."""
    log.warning(
        "stream_broken",
        request_id=exchange.ids.correlation,
        path=template,
        error=type(err).__name__,
    )
    if exchange.request.transport is not None:
        exchange.request.transport.abort()
