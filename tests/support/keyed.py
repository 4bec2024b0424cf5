"""Client channels that send each call under an idempotency key of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import grpc.aio

from tests.support.plane import Plane


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return await continuation(_keyed(client_call_details), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(_keyed(client_call_details), request_iterator)


def keyed(plane: Plane) -> Plane:
    """The same server through a new channel, which the caller closes."""
    interceptors = [_UnaryUnary(), _StreamUnary()]
    channel = grpc.aio.insecure_channel(plane.target, interceptors=interceptors)
    return Plane(plane.server, channel, plane.database_url)


def _keyed(details: Any) -> Any:
    key = ("idempotency-key", uuid4().hex)
    return details._replace(metadata=grpc.aio.Metadata(*(details.metadata or ()), key))
