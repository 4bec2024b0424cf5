"""HTTP client of the modelled programs: one request, no retry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import ClientError, ClientSession, ClientTimeout

TIMEOUT: Final = ClientTimeout(total=30)


@dataclass(frozen=True)
class Reply:
    """A response; status 0 and None when there was none, or no JSON."""

    status: int = 0
    body: Any = None

    @property
    def ok(self) -> bool:
        """Whether the status is a success."""
        return self.status // 100 == 2


@dataclass
class Calls:
    """A connection from one machine, with the headers of every call."""

    http: ClientSession
    headers: dict[str, str]
    # Every reply, oldest first, for programs that compare statuses.
    seen: list[tuple[str, int]] = field(default_factory=list)

    async def __call__(self, method: str, path: str, body: Any = None) -> Reply:
        """Call a route; a body that is left out is sent as an empty one with a JSON media type."""
        headers = {"Content-Type": "application/json", **self.headers}
        try:
            async with self.http.request(
                method, path, json=body, headers=headers, timeout=TIMEOUT
            ) as answer:
                reply = Reply(answer.status, await answer.json())
        except (ClientError, TimeoutError, ValueError):
            reply = Reply()
        self.seen.append((f"{method} {path}", reply.status))
        return reply
