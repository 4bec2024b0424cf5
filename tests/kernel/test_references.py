"""Nothing refers to a request once its call has ended, not even a reference cycle."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from types import FrameType
from typing import Any, ClassVar, Final
from uuid import uuid4

import grpc
import grpc.aio
import pytest
from spotplane.v1 import event_pb2, event_pb2_grpc, tenant_pb2, tenant_pb2_grpc
from spotplane_server.kernel import errors, front

from tests.support.eventually import eventually
from tests.support.plane import ADMIN, Metadata, Plane

# A method of each shape: the first three need no credential.
METHODS: Final = {
    "unary_unary": "/grpc.health.v1.Health/Check",
    "unary_stream": "/grpc.health.v1.Health/Watch",
    "stream_stream": "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "stream_unary": "/spotplane.v1.UsageService/IngestUsage",
}
Outcome = Callable[[Any, Any], Awaitable[None]]


class Request:
    """A parsed request whose life can be watched; upb messages have no weak references."""

    alive: ClassVar[weakref.WeakSet[Request]] = weakref.WeakSet()

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.alive.add(self)


async def succeed(request: Request, context: Any) -> None:
    pass


async def refuse(request: Request, context: Any) -> None:
    try:
        raise ValueError(request)
    except ValueError as err:
        raise errors.NotFound("no such thing") from err


async def break_down(request: Request, context: Any) -> None:
    try:
        raise ValueError(request)
    except ValueError:
        raise KeyError("unforeseen")  # noqa: B904 - as it happens by mistake


async def abort(request: Request, context: Any) -> None:
    await context.abort(grpc.StatusCode.NOT_FOUND, "aborted")


async def wait(request: Request, context: Any) -> None:
    await asyncio.Event().wait()


class Handlers(grpc.GenericRpcHandler):
    """Serves all four shapes, each with the same outcome."""

    def __init__(self, outcome: Outcome) -> None:
        async def unary_unary(request: Request, context: Any) -> bytes:
            await outcome(request, context)
            return b"x"

        async def unary_stream(request: Request, context: Any) -> AsyncIterator[bytes]:
            yield b"x"
            await outcome(request, context)

        async def stream_unary(requests: Any, context: Any) -> bytes:
            async for request in requests:
                await outcome(request, context)
            return b"x"

        async def stream_stream(requests: Any, context: Any) -> AsyncIterator[bytes]:
            async for request in requests:
                yield b"x"
                await outcome(request, context)

        behaviours = (unary_unary, unary_stream, stream_unary, stream_stream)
        self._handlers = {
            METHODS[behaviour.__name__]: getattr(grpc, f"{behaviour.__name__}_rpc_method_handler")(
                behaviour, Request, bytes
            )
            for behaviour in behaviours
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers[handler_call_details.method]


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without the garbage collector, so that only reference counts free anything."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@asynccontextmanager
async def serving(plane: Plane, outcome: Outcome) -> AsyncIterator[grpc.aio.Channel]:
    async def ignore(*_: Any) -> None:
        pass

    built = front.build(plane.server.kernel, refused=ignore, tell=ignore, traces=None)
    server = grpc.aio.server(interceptors=[built.gate], handlers=[Handlers(outcome)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


async def call(channel: grpc.aio.Channel, shape: str, *, cancel: bool) -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield b"request"

    stub: Any = getattr(channel, shape)(METHODS[shape])
    sent = requests() if shape.startswith("stream") else b"request"
    running = stub(sent, metadata=ADMIN)
    if cancel:
        await eventually(lambda: bool(Request.alive))
        running.cancel()
    try:
        if shape.endswith("stream"):
            async for _ in running:
                pass
        else:
            await running
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        pass


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("outcome", [succeed, refuse, break_down, abort, wait])
async def test_a_request_is_freed_when_its_call_ends(plane: Plane, outcome: Outcome) -> None:
    async with serving(plane, outcome) as channel:
        for shape in METHODS:
            await call(channel, shape, cancel=outcome is wait)
            await eventually(lambda: not Request.alive)


async def _create(plane: Plane, email: str, *metadata: tuple[str, str]) -> None:
    await tenant_pb2_grpc.TenantServiceStub(plane.channel).CreateTenant(
        tenant_pb2.CreateTenantRequest(name="A", email=email), metadata=ADMIN + metadata
    )


async def _keyed(plane: Plane, email: str) -> None:
    await _create(plane, email, ("idempotency-key", uuid4().hex))


async def _find_nothing(plane: Plane, metadata: Metadata) -> None:
    await tenant_pb2_grpc.TenantServiceStub(plane.channel).GetTenant(
        tenant_pb2.GetTenantRequest(id=str(uuid4())), metadata=metadata
    )


async def _subscribe_to_nothing(plane: Plane) -> None:
    stub = event_pb2_grpc.EventServiceStub(plane.channel)
    async for _ in stub.Subscribe(event_pb2.SubscribeRequest(types=["x"]), metadata=ADMIN):
        pass


CALLS: Final[dict[str, Callable[[Plane], Awaitable[None]]]] = {
    "created": lambda plane: _create(plane, f"{uuid4().hex}@example.com"),
    "taken": lambda plane: _create(plane, "taken@example.com"),
    "invalid": lambda plane: _create(plane, "x"),
    "keyed": lambda plane: _keyed(plane, f"{uuid4().hex}@example.com"),
    "keyed and invalid": lambda plane: _keyed(plane, "x"),
    "not found": lambda plane: _find_nothing(plane, ADMIN),
    "no credential": lambda plane: _find_nothing(plane, ()),
    "wrong credential": lambda plane: _find_nothing(plane, (("x-admin-token", "x"),)),
    "stream": _subscribe_to_nothing,
}


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("name", CALLS)
async def test_calls_leave_no_frame_of_the_server_in_a_cycle(plane: Plane, name: str) -> None:
    async def attempt() -> None:
        with suppress(grpc.aio.AioRpcError):
            await CALLS[name](plane)

    await attempt()
    gc.collect()
    for _ in range(5):
        await attempt()
    await asyncio.sleep(0)
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        kept = [
            frame.f_code.co_qualname
            for frame in gc.garbage
            if isinstance(frame, FrameType) and "spotplane_server" in frame.f_code.co_filename
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert kept == []
