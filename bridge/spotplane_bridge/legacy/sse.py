"""Server-sent events: a server stream as `text/event-stream`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from spotplane_bridge.legacy.requests import Incoming

HEARTBEAT_SECONDS: Final = 30.0
HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    # Proxies such as nginx would otherwise delay events until a buffer is full.
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One event.

    Attributes:
        event: Its name.
        data: A JSON value.
        id: Value that a reader returns as `Last-Event-ID`; None leaves the reader's unchanged.
    """

    event: str
    data: Any
    id: str | None = None

    def encode(self) -> bytes:
        """Return the event as bytes of the stream."""
        head = f"id: {self.id}\n" if self.id is not None else ""
        return b"%bevent: %b\ndata: %b\n\n" % (
            head.encode(),
            self.event.encode(),
            orjson.dumps(self.data),
        )


@dataclass(frozen=True, slots=True)
class Events:
    """A response that is a stream of events.

    The server's first message decides between an error response and a stream, so the RPC must send
    one at once (`connected`). A subscriber that reads too slowly delays its own call only: at most
    a
    buffer of 64 KiB waits for it here and 256 events at the server. The server ends the call of one
    that is further behind, and the bridge closes the connection of one that reads nothing for the
    write timeout. It resumes by its last id.

    Args:
        frames: The events of one message, mostly one; None or an empty list sends nothing.
        heartbeat: The event that is sent whenever a period has passed, computed from the request,
            the newest id that was sent, and the time.
        seconds: Time between heartbeats.
    """

    frames: Callable[[Incoming, Any], list[Frame]]
    heartbeat: Callable[[Incoming, str | None, datetime], Frame]
    seconds: float = HEARTBEAT_SECONDS


def now() -> datetime:
    """Return the time of a heartbeat."""
    return datetime.now(UTC)
