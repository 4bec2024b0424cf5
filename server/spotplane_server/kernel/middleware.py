"""The one interceptor: correlation, authentication, policy, budgets, errors, metrics, log line.

One and not five, because each interceptor costs every call. Metrics wrap errors, so that the code
counted is the code sent.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from random import getrandbits
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg
import grpc
import grpc.aio
import structlog

from spotplane_server.kernel import (
    addresses,
    calls,
    credentials,
    db,
    errors,
    logs,
    messages,
    metrics,
    policy,
)
from spotplane_server.kernel.admission import Admission
from spotplane_server.kernel.auth import Verified
from spotplane_server.kernel.calls import Call
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.errors import DomainError
from spotplane_server.kernel.idempotency import Repeats, wish
from spotplane_server.kernel.limits import LimitReached, Permit
from spotplane_server.kernel.streams import OpenStreams

if TYPE_CHECKING:
    from spotplane_server.kernel.tracing import Traces

log = structlog.get_logger(__name__)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Headers of errors too.
_TOLD_OF_ERRORS: Final = ("x-ratelimit-", "idempotent-replayed")


class Gate(grpc.aio.ServerInterceptor):
    """Stands before every method.

    Args:
        prover: Proves callers.
        admission: Knows budgets.
        clock: The time.
        refused: Told of callers that may not call, or that failed to prove themselves.
        repeats: Answers calls under an idempotency key.
        trusted_proxies: Whose `X-Forwarded-For` is believed.
        message_limits: Largest message in bytes, by method, where it is below the server's.
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
        trusted_proxies: Sequence[addresses.Network] = (),
        message_limits: Mapping[str, int] | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._prover = prover
        self._admission = admission
        self._refused = refused
        self._repeats = repeats
        self._trusted = trusted_proxies
        self._message_limits = message_limits or {}
        self._traces = traces
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._streams = OpenStreams(prover.auth, clock)

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
        read = messages.tolerant(inner.request_deserializer, self._message_limits.get(method))
        write = _as_written(inner.response_serializer)
        if inner.request_streaming and inner.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(method, inner.stream_stream, stream_in=True), read, write
            )
        if inner.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, inner.unary_stream, stream_in=False), read, write
            )
        if inner.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(method, inner.stream_unary, write, stream_in=True), read, write
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, inner.unary_unary, write, stream_in=False), read, write
        )

    def _unary(
        self, method: str, behaviour: Any, write: Callable[[Any], bytes], *, stream_in: bool
    ) -> Any:
        access = policy.METHODS.get(method)
        handled = metrics.Handled(*method.rpartition(".")[2].split("/"))

        async def serve(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            call, metadata = self._begin(method, context)
            code, permit = grpc.StatusCode.OK, None
            try:
                _verified, permit = await self._admit(access, call, metadata, request)
                run = self._run(behaviour, request, context, stream_in=stream_in)
                sent = None if stream_in else request
                response = await self._answer(call, metadata, sent, run, write)
                await _send_headers(call, metadata, context)
                return response
            except grpc.aio.AbortError:
                code = context.code()
                raise
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as err:
                error = as_domain(err)
                code = error.code  # before `abort`, which does not return
                await self._fail(error, call, context)
            finally:
                self._admission.leave(permit)
                elapsed = time.perf_counter() - started
                handled.count(code.name, elapsed)
                self._end(call, code, elapsed)

        return serve

    def _run(
        self, behaviour: Any, request: Any, context: Context, *, stream_in: bool
    ) -> Callable[[], Awaitable[Any]]:
        if stream_in:
            # What was read of a stream cannot be read again.
            return lambda: behaviour(messages.checked(request), context)
        return lambda: db.attempt(lambda: behaviour(request, context))

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
        wanted = wish(metadata, call.method)
        if wanted is None or call.caller is calls.ANONYMOUS or (sent is None and wanted.loose):
            return await run()
        secret = credentials.tokens(metadata).secret or ""

        async def written() -> bytes:
            return write(await run())

        body = b"" if sent is None else sent.SerializeToString(deterministic=True)
        return await self._repeats.answer(call, secret, wanted, body, written)

    def _streaming(self, method: str, behaviour: Any, *, stream_in: bool) -> Any:
        access = policy.METHODS.get(method)
        service, name = method.rpartition(".")[2].split("/")

        async def serve(request: Any, context: Context) -> AsyncIterator[Any]:
            started = time.perf_counter()
            call, metadata = self._begin(method, context)
            code, stream, permit = grpc.StatusCode.OK, None, None
            metrics.ACTIVE.labels("grpc").inc()
            try:
                verified, permit = await self._admit(access, call, metadata, request)
                stream = self._streams.add(access, verified, call.client_ip)
                source = messages.checked(request) if stream_in else request
                async with aclosing(behaviour(source, context)) as responses:
                    async for response in responses:
                        if call.headers:
                            await _send_headers(call, metadata, context)
                            call.headers.clear()
                        yield response
            except grpc.aio.AbortError:
                code = context.code()
                raise
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                if stream is None or stream.error is None:
                    raise
                stream.task.uncancel()
                code = stream.error.code
                await self._fail(stream.error, call, context)
            except Exception as err:
                error = as_domain(err)
                code = error.code  # before `abort`, which does not return
                await self._fail(error, call, context)
            finally:
                metrics.ACTIVE.labels("grpc").dec()
                self._streams.discard(stream)
                self._admission.leave(permit)
                metrics.RPCS.labels(service, name, code.name).inc()
                self._end(call, code, time.perf_counter() - started)

        return serve

    def _begin(self, method: str, context: Context) -> tuple[Call, dict[str, str]]:
        metadata = {
            key: value
            for key, value in context.invocation_metadata() or ()
            if isinstance(value, str)
        }
        wanted = metadata.get("x-request-id") or metadata.get("x-correlation-id") or ""
        call = Call(
            method,
            wanted if _REQUEST_ID.fullmatch(wanted) else _new_id(),
            client_ip=addresses.client_ip(
                context.peer(), metadata.get("x-forwarded-for"), self._trusted
            ),
            user_agent=metadata.get("x-user-agent") or metadata.get("user-agent"),
        )
        # Of a conversation of days nobody would see the span's end.
        if self._traces is not None and not policy.METHODS.get(method, policy.PUBLIC).endless:
            call.span = self._traces.begin(method, metadata)
        calls.enter(call)
        context.set_trailing_metadata((("x-request-id", call.correlation_id),))
        return call, metadata

    async def _admit(
        self,
        access: policy.Access | None,
        call: Call,
        metadata: dict[str, str],
        request: Any,
    ) -> tuple[Verified | None, Permit | None]:
        if access is None:
            raise policy.ScopeForbidden("the method has no policy", scope="none")
        if access.public:
            messages.check(request)
            return None, None
        try:
            verified = await self._prover.prove(access, call, credentials.tokens(metadata))
            call.caller, call.credential_hash = verified.caller, verified.hashed
            policy.check(access, verified.caller)
        except DomainError as err:
            metrics.AUTH.labels("admin" if access.admin_only else "tenant", err.reason).inc()
            if not isinstance(err, (*credentials.MISSING, errors.Unavailable, LimitReached)):
                await self._refused(call, err)
            raise
        metrics.authenticated(verified.caller.kind).inc()
        permit = await self._admission.admit(access, call, verified, request)
        try:
            messages.check(request)
        except DomainError:
            self._admission.leave(permit)
            raise
        return verified, permit

    def _end(self, call: Call, code: grpc.StatusCode, elapsed: float) -> None:
        if self._traces is not None and call.span is not None:
            self._traces.end(call.span, code)
        _log(call, code, elapsed)

    async def _fail(self, error: DomainError, call: Call, context: Context) -> None:
        trailers = [
            (
                "grpc-status-details-bin",
                errors.to_status(error, call.correlation_id).SerializeToString(),
            ),
            ("x-spotplane-http-status", str(error.http_status)),
            ("x-spotplane-error", errors.to_header(error, call.correlation_id)),
            ("x-request-id", call.correlation_id),
        ]
        if error.retry_after_seconds is not None:
            trailers.append(("retry-after", str(max(1, math.ceil(error.retry_after_seconds)))))
        trailers += [(k, v) for k, v in call.headers.items() if k.startswith(_TOLD_OF_ERRORS)]
        await context.abort(error.code, error.message, tuple(trailers))  # type: ignore[arg-type]


def as_domain(err: Exception) -> DomainError:
    """What a failure means to the caller; whatever is not foreseen is logged and stays inside."""
    if isinstance(err, DomainError):
        return err
    if isinstance(err, asyncpg.QueryCanceledError):
        return errors.DeadlineExceeded("the database took too long")
    if isinstance(err, db.AWAY):
        log.warning("database_away", exc_info=err)
        return db.database_unavailable()
    log.error("unforeseen_error", exc_info=err)
    return errors.Internal()


def _as_written(write: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """A serializer that leaves alone what is written already."""
    return lambda response: response if isinstance(response, bytes) else write(response)


async def _send_headers(call: Call, metadata: dict[str, str], context: Context) -> None:
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
