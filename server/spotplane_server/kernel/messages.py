"""Reads request messages within their limits, after the call was admitted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError

from spotplane_server.kernel import message_limits, wire_scan
from spotplane_server.kernel.errors import DeadlineExceeded, Invalid, PayloadTooLarge, Violation

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]

# How long the request of a call that has one may take to arrive, as long as a body at the edge and
# at the bridge. Without it such a call holds its place in the caller's limits until it is reset.
READ_SECONDS: Final = 30.0


class InvalidMessage(Invalid):
    """Bytes that are not the message of this method."""

    reason = "INVALID_MESSAGE"

    def __init__(self) -> None:
        super().__init__("not a message of this method")


class RequestReader:
    """Reads the requests of one method.

    Args:
        method: As in `/package.Service/Method`.
        deserialize: Parses a message.
        largest: Largest message of any method in bytes.
        read_seconds: How long the request of a call that has one may take to arrive.
    """

    def __init__(
        self,
        method: str,
        deserialize: Callable[[bytes], Any] | None,
        largest: int,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        limit = message_limits.of(method)
        self._size = min(limit.size, largest)
        self._memory = limit.memory
        self._read_seconds = read_seconds
        self._deserialize = deserialize or bytes
        self._shape = _shape_of(method)

    async def one(self, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """The request of a call that has one.

        Raises:
            DeadlineExceeded: It did not arrive in time.
            InvalidMessage, PayloadTooLarge: There is none within the limits.
        """
        try:
            # The read is cancelled and lost then, so the call must end: a further read would miss
            # the message.
            async with asyncio.timeout(self._read_seconds):
                data = await context.read()
        except TimeoutError:
            raise DeadlineExceeded("the request did not arrive in time") from None
        if data is _EOF:
            raise InvalidMessage
        return await self._parse(data)

    async def each(self, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        """The requests of a stream, until the client ends it.

        Raises:
            InvalidMessage, PayloadTooLarge: One is not within the limits.
        """
        while (data := await context.read()) is not _EOF:
            yield await self._parse(data)

    async def _parse(self, data: bytes) -> Any:
        if len(data) > self._size:
            raise PayloadTooLarge(
                f"a message of this method may have at most {self._size} bytes",
                limit_bytes=str(self._size),
            )
        try:
            for _ in wire_scan.check(data, self._shape, self._memory):
                await asyncio.sleep(0)
            return self._deserialize(data)
        except wire_scan.TooLarge as err:
            raise self._too_many(err.path) from None
        except (wire_scan.Malformed, DecodeError):
            raise InvalidMessage from None

    def _too_many(self, path: str) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"too many elements: the parsed message would take more than {self._memory} bytes",
            details=[Violation(path, "more elements than the message may have")] if path else (),
            limit_bytes=str(self._memory),
        )


def _shape_of(method: str) -> wire_scan.Shape:
    service, _, name = method[1:].partition("/")
    pool = descriptor_pool.Default()  # type: ignore[no-untyped-call]
    found = pool.FindServiceByName(service)
    return wire_scan.shape_of(found.methods_by_name[name].input_type)
