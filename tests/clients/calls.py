"""How programs of the field speak HTTP: one request, no retry, and an answer or none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import ClientError, ClientSession, ClientTimeout

TIMEOUT: Final = ClientTimeout(total=30)


@dataclass(frozen=True)
class Reply:
    """What came back; status 0 and None when nothing did, or nothing that is JSON."""

    status: int = 0
    body: Any = None

    @property
    def ok(self) -> bool:
        """Whether it is one of the statuses of success."""
        return self.status // 100 == 2


@dataclass
class Calls:
    """A connection from one machine, with what it sends along on every call."""

    http: ClientSession
    headers: dict[str, str]
    # Every reply, oldest first: what a program that compares statuses has seen.
    seen: list[tuple[str, int]] = field(default_factory=list)

    async def __call__(self, method: str, path: str, body: Any = None) -> Reply:
        """Call a route; a body that is left out is sent as an empty one that is called JSON."""
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
