"""The one interceptor: correlation, authentication, policy, budgets, errors, metrics, log line.

One and not five, because each interceptor costs every call. Metrics wrap errors, so that the code
counted is the code sent.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from random import getrandbits
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio

from spotplane_server.kernel import (
    calls,
    credentials,
    db,
    errors,
    logs,
    messages,
    metrics,
    policy,
    unit_of_work,
)
from spotplane_server.kernel.admission import Admission
from spotplane_server.kernel.auth import Verified
from spotplane_server.kernel.calls import Call
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.errors import DomainError
from spotplane_server.kernel.failures import Failure, detached
from spotplane_server.kernel.idempotency import Repeats, wish
from spotplane_server.kernel.limits import LimitReached, Permit
from spotplane_server.kernel.proxies import Origin, TrustedProxies
from spotplane_server.kernel.streams import OpenStream, OpenStreams, SlowConsumer, StreamLimits
from spotplane_server.kernel.tickets import TicketInvalid

if TYPE_CHECKING:
    from spotplane_server.kernel.tracing import Traces

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Gate(grpc.aio.ServerInterceptor):
    """Stands before every method.

    Args:
        prover: Proves callers.
        admission: Knows budgets.
        clock: The time.
        refused: Told of callers that may not call, or that failed to prove themselves.
        repeats: Answers calls under an idempotency key.
        proxies: Tell what of a call's metadata is believed.
        largest_message: Largest request of any method in bytes.
        subscriptions: Limits of open streams of events.
        stall_seconds: How long a caller may take to accept a response of a stream.
        read_seconds: How long the request of a call that has one may take to arrive.
        traces: Collects spans.
    """

    def __init__(
        self,
        prover: credentials.Prover,
        admission: Admission,
        clock: Clock,
        *,
        refused: Callable[[Call, DomainError], Awaitable[None]],
        repeats: Repeats,
        proxies: TrustedProxies,
        largest_message: int,
        subscriptions: StreamLimits,
        stall_seconds: float,
        read_seconds: float = messages.READ_SECONDS,
        traces: Traces | None = None,
    ) -> None:
        self._prover = prover
        self._admission = admission
        self._refused = refused
        self._repeats = repeats
        self._proxies = proxies
        self._largest_message = largest_message
        self._traces = traces
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._stall_seconds = stall_seconds
        self._read_seconds = read_seconds
        self._streams = OpenStreams(prover.auth, clock, subscriptions)

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap a method's handler, once."""
        method = handler_call_details.method
        handler = self._wrapped.get(method)
        if handler is None:
            inner = await continuation(handler_call_details)
            if inner is None:
                return None
            handler = self._wrapped[method] = self._wrap(method, inner)
        return handler

    async def recheck_streams(self) -> None:
        """End streams whose callers lose their right, until cancelled."""
        await self._streams.run()

    def _wrap(self, method: str, inner: Any) -> Any:
        """Serve every method as one with a stream of requests.

        There gRPC reads no message before it is asked to, so what a caller without a right sends
        stays in the flow control window. The wire format is the same.
        """
        reader = messages.RequestReader(
            method, inner.request_deserializer, self._largest_message, self._read_seconds
        )
        write = _as_written(inner.response_serializer)
        if inner.response_streaming:
            behaviour = inner.stream_stream if inner.request_streaming else inner.unary_stream
            served = _Method(method, behaviour, reader, write, stream_in=inner.request_streaming)
            return grpc.stream_stream_rpc_method_handler(self._streaming(served), None, write)
        behaviour = inner.stream_unary if inner.request_streaming else inner.unary_unary
        served = _Method(method, behaviour, reader, write, stream_in=inner.request_streaming)
        return grpc.stream_unary_rpc_method_handler(self._unary(served), None, write)

    def _unary(self, method: _Method) -> Any:
        handled = metrics.Handled(*method.names)

        async def serve(requests: Any, context: Context) -> Any:
            started = time.perf_counter()
            call, origin = self._begin(method, context)
            metadata = origin.metadata
            code, permit = grpc.StatusCode.OK, None
            try:
                verified, permit = await self._admit(method.access, call, origin)
                response = await self._respond(method, call, metadata, verified, context)
                await _send_headers(call, metadata, context)
                return response
            except grpc.aio.AbortError as err:
                code = context.code()
                del requests, context
                raise detached(err) from None
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as err:
                failure = Failure.of(err, call)
                code = failure.code
            finally:
                self._admission.leave(permit)
                elapsed = time.perf_counter() - started
                handled.count(code.name, elapsed)
                self._end(call, code, elapsed)
            ending = failure.send(context)
            del requests, context  # see `Failure.send`
            return await ending

        return serve

    async def _respond(
        self,
        method: _Method,
        call: Call,
        metadata: dict[str, str],
        verified: Verified | None,
        context: Context,
    ) -> Any:
        request = await self._request(method, call, verified, context)
        if method.stream_in:
            stream = self._streams.add(method.access or policy.PUBLIC, verified, call)
            try:
                # What was read of a stream cannot be read again.
                return await self._answer(
                    call, metadata, None, lambda: method.behaviour(request, context), method.write
                )
            finally:
                self._streams.discard(stream)

        async def once() -> Any:
            await unit_of_work.restart()
            return await method.behaviour(request, context)

        return await self._answer(call, metadata, request, lambda: db.attempt(once), method.write)

    async def _request(
        self, method: _Method, call: Call, verified: Verified | None, context: Context
    ) -> Any:
        """The request of an admitted call, or the stream of its requests."""
        if method.stream_in:
            self._admission.charge_fleet(method.access, call, verified, "")
            return method.reader.each(context)
        agent_id = ""
        try:
            request = await method.reader.one(context)
            agent_id = getattr(request, "agent_id", "")
            if call.ticket is not None and not call.ticket.opens(request):
                raise TicketInvalid
            return request
        finally:
            # A message that cannot be parsed is charged too.
            self._admission.charge_fleet(method.access, call, verified, agent_id)

    async def _answer(
        self,
        call: Call,
        metadata: dict[str, str],
        sent: Any,
        run: Callable[[], Awaitable[Any]],
        write: Callable[[Any], bytes],
    ) -> Any:
        """Run a handler, or answer as it answered before under the same key.

        ``sent`` is None for a stream, which is not compared: there the key alone decides, and a
        sticky one does not count.
        """
        wanted = wish(metadata, call.method, sent)
        if wanted is None or call.caller is calls.ANONYMOUS or (sent is None and wanted.loose):
            return await run()
        secret = credentials.tokens(metadata).secret or ""
        body = b"" if sent is None else sent.SerializeToString(deterministic=True)
        return await self._repeats.answer(call, secret, wanted, body, run, write)

    def _streaming(self, method: _Method) -> Any:
        async def serve(requests: Any, context: Context) -> None:
            call, origin = self._begin(method, context)
            serving = self._stream(method, call, origin, context)
            del requests, context  # see `Failure.send`
            try:
                ending = await serving
                if ending is not None:
                    await ending
            finally:
                # It counts until then: the status waits behind what the caller does not read.
                self._streams.discard(call.stream)

        return serve

    async def _stream(
        self, method: _Method, call: Call, origin: Origin, context: Context
    ) -> Awaitable[NoReturn] | None:
        """Serve a stream of responses; return what ends the call if it failed."""
        started = time.perf_counter()
        code, permit = grpc.StatusCode.OK, None
        failure: Failure | None = None
        metrics.ACTIVE.labels("grpc").inc()
        try:
            verified, permit = await self._admit(method.access, call, origin)
            await self._respond_by_stream(method, call, origin.metadata, verified, context)
        except grpc.aio.AbortError as err:
            code = context.code()
            del context
            raise detached(err) from None
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            if call.stream is None or call.stream.error is None:
                raise
            call.stream.task.uncancel()
            failure = Failure.of(call.stream.error, call)
        except Exception as err:
            failure = Failure.of(err, call)
        finally:
            code = code if failure is None else failure.code
            metrics.ACTIVE.labels("grpc").dec()
            self._admission.leave(permit)
            metrics.RPCS.labels(*method.names, code.name).inc()
            self._end(call, code, time.perf_counter() - started)
        return None if failure is None else failure.send(context)

    async def _respond_by_stream(
        self,
        method: _Method,
        call: Call,
        metadata: dict[str, str],
        verified: Verified | None,
        context: Context,
    ) -> None:
        stream = self._streams.add(method.access or policy.PUBLIC, verified, call)
        request = await self._request(method, call, verified, context)
        if inspect.iscoroutinefunction(method.behaviour):
            await method.behaviour(request, context)  # it writes its responses itself
            return
        async with aclosing(method.behaviour(request, context)) as responses:
            await self._send(responses, stream, call, metadata, context)

    async def _send(
        self,
        responses: AsyncIterator[Any],
        stream: OpenStream,
        call: Call,
        metadata: dict[str, str],
        context: Context,
    ) -> None:
        """Send the responses of a stream, each within the time that a caller has to take it."""
        first = True
        async for response in responses:
            if first:
                first = False
                # Before the first response: when that is cut off, gRPC does not know that it took
                # the headers with it and cannot send the status. A handler may have sent them.
                with suppress(grpc.aio.UsageError):
                    await _send_headers(call, metadata, context)
                    await context.send_initial_metadata(())
            stream.expect(self._stall_seconds, SlowConsumer)
            await context.write(response)
            stream.arrived()

    def _begin(self, method: _Method, context: Context) -> tuple[Call, Origin]:
        origin = self._proxies.origin(context.peer(), context.invocation_metadata() or ())
        metadata = origin.metadata
        wanted = metadata.get("x-request-id") or metadata.get("x-correlation-id") or ""
        call = Call(
            method.path,
            wanted if _REQUEST_ID.fullmatch(wanted) else _new_id(),
            client_ip=origin.client_ip,
            user_agent=metadata.get("x-user-agent") or metadata.get("user-agent"),
        )
        # Of a conversation of days nobody would see the span's end.
        if self._traces is not None and not (method.access or policy.PUBLIC).endless:
            call.span = self._traces.begin(method.path, metadata)
        calls.enter(call)
        context.set_trailing_metadata((("x-request-id", call.correlation_id),))
        return call, origin

    async def _admit(
        self, access: policy.Access | None, call: Call, origin: Origin
    ) -> tuple[Verified | None, Permit | None]:
        if access is None:
            raise policy.ScopeForbidden("the method has no policy", scope="none")
        if access.public:
            return None, None
        try:
            verified = await self._prover.prove(access, call, credentials.tokens(origin.metadata))
            call.caller, call.credential_hash = verified.caller, verified.hashed
            policy.check(access, verified.caller)
        except DomainError as err:
            metrics.AUTH.labels("admin" if access.admin_only else "tenant", err.reason).inc()
            if not isinstance(err, (*credentials.MISSING, errors.Unavailable, LimitReached)):
                await self._refused(call, err)
            raise
        metrics.authenticated(verified.caller.kind).inc()
        self._proxies.note(origin, proven=verified.caller.kind == "admin")
        return verified, await self._admission.admit(access, call, verified)

    def _end(self, call: Call, code: grpc.StatusCode, elapsed: float) -> None:
        if self._traces is not None and call.span is not None:
            self._traces.end(call.span, code)
        _log(call, code, elapsed)


@dataclass(frozen=True, slots=True)
class _Method:
    """A method as it is served."""

    path: str
    behaviour: Any
    reader: messages.RequestReader
    write: Callable[[Any], bytes]
    stream_in: bool

    @property
    def access(self) -> policy.Access | None:
        """Who may call it; None for nobody."""
        return policy.METHODS.get(self.path)

    @property
    def names(self) -> tuple[str, str]:
        """Its service, without the package, and its name."""
        service, name = self.path.rpartition(".")[2].split("/")
        return service, name


def _as_written(write: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """A serializer that leaves alone what is written already."""
    return lambda response: response if isinstance(response, bytes) else write(response)


async def _send_headers(call: Call, metadata: dict[str, str], context: Context) -> None:
    if call.headers_sent:
        return
    headers = call.headers
    if call.http_status != 200:
        headers["x-spotplane-http-status"] = str(call.http_status)
    if not headers:
        return
    # The REST doors need headers before the body; a plain gRPC caller reads the budget from the
    # trailers, which cost nothing.
    plain = all(name.startswith("x-ratelimit-") for name in headers)
    if not plain or "x-spotplane-door" in metadata:
        await context.send_initial_metadata(tuple(headers.items()))
    else:
        context.set_trailing_metadata((("x-request-id", call.correlation_id), *headers.items()))


def _new_id() -> str:
    # A name and no secret, so it need not come from the system's random numbers, a call each.
    bits = f"{getrandbits(128):032x}"
    return f"{bits[:8]}-{bits[8:12]}-{bits[12:16]}-{bits[16:20]}-{bits[20:]}"


def _log(call: Call, code: grpc.StatusCode, elapsed: float) -> None:
    caller = call.caller
    logs.access.write(
        {
            "event": "rpc",
            "method": call.method,
            "code": code.name,
            "duration_ms": round(elapsed * 1000, 2),
            "client_ip": call.client_ip,
            "actor": caller.name,
            "tenant_id": caller.tenant_id and str(caller.tenant_id),
            "correlation_id": call.correlation_id,
        }
    )
