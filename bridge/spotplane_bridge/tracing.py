"""Traces: one span per request, the parent of the server's spans, exported by OTLP.

Imported only with a configured collector, because the import is slow. Samplers, headers and
certificates are set by the variables of OpenTelemetry's own SDK.
"""

from __future__ import annotations

import asyncio

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from spotplane_bridge.headers import Metadata


class Traces:
    """The spans of one bridge process.

    Args:
        endpoint: The collector's gRPC address, ``http://host:port`` or ``https://host:port``.
    """

    def __init__(self, endpoint: str) -> None:
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "spotplane-bridge"})
        )
        exporter = OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http://"))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(__name__)
        self._context = TraceContextTextMapPropagator()

    def begin(self, method: str, template: str, trace: Metadata) -> tuple[Span, Metadata]:
        """Begin the span of a request.

        Args:
            method: Method of the request.
            template: Template of its path; never the path itself, which has as many values as
            resources.
            trace: The caller's trace context.

        Returns:
            The span, and the metadata that makes it the parent of the call's spans.
        """
        span = self._tracer.start_span(
            f"{method} {template}",
            self._context.extract(dict(trace)),
            SpanKind.SERVER,
            {"http.request.method": method, "http.route": template},
        )
        carrier: dict[str, str] = {}
        self._context.inject(carrier, set_span_in_context(span))
        return span, tuple(carrier.items())

    def end(self, span: Span, status: int) -> None:
        """End the span of a request."""
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    async def close(self) -> None:
        """Export the remaining spans; an unreachable collector delays this by some seconds."""
        await asyncio.to_thread(self._provider.shutdown)
