"""Tracing: a span per RPC and per SQL statement, exported over OTLP.

Imported only where a collector is named, so that nobody else pays: no call has a span then, and no
connection tells of its statements. Samplers, headers and certificates are set by the variables of
OpenTelemetry's own SDK.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

import grpc
from asyncpg.connection import LoggedQuery
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from spotplane_server.kernel import request_context

# Codes that are our fault and not the caller's.
# Source: OpenTelemetry semantic conventions for gRPC, "gRPC Status" of server spans.
_FAULTS: Final = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class Traces:
    """The spans of one server process.

    Args:
        endpoint: The collector's gRPC door, ``http://host:port`` or ``https://host:port``.
        server_id: Tells the processes of an installation apart.
    """

    def __init__(self, endpoint: str, server_id: str) -> None:
        resource = Resource.create(
            {"service.name": "spotplane-server", "service.instance.id": server_id}
        )
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http://"))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(__name__)
        self._context = TraceContextTextMapPropagator()

    def begin(self, method: str, metadata: Mapping[str, str]) -> Span:
        """Begin the span of an RPC, as a part of the trace that its metadata names."""
        service, _, name = method[1:].partition("/")
        return self._tracer.start_span(
            f"{service}/{name}",
            self._context.extract(metadata),
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        )

    def end(self, span: Span, code: grpc.StatusCode) -> None:
        """End the span of an RPC."""
        span.set_attribute("rpc.grpc.status_code", code.value[0])
        if code in _FAULTS:
            span.set_status(Status(StatusCode.ERROR, code.name))
        span.end()

    def statement(self, done: LoggedQuery) -> None:
        """Tell of a statement that the RPC being served has run.

        Its text goes along and its values do not, since they may be anybody's secrets.
        """
        parent = request_context.span()
        if parent is None or not parent.is_recording():
            return
        end = time.time_ns()
        text = done.query.strip()
        span = self._tracer.start_span(
            text.split(None, 1)[0].rstrip(";").upper(),
            set_span_in_context(parent),
            SpanKind.CLIENT,
            {"db.system.name": "postgresql", "db.query.text": text},
            start_time=end - int(done.elapsed * 1e9),
        )
        if done.exception is not None:
            span.set_status(Status(StatusCode.ERROR, type(done.exception).__name__))
        span.end(end)

    async def close(self) -> None:
        """Send what is left; a collector that is away holds this up for some seconds."""
        await asyncio.to_thread(self._provider.shutdown)
