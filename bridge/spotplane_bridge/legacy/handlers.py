"""The endpoints of declared routes: one request in, one call, one answer out."""

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
from spotplane_bridge.legacy.credentials import FAMILY, credential_of
from spotplane_bridge.legacy.exports import Csv, Table
from spotplane_bridge.legacy.requests import Incoming, Reader, TextReader
from spotplane_bridge.legacy.routes import NEVER_BY_REQUEST_ID, Call, DialectRoute
from spotplane_bridge.legacy.sse import Events, Frame
from spotplane_bridge.middleware import Endpoint, Exchange
from spotplane_bridge.request_bodies import Bodies
from spotplane_bridge.transcode import MAX_PARAMETERS
from spotplane_bridge.upstream import END, Upstream

log = structlog.get_logger("spotplane_bridge")

_ENVELOPE: Final = "application/vnd.spotplane.envelope+json"
_WRITES: Final = frozenset({"POST", "PUT", "DELETE"})
_NO_RIGHT: Final = frozenset({401, 403, 429})
_BROKEN: Final = (grpc.aio.AioRpcError, TimeoutError)


class BoundCall:
    """A call that knows its RPC: reads requests and prints answers.

    Raises:
        ValueError: The RPC or a field that the declaration names does not exist.
    """

    def __init__(self, route: DialectRoute, declared: Call, method: MethodDescriptor) -> None:
        self.declared = declared
        self.method = method
        self.rpc = f"/{method.containing_service.full_name}/{method.name}"
        self.request_class = message_factory.GetMessageClass(method.input_type)
        self.response_class = message_factory.GetMessageClass(method.output_type)
        self.path_fields = paths.fields(route.template, declared.path, method.input_type)
        self._path = TextReader(
            method.input_type, paths.takes(route.template, declared.path, method.input_type)
        )
        self._query = TextReader(method.input_type, declared.query)
        self._headers = TextReader(method.input_type, declared.headers)
        self._body = Reader(method.input_type, declared.body)
        answer = declared.answer
        self.answer = None if isinstance(answer, Events) else answer.compile(method.output_type)
        self.paging = paths.paging(method.output_type)

    def message(self, incoming: Incoming) -> Any:
        """The RPC's request.

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

    def status(self, response: Any, said: int) -> int:
        """The status of a success: the RPC's own word, unless the route has one."""
        status = self.declared.status
        if callable(status):
            return int(status(response))
        return said if status == 200 else status


@dataclass(frozen=True, slots=True)
class Bound:
    """A call and the stub that makes it."""

    call: BoundCall
    stub: Any


class DialectEndpoint:
    """Serves one declared route.

    Args:
        route: As declared.
        calls: Its calls, in their order.
        upstream: The server.
        config: Timeouts.
        bodies: Reads the bodies.
        streams: Open event streams, which end when the process does.
    """

    def __init__(
        self,
        route: DialectRoute,
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

    async def serve(self, exchange: Exchange) -> web.StreamResponse:
        """Answer one request; see `Endpoint`."""
        bound = self._bound[-1]
        try:
            incoming, body = await self._incoming(exchange, bound.call.declared)
            metadata = self._metadata(exchange, incoming)
            bound = next(b for b in self._bound if _applies(b.call.declared, incoming))
            return await self._serve(exchange, incoming, body, metadata, bound)
        except Failure as failure:
            raise errors_module.told(
                failure, bound.call.declared, bound.call.path_fields
            ) from failure

    async def _serve(
        self, exchange: Exchange, incoming: Incoming, body: bytes, metadata: Metadata, bound: Bound
    ) -> web.StreamResponse:
        declared = bound.call.declared
        if declared.upload is not None:
            await self._bodies.begin_upload(exchange, declared.upload.max_bytes, lambda: metadata)
            parts = uploads.messages(declared.upload, exchange.request)
            return await self._unary(exchange, incoming, metadata, bound, parts)
        message = await self._bodies.convert(
            body, lambda: bound.call.message(incoming), lambda: metadata
        )
        if isinstance(declared.answer, Events):
            return await self._events(exchange, incoming, metadata, bound, message)
        if isinstance(declared.answer, Csv):
            return await self._export(exchange, incoming, metadata, bound, message)
        return await self._unary(exchange, incoming, metadata, bound, message)

    async def _incoming(self, exchange: Exchange, declared: Call) -> tuple[Incoming, bytes]:
        """Read a request; the body, too, unless it is an upload."""
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
            # A large body is read after its credential was verified, which it cannot contain.
            try:
                return self._metadata(exchange, incoming)
            except Failure as failure:
                failure.suggestion = "a large body needs its credential in a header"
                raise

        body = await self._bodies.read(exchange, declared.max_body_bytes, metadata)
        strict = request.method != "GET"
        members = await self._bodies.parse(body, lambda d: _object(d, strict=strict), metadata)
        return replace(incoming, body=members), body

    def _metadata(self, exchange: Exchange, incoming: Incoming) -> Metadata:
        """What goes with the call: one credential, ids, and under which name it may be repeated."""
        credential = credential_of(incoming.headers, incoming.body, incoming.query)
        metadata = [FAMILY, (credential.key, credential.value)]
        metadata += headers.anonymous_metadata(
            exchange.request.headers, exchange.ids, exchange.client_ip
        )
        metadata += exchange.trace
        method = exchange.request.method
        if credential.key == "x-spotplane-ticket":
            metadata.append(("x-spotplane-path", paths.without_ticket(exchange)))
        if method in _WRITES:
            by_request_id = self._route.id not in NEVER_BY_REQUEST_ID
            metadata += headers.repeatable(
                incoming.headers, f"{method} {exchange.path}", by_request_id=by_request_id
            )
        return tuple(metadata)

    async def _unary(
        self, exchange: Exchange, _incoming: Incoming, metadata: Metadata, bound: Bound, sent: Any
    ) -> web.Response:
        response, status = await self._call(exchange, metadata, bound, sent)
        call = bound.call
        call.paging(response, exchange.headers)
        assert call.answer is not None
        assert not isinstance(call.answer, Table)
        body = call.answer.get(response)
        status = call.status(response, status)
        return exchange.answer(status, enveloped(exchange.request, body))

    async def _call(
        self, exchange: Exchange, metadata: Metadata, bound: Bound, sent: Any
    ) -> tuple[Any, int]:
        failed: list[Failure] = []
        if isinstance(sent, AsyncIterator):
            sent = _remembering(sent, failed)
        call = bound.stub(sent, metadata=metadata, timeout=self._timeout_s)
        try:
            response = await call
            said = (*await call.initial_metadata(), *await call.trailing_metadata())
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as err:
            said_no = errors.from_rpc(err) if isinstance(err, grpc.aio.AioRpcError) else None
            # Who may not call learns that first, whatever the body is.
            if failed and (said_no is None or said_no.status not in _NO_RIGHT):
                raise failed[0] from err
            if said_no is not None:
                raise said_no from err
            raise
        if failed:
            raise failed[0]
        return response, headers.take_metadata(said, exchange.headers)

    async def _export(
        self, exchange: Exchange, incoming: Incoming, metadata: Metadata, bound: Bound, message: Any
    ) -> web.StreamResponse:
        table = bound.call.answer
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
            return exchange.answer(200, {"rows": rows})
        exchange.headers["Content-Type"] = exports.CONTENT_TYPE
        name = table.declared.filename(incoming)
        exchange.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        answer = web.StreamResponse(headers=exchange.headers)
        try:
            await answer.prepare(exchange.request)
            await self._write(
                answer, table.header() + (table.lines(first) if first is not None else b"")
            )
            async for response in source:
                await self._write(answer, table.lines(response))
            await answer.write_eof()
        except ConnectionError:
            log.info("client_left", request_id=exchange.ids.correlation, path=self.template)
        except (*_BROKEN, Failure) as err:
            _break_off(exchange, self.template, err)
        return answer

    async def _stream(self, exchange: Exchange, call: Any) -> AsyncIterator[Any]:
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

    async def _write(self, answer: web.StreamResponse, data: bytes) -> None:
        """Send a part of an answer.

        Raises:
            TimeoutError: The client does not read. Buffers up to here hold what it may be behind;
                whatever else there is stays at the server.
        """
        async with asyncio.timeout(self._write_timeout_s):
            await answer.write(data)

    async def _events(
        self, exchange: Exchange, incoming: Incoming, metadata: Metadata, bound: Bound, message: Any
    ) -> web.StreamResponse:
        declared = bound.call.declared.answer
        assert isinstance(declared, Events)
        call = bound.stub(message, metadata=metadata)
        self._streams.add(call)
        answer = None
        try:
            first = await self._read(call)
            exchange.headers.update(sse.HEADERS)
            answer = web.StreamResponse(headers=exchange.headers)
            await answer.prepare(exchange.request)
            await _tell(partial(self._write, answer), call, first, declared, incoming)
            await answer.write_eof()
        except ConnectionError:
            log.info("client_left", request_id=exchange.ids.correlation, path=self.template)
        except _BROKEN as err:
            if answer is None and isinstance(err, grpc.aio.AioRpcError):
                raise errors.from_rpc(err) from err
            if answer is None:
                raise Failure(504, "DEADLINE_EXCEEDED", "the server did not answer") from err
            _break_off(exchange, self.template, err)
        except asyncio.CancelledError:
            # The call was cancelled because the process ends, or the request itself was.
            if answer is None or not call.cancelled():
                raise
        finally:
            self._streams.discard(call)
            call.cancel()
        assert answer is not None
        return answer


def endpoint_of(
    route: DialectRoute,
    methods: Mapping[str, MethodDescriptor],
    upstream: Upstream,
    config: BridgeConfig,
    bodies: Bodies,
    streams: set[Any],
) -> Endpoint:
    """The endpoint that serves a declared route.

    Raises:
        ValueError: The declaration names an RPC or a field that does not exist.
    """
    return DialectEndpoint(route, bind(route, methods), upstream, config, bodies, streams)


def bind(route: DialectRoute, methods: Mapping[str, MethodDescriptor]) -> list[BoundCall]:
    """Bind a route's calls to their RPCs.

    Args:
        route: As declared.
        methods: RPCs by service and method, e.g. ``AgentService.GetAgent``.

    Raises:
        ValueError: One does not exist, or a field that the declaration names.
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
    """The body, wrapped if the caller asks for it."""
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
    """The body's members; a body that a read should not have is ignored unless it has some."""
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


async def _remembering(source: AsyncIterator[Any], failed: list[Failure]) -> AsyncIterator[Any]:
    """The messages of an upload; gRPC says of a failed source only that it was cancelled."""
    has_begun = False
    try:
        async for message in source:
            has_begun = True
            yield message
    except Failure as failure:
        failed.append(failure)
        # Nothing was sent, so the call may end by itself, with what it says of the caller's right;
        # later, an end would look like the end of the file.
        if has_begun:
            raise


async def _once(response: Any) -> AsyncIterator[Any]:
    yield response


async def _tell(
    write: Callable[[bytes], Awaitable[None]],
    call: Any,
    first: Any,
    declared: Events,
    incoming: Incoming,
) -> None:
    """Pass messages on as events until the stream ends, with a heartbeat in every period."""
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


def _break_off(exchange: Exchange, template: str, err: BaseException) -> None:
    """End an answer whose status is sent already, so that nobody takes half of it for all."""
    log.warning(
        "stream_broken",
        request_id=exchange.ids.correlation,
        path=template,
        error=type(err).__name__,
    )
    if exchange.request.transport is not None:
        exchange.request.transport.abort()
