"""Every RPC of `spotplane.v1`, and calling any of them by its name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import spotplane.v1
from google.protobuf import message_factory
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message import Message

from tests.support.plane import Metadata, Refusal, refusal

# A listener waits for ever; with what is no cursor or name it is refused once it was let in.
ARGUMENTS: Final[dict[str, dict[str, Any]]] = {
    "EventService/WatchEvents": {"after_cursor": "x"},
    "EventService/Subscribe": {"types": ["x"]},
}


@dataclass(frozen=True)
class Rpc:
    """One method."""

    name: str
    method: MethodDescriptor

    @property
    def path(self) -> str:
        """As in the URL."""
        return f"/spotplane.v1.{self.name}"

    @property
    def request(self) -> type[Message]:
        """The request's class."""
        return message_factory.GetMessageClass(self.method.input_type)

    async def ask(
        self, channel: grpc.aio.Channel, metadata: Metadata = (), **fields: Any
    ) -> Refusal | None:
        """Call with one request message; None when it is answered, else how it is refused."""
        request = self.request(**(ARGUMENTS.get(self.name, {}) | fields))
        return await self.send(channel, metadata, request)

    async def send(
        self, channel: grpc.aio.Channel, metadata: Metadata, request: Message
    ) -> Refusal | None:
        """Call with a request message that is made already."""
        for _ in range(10):
            try:
                await _exchange(self, channel, metadata, request)
            except grpc.aio.AioRpcError as err:
                if not _lost(err):
                    return refusal(err)
            else:
                return None
        raise AssertionError(f"the answer of {self.name} was lost every time")


async def begin(
    rpc: Rpc, channel: grpc.aio.Channel, metadata: Metadata, request: Message
) -> Refusal | None:
    """Open a stream of answers and leave it once it was let in; else how it is refused."""
    call = channel.unary_stream(
        rpc.path,
        request_serializer=type(request).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(rpc.method.output_type).FromString,
    )(request, metadata=metadata)
    try:
        # Refused calls have no headers of their own, and their status is known by then.
        await call.initial_metadata()
        if call.done():
            await call.read()
    except grpc.aio.AioRpcError as err:
        return refusal(err)
    finally:
        call.cancel()
    return None


def files() -> Iterator[FileDescriptor]:
    """The descriptors of all our proto files."""
    for module in pkgutil.iter_modules(spotplane.v1.__path__):
        if module.name.endswith("_pb2"):
            yield importlib.import_module(f"spotplane.v1.{module.name}").DESCRIPTOR


ALL: Final = {
    rpc.name: rpc
    for rpc in (
        Rpc(f"{service.name}/{method.name}", method)
        for file in files()
        for service in file.services_by_name.values()
        for method in service.methods
    )
}


def _lost(err: grpc.aio.AioRpcError) -> bool:
    # When a stream is refused while its first message is being sent, grpc.aio says that sending
    # failed and drops what the server said.
    return err.code() == grpc.StatusCode.INTERNAL and not err.trailing_metadata()


async def _exchange(
    rpc: Rpc, channel: grpc.aio.Channel, metadata: Metadata, request: Message
) -> None:
    coders: dict[str, Any] = {
        "request_serializer": type(request).SerializeToString,
        "response_deserializer": message_factory.GetMessageClass(rpc.method.output_type).FromString,
    }

    async def requests() -> AsyncIterator[Message]:
        yield request

    sent: Any = requests() if rpc.method.client_streaming else request
    if not rpc.method.server_streaming:
        kind = channel.stream_unary if rpc.method.client_streaming else channel.unary_unary
        await kind(rpc.path, **coders)(sent, metadata=metadata)
        return
    stream = channel.stream_stream if rpc.method.client_streaming else channel.unary_stream
    async for _ in stream(rpc.path, **coders)(sent, metadata=metadata):
        pass
