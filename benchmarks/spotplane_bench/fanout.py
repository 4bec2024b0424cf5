"""Server-sent events: from a commit to every one of many listeners."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import ClientSession, ClientTimeout, TCPConnector
from spotplane.v1 import agent_pb2_grpc

from spotplane_bench import agents, stack

PATIENCE_SECONDS = 30.0


class Listeners:
    """Connections to a tenant's events, and when each heard of an instance."""

    def __init__(self, bridge: stack.Child, tenant: stack.Tenant, count: int) -> None:
        self.heard: dict[str, list[float]] = {}
        self._url = f"http://{bridge.target}/api/events/stream?types=instance_status_change"
        self._headers = {"Authorization": f"Bearer {tenant.key}"}
        self._count = count
        self._more = asyncio.Condition()
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Listeners:
        http = await self._stack.enter_async_context(
            ClientSession(connector=TCPConnector(limit=0), timeout=ClientTimeout(total=None))
        )
        ready = [asyncio.Event() for _ in range(self._count)]
        self._tasks = [asyncio.create_task(self._listen(http, event)) for event in ready]
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*(event.wait() for event in ready))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def _listen(self, http: ClientSession, ready: asyncio.Event) -> None:
        async with http.get(self._url, headers=self._headers) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                at = time.perf_counter()
                if line.startswith(b"event: connected"):
                    ready.set()
                elif line.startswith(b"data: ") and b'"new_status":"running_primary"' in line:
                    instance_id = line.split(b'"instance_id":"')[1].split(b'"')[0].decode()
                    self.heard.setdefault(instance_id, []).append(at)
                    async with self._more:
                        self._more.notify_all()

    async def round(self, channel: Any, tenant: stack.Tenant, number: int) -> list[float]:
        """Make one instance known; seconds from the answer to each listener's hearing of it."""
        fleet = agent_pb2_grpc.AgentServiceStub(channel)
        _, instance_id = await agents.register(fleet, tenant.metadata, f"told-{number}")
        answered = time.perf_counter()
        async with asyncio.timeout(PATIENCE_SECONDS):
            async with self._more:
                await self._more.wait_for(
                    lambda: len(self.heard.get(instance_id, ())) >= self._count
                )
        return [max(0.0, at - answered) for at in self.heard[instance_id]]
