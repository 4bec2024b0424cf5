"""The connection to the server, and calls over it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message

# A callable of grpc.aio: a request, its metadata and timeout in, a call out.
Stub: TypeAlias = Callable[..., Any]

# What reading a stream answers at its end.
END: Final[Any] = grpc.aio.EOF  # type: ignore[attr-defined]

_OPTIONS: Final = (
    # A server that comes back is found again within two seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A connection that died silently is noticed within a minute, also while calls wait on it.
    ("grpc.keepalive_time_ms", 40_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Channels would otherwise share one connection to the same target.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # A retry by itself could run a change twice.
    ("grpc.enable_retries", 0),
)


class Upstream:
    """Connections to one gRPC target.

    Args:
        target: As gRPC says it, e.g. ``127.0.0.1:50051``.
        channels: Connections to hold; calls take turns.
    """

    def __init__(self, target: str, channels: int = 1) -> None:
        self._channels = [grpc.aio.insecure_channel(target, _OPTIONS) for _ in range(channels)]

    def unary(self, rpc: str, request: type[Message], response: type[Message]) -> Stub:
        """A stub for an RPC with one request and one response."""
        return _take_turns(
            [
                channel.unary_unary(
                    rpc,
                    request_serializer=_serializer(request),
                    response_deserializer=response.FromString,
                )
                for channel in self._channels
            ]
        )

    def stream(self, rpc: str, request: type[Message], response: type[Message]) -> Stub:
        """A stub for an RPC with one request and a stream of responses."""
        return _take_turns(
            [
                channel.unary_stream(
                    rpc,
                    request_serializer=_serializer(request),
                    response_deserializer=response.FromString,
                )
                for channel in self._channels
            ]
        )

    def upload(self, rpc: str, request: type[Message], response: type[Message]) -> Stub:
        """A stub for an RPC with a stream of requests and one response."""
        return _take_turns(
            [
                channel.stream_unary(
                    rpc,
                    request_serializer=_serializer(request),
                    response_deserializer=response.FromString,
                )
                for channel in self._channels
            ]
        )

    async def close(self) -> None:
        """End the connections; calls that are still open fail."""
        for channel in self._channels:
            await channel.close()


def _serializer(kind: type[Message]) -> Callable[[Message | bytes], bytes]:
    """What makes bytes of a message; large ones were serialized beside the event loop."""
    serialize = kind.SerializeToString
    return lambda message: message if isinstance(message, bytes) else serialize(message)


def _take_turns(stubs: list[Any]) -> Stub:
    if len(stubs) == 1:
        only: Stub = stubs[0]
        return only
    turns = itertools.cycle(stubs)

    def call(request: Any, **options: Any) -> Any:
        return next(turns)(request, **options)

    return call
