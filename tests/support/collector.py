"""A collector of traces: the gRPC service that OpenTelemetry's exporters speak to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Seen:
    """A span as it arrived.

    Attributes:
        service: Name of the process' kind.
        trace: Id of the trace, hexadecimal.
        id: Of the span, hexadecimal.
        parent: Id of the span above; empty for the first one.
        texts: Its attributes that are texts.
    """

    service: str
    name: str
    trace: str
    id: str
    parent: str
    texts: dict[str, str]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.endpoint = ""

    async def Export(
        self, request: Any, _context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for process in request.resource_spans:
            service = _texts(process.resource.attributes)["service.name"]
            self.spans += [
                Seen(
                    service,
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    _texts(span.attributes),
                )
                for scope in process.scope_spans
                for span in scope.spans
            ]
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, trace: str, service: str) -> list[Seen]:
        """The spans of one trace that processes of one kind sent."""
        return [span for span in self.spans if (span.trace, span.service) == (trace, service)]


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector for the block."""
    collector, server = Collector(), grpc.aio.server()
    add = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(collector, server)  # type: ignore[no-untyped-call]
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)


def _texts(attributes: Any) -> dict[str, str]:
    return {item.key: item.value.string_value for item in attributes if item.value.string_value}
