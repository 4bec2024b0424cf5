"""Reading messages: bytes that are none, or too many, are answered and do not end the call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from spotplane_server.kernel.errors import DomainError, Invalid, PayloadTooLarge


class InvalidMessage(Invalid):
    """Bytes that are not the message of this method."""

    reason = "INVALID_MESSAGE"


@dataclass(frozen=True)
class Bad:
    """Stands in a request's place when its bytes were refused."""

    error: DomainError = field(
        default_factory=lambda: InvalidMessage("not a message of this method")
    )


def tolerant(deserialize: Callable[[bytes], Any], limit: int | None) -> Callable[[bytes], Any]:
    """A reader that answers `Bad` where another fails.

    Args:
        deserialize: Reads a message.
        limit: Largest message in bytes, where it is below the server's.
    """

    def read(data: bytes) -> Any:
        if limit is not None and len(data) > limit:
            return Bad(
                PayloadTooLarge(f"a message may have at most {limit} bytes", limit_bytes=str(limit))
            )
        try:
            return deserialize(data)
        except DecodeError:
            return Bad()

    return read


def check(request: Any) -> None:
    """Let a message pass.

    Raises:
        DomainError: It is none.
    """
    if isinstance(request, Bad):
        raise request.error


async def checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The messages of a stream, until one is none."""
    async for request in requests:
        check(request)
        yield request
