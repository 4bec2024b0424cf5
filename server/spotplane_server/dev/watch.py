"""Watches the plane through its own doors, for the view and the story."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
import grpc
import grpc.aio
from spotplane.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    failover_pb2,
    failover_pb2_grpc,
)

from spotplane_server.dev.demo import DemoTenant
from spotplane_server.dev.event_log import Narrator

AGENTS_SECONDS: Final = 1.0
USAGE_SECONDS: Final = 3.0
_STEPS: Final = {
    "detected": "the plane has the notice",
    "promoted": "the promotion is committed",
    "resolved": "the failover is resolved",
    "replica_requested": "an emergency replica is ordered",
    "switch_queued": "a switch to on-demand is ordered",
}


@dataclass(slots=True)
class Timeline:
    """One failover as it went: what was seen when, in any order."""

    agent_id: str
    agent: str
    failover_id: str = ""
    kind: str = "termination"
    old: str = ""
    new: str = ""
    told: bool = False
    marks: dict[str, datetime] = field(default_factory=dict)

    def steps(self) -> list[tuple[float, str]]:
        """Milliseconds since the first mark, and what it is."""
        ordered = sorted(self.marks.items(), key=lambda mark: mark[1])
        first = ordered[0][1] if ordered else None
        return [((at - first).total_seconds() * 1000, what) for what, at in ordered if first]

    @property
    def complete(self) -> bool:
        """Whether the agent on the new instance knows that it serves."""
        return "the new primary took over" in self.marks and _STEPS["promoted"] in self.marks


@dataclass(slots=True)
class UsageNow:
    """This hour's usage of a tenant; rate and latency of the last sixty minutes.

    Attributes:
        per_minute: Requests of the last whole minute.
        p95_ms: Latency that 95 % of the requests stayed below.
    """

    requests: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    per_minute: int = 0
    p95_ms: float = 0.0


@dataclass(slots=True)
class Sight:
    """What is known."""

    agents: list[agent_pb2.Agent] = field(default_factory=list)
    usage: dict[str, UsageNow] = field(default_factory=dict)
    roles: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Role and agent id by instance, as the agents themselves see it."""
    last: Timeline | None = None
    failovers: int = 0


class Watch:
    """Keeps a sight of the plane up to date."""

    def __init__(
        self, target: str, edge: str, token: str, tenants: list[DemoTenant], narrator: Narrator
    ) -> None:
        self.sight = Sight()
        self._edge = edge
        self._tenants = tenants
        self._narrator = narrator
        self._target = target
        self._admin: Any = {"metadata": (("x-admin-token", token),)}
        self._cursor: str | None = None
        self._open: dict[str, Timeline] = {}
        self._names: dict[str, str] = {}
        self._changes: dict[str, list[tuple[str, datetime]]] = {}

    async def run(self, fleet: asyncio.StreamReader | None) -> None:
        """Watch until cancelled."""
        async with (
            grpc.aio.insecure_channel(self._target) as channel,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as http,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._every(AGENTS_SECONDS, lambda: self._look(channel)))
            group.create_task(self._follow(channel))
            if self._tenants:
                group.create_task(self._every(USAGE_SECONDS, lambda: self._count(http)))
            if fleet is not None:
                group.create_task(self._listen(fleet))

    async def _every(self, seconds: float, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            # A plane that is away for a moment is looked at again the next time.
            with suppress(grpc.aio.AioRpcError, aiohttp.ClientError, TimeoutError, KeyError):
                await look()
            await asyncio.sleep(seconds)

    async def _look(self, channel: grpc.aio.Channel) -> None:
        answer = await agent_pb2_grpc.AgentServiceStub(channel).ListAgents(
            agent_pb2.ListAgentsRequest(limit=100), timeout=5.0, **self._admin
        )
        self._names |= {agent.id: agent.logical_agent_id for agent in answer.data}
        self.sight.agents = sorted(answer.data, key=lambda a: (a.tenant_id, a.logical_agent_id))

    async def _count(self, http: aiohttp.ClientSession) -> None:
        """Ask as a dashboard would: by REST, through the edge, with the tenant's key."""
        for tenant in self._tenants:
            hour = await self._ask(http, tenant, "usage/by-hour?hours=1")
            rate = await self._ask(http, tenant, "metrics/throughput?period=1h")
            speed = await self._ask(http, tenant, "metrics/performance?period=1h")
            row, last_whole_minute = hour["data"][-1], rate["time_series"][1]
            # The transcoder prints 64-bit integers as strings, the bridge as numbers.
            self.sight.usage[tenant.id] = UsageNow(
                int(row["total_requests"]),
                int(row["total_tokens"]),
                float(row["total_cost_usd"]),
                int(last_whole_minute["requests"]),
                float(speed["overall"]["latency"]["p95_ms"]),
            )

    async def _ask(self, http: aiohttp.ClientSession, tenant: DemoTenant, question: str) -> Any:
        headers = {"Authorization": f"Bearer {tenant.key}"}
        async with http.get(f"http://{self._edge}/v1/{question}", headers=headers) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def _follow(self, channel: grpc.aio.Channel) -> None:
        while True:
            with suppress(grpc.aio.AioRpcError):
                async for event in self._events(channel):
                    self._cursor = event.cursor
                    await self._take(channel, event)
            await asyncio.sleep(0.5)

    def _events(self, channel: grpc.aio.Channel) -> Any:
        stub = event_pb2_grpc.EventServiceStub(channel)
        types = ["failover.*", "agent.*", "replica.*", "command.executed"]
        request = event_pb2.WatchEventsRequest(types=types, after_cursor=self._cursor)
        return stub.WatchEvents(request, **self._admin)

    async def _take(self, channel: grpc.aio.Channel, event: event_pb2.WatchEventsResponse) -> None:
        data = dict(event.data)
        agent_id = str(data.get("agent_id", event.aggregate_id))
        if event.event_type.startswith("failover.") and data.get("failover_id"):
            found = await failover_pb2_grpc.FailoverServiceStub(channel).GetFailover(
                failover_pb2.GetFailoverRequest(
                    agent_id=agent_id, failover_id=str(data["failover_id"])
                ),
                timeout=5.0,
                **self._admin,
            )
            self._mark(found)
            return
        if event.event_type in {"agent.registered", "agent.moved"}:
            return  # told by the agents themselves
        subject = data.get("name") or data.get("pool_id") or data.get("instance_id") or ""
        self._narrator.say(f"{event.event_type}  {self._name(agent_id)}  {subject}")

    def _mark(self, found: failover_pb2.Failover) -> None:
        line = self._open.get(found.agent_id)
        if line is None or line.failover_id not in {"", found.id}:
            line = self._begin(found.agent_id, self._name(found.agent_id))
        line.failover_id, line.kind, line.old = found.id, found.kind, found.instance_id
        line.new = found.new_instance_id or line.new
        for step in found.steps:
            at = step.occurred_at.ToDatetime(UTC)
            line.marks.setdefault(_STEPS.get(step.kind, step.kind), at)
        # An agent may have been told before we were.
        for what, at in self._changes.pop(found.agent_id, []):
            if at >= found.detected_at.ToDatetime(UTC):
                line.marks.setdefault(what, at)
        self._tell(line)

    async def _listen(self, fleet: asyncio.StreamReader) -> None:
        """Read what the agents see."""
        async for raw in fleet:
            seen = json.loads(raw)
            agent_id, instance_id = str(seen["agent_id"]), seen["instance_id"]
            at = datetime.fromisoformat(seen["at"])
            self._names[agent_id] = seen["agent"]
            if seen["kind"] == "notice":
                self._narrator.say(f"the cloud takes back {seen['agent']} on {instance_id}")
                self._changes.pop(agent_id, None)
                self._begin(agent_id, seen["agent"]).marks["the cloud gives notice"] = at
                continue
            self.sight.roles[instance_id] = (seen["new"], agent_id)
            self._note_role(seen, agent_id, instance_id, at)

    def _note_role(
        self, seen: dict[str, Any], agent_id: str, instance_id: str, at: datetime
    ) -> None:
        line = self._open.get(agent_id)
        what = {"primary": "the new primary took over", "retired": "the old primary stood down"}
        # An emergency's replica may be told at once that it serves; then it had no role before.
        awaited = line is not None and not line.told
        if seen["new"] in what and (seen["old"] or awaited):
            if line is None or line.told:  # of a failover that we have not heard of yet
                self._changes.setdefault(agent_id, []).append((what[seen["new"]], at))
            else:
                line.marks.setdefault(what[seen["new"]], at)
                self._tell(line)
        elif seen["new"] != "candidate":
            self._narrator.say(f"{seen['agent']} is {seen['new']} on {instance_id}")

    def _begin(self, agent_id: str, name: str) -> Timeline:
        line = self.sight.last = self._open[agent_id] = Timeline(agent_id, name)
        return line

    def _tell(self, line: Timeline) -> None:
        if line.told or not line.complete:
            return
        line.told = True
        self.sight.failovers += 1
        self._narrator.say(f"FAILOVER of {line.agent}: {line.old} -> {line.new} ({line.kind})")
        for milliseconds, what in line.steps():
            self._narrator.say(f"  {milliseconds:+8.1f} ms  {what}")

    def _name(self, agent_id: str) -> str:
        return self._names.get(agent_id, agent_id[:8])
