"""Connections to the servers: which one a call goes to, and when it is sent again elsewhere."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Container, Generator, Iterable
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

# A callable of grpc.aio: a request, its metadata and timeout in, a call out.
Stub: TypeAlias = Callable[..., Any]

# What reading a stream answers at its end.
END: Final[Any] = grpc.aio.EOF  # type: ignore[attr-defined]

# A draining server keeps serving for `SPOTPLANE_DRAIN_NOTICE_SECONDS`, several of these periods.
CHECK_SECONDS: Final = 1.0

# Calls on one connection before a further one is opened. The server refuses streams above 128 at a
# time, among them those that have ended and are not yet released.
CALLS_PER_CONNECTION: Final = 100
# To one server. Event streams are calls too, so this limits them as well.
MAX_CONNECTIONS: Final = 64

_OPTIONS: Final = (
    # A server that comes back is found again within two seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A connection that died silently is noticed within 15 s, also while calls wait on it.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Channels would otherwise share one connection to the same target.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # No service config, so that gRPC itself sends a call again only when the server provably did
    # not process it (refused stream, GOAWAY). All other retries are decided here.
    ("grpc.enable_retries", 1),
    ("grpc.service_config_disable_resolution", 1),
)
_HEALTH: Final = "/grpc.health.v1.Health/Check"
_DETAILS: Final = "grpc-status-details-bin"


class Upstream:
    """Connections to the servers.

    With several servers a call goes to one that is connected and SERVING; when there is none, to
    any. A call whose connection breaks is sent to another server if that cannot run a change twice.

    Args:
        target: A gRPC target, e.g. ``127.0.0.1:50051``, or ``host:port`` addresses separated by
            commas.
        channels: Connections to hold to each server; more are opened for many calls at a time.
    """

    def __init__(self, target: str, channels: int = 1) -> None:
        self._servers = [_Server(one, channels) for one in target.split(",")]

    def unary(
        self,
        rpc: str,
        request: type[Message],
        response: type[Message],
        *,
        idempotent: bool = False,
    ) -> Stub:
        """A stub for an RPC with one request and one response.

        Args:
            rpc: ``/package.Service/Method``.
            request: Its request's class.
            response: Its response's class.
            idempotent: A call without an idempotency key may be sent again as well.
        """
        chooser = self._chooser("unary_unary", rpc, request, response)
        tries = len(self._servers)
        if tries == 1:
            return chooser.call

        def call(sent: Any, **options: Any) -> _RetriedCall:
            return _RetriedCall(chooser, sent, options, idempotent, tries)

        return call

    def stream(self, rpc: str, request: type[Message], response: type[Message]) -> Stub:
        """A stub for an RPC with one request and a stream of responses."""
        return self._chooser("unary_stream", rpc, request, response).call

    def upload(self, rpc: str, request: type[Message], response: type[Message]) -> Stub:
        """A stub for an RPC with a stream of requests and one response."""
        return self._chooser("stream_unary", rpc, request, response).call

    async def watch(self) -> None:
        """Check the health of each of several servers until cancelled."""
        if len(self._servers) == 1:
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as group:
            for server in self._servers:
                group.create_task(server.watch())

    async def close(self) -> None:
        """End the connections; calls that are still open fail."""
        for server in self._servers:
            await server.close()

    def _chooser(
        self, kind: str, rpc: str, request: type[Message], response: type[Message]
    ) -> _Chooser:
        return _Chooser(
            [(server, server.stub(kind, rpc, request, response)) for server in self._servers]
        )


class _Server:
    """One server: its connections and what its last health check returned."""

    def __init__(self, target: str, channels: int) -> None:
        self.serving = True
        self._target = target
        self._connections = [_Connection(target) for _ in range(channels)]

    @property
    def connected(self) -> bool:
        state = self._connections[0].channel.get_state()
        return state is grpc.ChannelConnectivity.READY

    def stub(self, kind: str, rpc: str, request: type[Message], response: type[Message]) -> Stub:
        stubs: dict[_Connection, Stub] = {}

        def call(sent: Any, **options: Any) -> Any:
            connection = self._least_used()
            stub = stubs.get(connection)
            if stub is None:
                stub = stubs[connection] = getattr(connection.channel, kind)(
                    rpc,
                    request_serializer=_serializer(request),
                    response_deserializer=response.FromString,
                )
            started = stub(sent, **options)
            connection.calls += 1
            started.add_done_callback(connection.ended)
            return started

        return call

    async def watch(self) -> None:
        check = self.stub(
            "unary_unary", _HEALTH, health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        )
        while True:
            try:
                answer = await check(health_pb2.HealthCheckRequest(), timeout=CHECK_SECONDS)
                self.serving = answer.status == health_pb2.HealthCheckResponse.SERVING
            except grpc.aio.AioRpcError as err:
                self.serving = err.code() is grpc.StatusCode.UNIMPLEMENTED
            await asyncio.sleep(CHECK_SECONDS)

    async def close(self) -> None:
        for connection in self._connections:
            await connection.channel.close()

    def _least_used(self) -> _Connection:
        found = min(self._connections, key=lambda connection: connection.calls)
        if found.calls >= CALLS_PER_CONNECTION and len(self._connections) < MAX_CONNECTIONS:
            found = _Connection(self._target)
            self._connections.append(found)
        return found


class _Connection:
    """A channel, which has one connection, and the number of calls on it."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.aio.insecure_channel(target, _OPTIONS)
        self.calls = 0

    def ended(self, _call: Any) -> None:
        self.calls -= 1


def _serializer(kind: type[Message]) -> Callable[[Message | bytes], bytes]:
    """What makes bytes of a message; large ones were serialized beside the event loop."""
    serialize = kind.SerializeToString
    return lambda message: message if isinstance(message, bytes) else serialize(message)


class _Chooser:
    """Chooses the server of each call of one RPC, in turns."""

    def __init__(self, stubs: list[tuple[_Server, Stub]]) -> None:
        self._stubs = stubs
        self._turn = itertools.count()

    def call(self, sent: Any, **options: Any) -> Any:
        """Call the RPC once."""
        return self.choose()(sent, **options)

    def choose(self, tried: Container[Stub] = ()) -> Stub:
        """The stub for the next call, of a server that has not been tried."""
        if len(self._stubs) == 1:
            return self._stubs[0][1]
        start = next(self._turn) % len(self._stubs)
        order = [*self._stubs[start:], *self._stubs[:start]]
        untried = [each for each in order if each[1] not in tried] or order
        serving = [each for each in untried if each[0].serving] or untried
        connected = [each for each in serving if each[0].connected] or serving
        return connected[0][1]


class _RetriedCall:
    """A unary call that is sent to another server when its connection breaks.

    It offers what callers use of a call of grpc.aio: awaiting it, and its metadata afterwards.
    """

    def __init__(
        self,
        chooser: _Chooser,
        sent: Any,
        options: dict[str, Any],
        idempotent: bool,
        tries: int,
    ) -> None:
        self._chooser = chooser
        self._sent = sent
        self._options = options
        self._repeatable = idempotent or _has_key(options.get("metadata") or ())
        self._tries = tries
        self._call: Any = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self._run().__await__()

    async def initial_metadata(self) -> Any:
        return await self._call.initial_metadata()

    async def trailing_metadata(self) -> Any:
        return await self._call.trailing_metadata()

    async def _run(self) -> Any:
        tried: list[Stub] = []
        deadline = _now() + timeout if (timeout := self._options.get("timeout")) else None
        while True:
            stub = self._chooser.choose(tried)
            tried.append(stub)
            if deadline is not None:
                self._options["timeout"] = max(deadline - _now(), 0.0)
            self._call = stub(self._sent, **self._options)
            try:
                return await self._call
            except grpc.aio.AioRpcError as err:
                if len(tried) == self._tries or not (self._repeatable and _connection_broke(err)):
                    raise


def _connection_broke(err: grpc.aio.AioRpcError) -> bool:
    """Whether gRPC itself ended the call: a server's own UNAVAILABLE carries details."""
    if err.code() is not grpc.StatusCode.UNAVAILABLE:
        return False
    return all(key != _DETAILS for key, _ in err.trailing_metadata() or ())


def _has_key(metadata: Iterable[tuple[str, Any]]) -> bool:
    return any(key == "idempotency-key" and value for key, value in metadata)


def _now() -> float:
    return asyncio.get_running_loop().time()
