"""Sends work during a campaign, repeats it until the outcome is known, and keeps a ledger."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from uuid import uuid4

import aiohttp
import grpc
import grpc.aio
from google.protobuf import struct_pb2
from spotplane.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    api_key_pb2,
    api_key_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

from spotplane_bench import stack
from spotplane_bench.faults.site import SERVERS, Site

T = TypeVar("T")

CALL_SECONDS: Final = 5.0
RECORDS: Final = 20
# Pauses between calls of one kind, in seconds.
COMMAND_EVERY: Final = 0.12
USAGE_EVERY: Final = 0.15
AGENT_USAGE_EVERY: Final = 0.1
KEY_EVERY: Final = 1.0
NOTICE_EVERY: Final = 4.0
_RETRY_PAUSE: Final = 0.2
# The outcome is unknown, or the server asks to try again.
_RETRIED: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
_CHANNEL: Final = (
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass
class Ledger:
    """What was accepted, and how calls ended.

    Attributes:
        commands: Agent's id by the command's id, of commands that were accepted.
        command_keys: Keys under which a command was issued, accepted or not.
        usage: Request ids of records that were accepted by `IngestUsageBatch`.
        reported: Instance by request id, of records that agents have on disk.
        keys: Token by name, of keys that were created.
        key_names: Names under which a key was asked for.
        outcomes: Calls by their status.
        internal: Texts of INTERNAL errors, which no fault excuses.
    """

    commands: dict[str, str] = field(default_factory=dict)
    command_keys: set[str] = field(default_factory=set)
    usage: set[str] = field(default_factory=set)
    reported: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    key_names: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    internal: list[str] = field(default_factory=list)


class Load:
    """The clients of a campaign. Begins when entered; `finish` ends it.

    Args:
        site: Where to send.
        seed: Chooses agents and servers.
    """

    def __init__(self, site: Site, seed: int) -> None:
        self.ledger = Ledger()
        self._site = site
        self._random = random.Random(f"load {seed}")
        self._stopping = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._opened = AsyncExitStack()
        self._channels: list[grpc.aio.Channel] = []
        self._producers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the connections and begin."""
        enter = self._opened.enter_async_context
        for server in self._site.servers:
            self._channels.append(await enter(grpc.aio.insecure_channel(server.target, _CHANNEL)))
        self._http = await enter(
            aiohttp.ClientSession(
                f"http://{self._site.bridge.target}",
                headers={"Authorization": f"Bearer {self._site.tenant.key}"},
                timeout=aiohttp.ClientTimeout(CALL_SECONDS),
            )
        )
        for work, every in (
            (self._issue_command, COMMAND_EVERY),
            (self._issue_command_by_rest, COMMAND_EVERY * 2),
            (self._ingest_usage, USAGE_EVERY),
            (self._report_usage, AGENT_USAGE_EVERY),
            (self._create_key, KEY_EVERY),
            (self._announce_loss, NOTICE_EVERY),
        ):
            self._producers.append(asyncio.create_task(self._produce(work, every)))

    async def finish(self, seconds: float) -> None:
        """Begin nothing new, and give calls so much time to learn their outcome."""
        self._stopping.set()
        await asyncio.gather(*self._producers)
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=seconds)
            for task in late:
                task.cancel()
            self.ledger.outcomes["never known"] += len(late)
            await asyncio.gather(*late, return_exceptions=True)
        await self._opened.aclose()

    def channel(self) -> grpc.aio.Channel:
        """A channel to either server."""
        return self._channels[self._random.randrange(SERVERS)]

    async def _produce(self, work: Callable[[], Awaitable[None]], every: float) -> None:
        while not self._stopping.is_set():
            task = asyncio.ensure_future(work())
            self._under_way.add(task)
            task.add_done_callback(self._ended)
            with suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self._stopping.wait()

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.ledger.internal.append(f"the client failed: {task.exception()!r}")

    async def _call(self, kind: str, call: Callable[[grpc.aio.Channel], Awaitable[T]]) -> T | None:
        """Call until the outcome is known; None when it was rejected for good."""
        while True:
            try:
                answer = await call(self.channel())
            except grpc.aio.AioRpcError as err:
                self.ledger.outcomes[f"{kind}: {err.code().name}"] += 1
                if err.code() is grpc.StatusCode.INTERNAL and _by_server(err):
                    self.ledger.internal.append(f"{kind}: {err.details()}")
                if err.code() not in _RETRIED:
                    return None
                await asyncio.sleep(_RETRY_PAUSE)
            else:
                self.ledger.outcomes[f"{kind}: OK"] += 1
                return answer

    def _agent_id(self) -> str | None:
        """The id of some agent that serves."""
        found = [agent for agent in self._site.cloud.agents() if agent.role == "primary"]
        agent = self._random.choice(found) if found else None
        return agent.agent_id if agent else None

    async def _issue_command(self) -> None:
        agent_id, key = self._agent_id(), f"command-{uuid4()}"
        if agent_id is None:
            return
        self.ledger.command_keys.add(key)
        issued = await self._call(
            "command",
            lambda channel: agent_pb2_grpc.AgentServiceStub(channel).IssueCommand(
                agent_pb2.IssueCommandRequest(
                    agent_id=agent_id, name="count", request_id=key, parameters=_numbered(key)
                ),
                metadata=self._site.tenant.metadata,
                timeout=CALL_SECONDS,
            ),
        )
        if issued is not None:
            self.ledger.commands[issued.id] = agent_id

    async def _issue_command_by_rest(self) -> None:
        agent_id, key = self._agent_id(), f"command-{uuid4()}"
        if agent_id is None:
            return
        self.ledger.command_keys.add(key)
        body = {"name": "count", "request_id": key}
        while True:
            status, issued = await self._post(f"/v1/agents/{agent_id}/commands", body)
            self.ledger.outcomes[f"command by REST: {status}"] += 1
            if status in {200, 201}:
                self.ledger.commands[issued["id"]] = agent_id
            if status < 429 and status not in {0, 409}:
                return
            if status == 500:
                self.ledger.internal.append(f"command by REST: {issued}")
            await asyncio.sleep(_RETRY_PAUSE)

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and body; status 0 when there was no answer."""
        try:
            async with self._http.post(path, json=body) as answer:
                return answer.status, await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            return 0, None

    async def _ingest_usage(self) -> None:
        ids = [f"usage-{uuid4()}" for _ in range(RECORDS)]
        at = datetime.now(UTC).isoformat()
        records = [
            usage_pb2.UsageRecord(
                request_id=one, timestamp=at, prompt_tokens=3, completion_tokens=2
            )
            for one in ids
        ]
        answer = await self._call(
            "usage",
            lambda channel: usage_pb2_grpc.UsageServiceStub(channel).IngestUsageBatch(
                usage_pb2.IngestUsageBatchRequest(records=records),
                metadata=self._site.tenant.metadata,
                timeout=CALL_SECONDS,
            ),
        )
        if answer is not None and answer.accepted + answer.duplicates == RECORDS:
            self.ledger.usage.update(ids)
        elif answer is not None:
            self.ledger.internal.append(f"usage was rejected: {answer}")

    async def _report_usage(self) -> None:
        """Have an agent record usage, which counts once it is on the agent's disk."""
        found = [
            one
            for one in self._site.cloud.instances.values()
            if one.state == "running" and one.agent is not None and one.agent.agent_id
        ]
        if not found:
            return
        instance, request_id = self._random.choice(found), f"agent-{uuid4()}"
        agent = instance.agent
        assert agent is not None
        agent.usage(request_id, prompt_tokens=3, completion_tokens=2)
        await agent.flush()
        # A process that was killed meanwhile would not have returned from `flush`.
        if instance.state == "running" and instance.agent is agent:
            self.ledger.reported[request_id] = instance.instance_id

    async def _announce_loss(self) -> None:
        self._site.announce_loss(self._random.choice(sorted(self._site.noticed)))

    async def _create_key(self) -> None:
        name = f"key-{uuid4()}"
        self.ledger.key_names.add(name)
        created = await self._call(
            "key",
            lambda channel: api_key_pb2_grpc.ApiKeyServiceStub(channel).CreateApiKey(
                api_key_pb2.CreateApiKeyRequest(tenant_id=self._site.tenant.id, name=name),
                metadata=(*stack.ADMIN, ("idempotency-key", name)),
                timeout=CALL_SECONDS,
            ),
        )
        if created is not None:
            self.ledger.keys[name] = created.key


def _by_server(err: grpc.aio.AioRpcError) -> bool:
    """Whether the server made the status, and not the connection's end."""
    return "grpc-status-details-bin" in dict(iter(err.trailing_metadata() or ()))


def _numbered(key: str) -> struct_pb2.Struct:
    parameters = struct_pb2.Struct()
    parameters.update({"key": key})
    return parameters
