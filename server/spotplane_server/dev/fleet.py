"""The demo's fleet: a process of its own with real agents on simulated instances.

``python -m spotplane_server.dev.fleet`` reads its settings as one line of JSON and prints what the
agents see as lines of JSON. It ends with its standard input, hence with its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from spotplane_agents import Agent, Command, SpoolFull
from spotplane_agents.backoff import Pace
from spotplane_agents.providers.market import Market, SyntheticMarket
from spotplane_agents.providers.simulated import Service, SimulatedCloud, SimulatedInstance

from spotplane_server.dev import recording
from spotplane_server.dev.recording import Recording

NANO: Final = 1_000_000_000
# What the shipped catalogue asks for these, so that savings are against the same price.
ON_DEMAND: Final = {"g5.xlarge": 1_006_000_000, "g4dn.xlarge": 526_000_000}
ZONES: Final = ("us-east-1a", "us-east-1b", "us-east-1c", "us-west-2a", "us-west-2b", "us-west-2c")
MODELS: Final = ("llama-3-8b", "llama-3-70b", "mistral-7b", "qwen-2.5-7b", "gemma-7b")
USAGE_PERIOD_SECONDS: Final = 2.0
# An operator's notice is not the cloud's: nobody takes the instance, so it is ended after this.
RETIRED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the fleet is told. ``agents`` holds pairs of name and API key."""

    server: str
    state_dir: str
    agents: list[tuple[str, str]]
    first_notice_seconds: float
    notice_every_seconds: float
    market: str | None = None
    market_type: str | None = None
    market_tick_seconds: float = 5.0


class Replayed:
    """A recording, a tick at a time and over again from its end."""

    def __init__(self, played: Recording, instance_type: str) -> None:
        self._played = played
        self._type = instance_type
        self._index = 0

    @property
    def tick(self) -> recording.Tick:
        """The moment it shows."""
        return self._played.ticks[self._index % len(self._played.ticks)]

    def advance(self) -> None:
        """Go to the next moment."""
        self._index += 1

    def pools(self, zones: frozenset[str]) -> set[str]:
        """The pools in these zones."""
        return {f"{self._type}.{zone}" for zone in zones}

    def prices(self, now: datetime) -> Mapping[str, int]:
        """See ``Market.prices``."""
        return {f"{self._type}.{zone}": price for zone, price in self.tick.prices.items()}


class Fleet:
    """The simulated cloud and what happens in it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._random = random.Random()
        self._tasks: set[asyncio.Task[None]] = set()
        self._replay: Replayed | None = None
        market: Market
        if settings.market is None:
            pools = {f"{kind}.{zone}": ON_DEMAND[kind] for zone in ZONES for kind in ON_DEMAND}
            market = SyntheticMarket(pools, start=datetime.now(UTC), seed=uuid4().int)
            self._places = [(kind, zone) for zone in ZONES for kind in ON_DEMAND]
            on_demand = ON_DEMAND
        else:
            played = recording.read(Path(settings.market))
            kind = settings.market_type or recording.DEFAULT_TYPE
            market = self._replay = Replayed(played, kind)
            self._places = [(kind, zone) for zone in played.zones]
            on_demand = {}
        self._cloud = SimulatedCloud(
            Path(settings.state_dir),
            market=market,
            on_demand=on_demand,
            price_period_seconds=10.0,
            # Ids of a former run would be known to the plane as ended instances.
            seed=uuid4().int,
        )

    async def run(self) -> None:
        """Start every agent and let things happen, until cancelled."""
        async with self._cloud, asyncio.TaskGroup() as group:
            if self._replay is not None:
                self._obey_market(self._replay)
                group.create_task(self._follow_market(self._replay))
            for name, key in self._settings.agents:
                self._start(name, key)
            group.create_task(self._serve_requests())
            group.create_task(self._take_instances())

    def _start(self, name: str, key: str) -> None:
        service = Service(
            name,
            self._settings.server,
            key,
            prepare=lambda agent: self._prepare(name, agent),
            connection={"retry": Pace(0.1, 2.0)},
        )
        free = [p for p in self._places if f"{p[0]}.{p[1]}" not in self._cloud.unavailable_pools]
        kind, zone = self._random.choice(free or self._places)
        self._cloud.start(service, instance_type=kind, region=recording.region_of(zone), az=zone)

    def _prepare(self, name: str, agent: Agent) -> None:
        instance_id = agent.identity.instance_id

        @agent.command("greet")
        async def greet(command: Command) -> dict[str, str]:
            whom = command.parameters.get("name", "nobody")
            return {"greeting": f"hello {whom}, this is {name} on {instance_id}"}

        @agent.on_role_change
        async def tell(old: str, new: str) -> None:
            say("role", name, instance_id, agent.agent_id, old=old, new=new)
            if new == "retired":
                self._spawn(self._end_later(instance_id))

    async def _end_later(self, instance_id: str) -> None:
        await asyncio.sleep(RETIRED_SECONDS)
        if self._cloud.instances[instance_id].deadline is None:
            self._cloud.terminate(instance_id)

    async def _serve_requests(self) -> None:
        """Report the usage that these agents would have if anybody asked them something."""
        while True:
            await asyncio.sleep(USAGE_PERIOD_SECONDS)
            for agent in self._cloud.agents():
                if agent.role == "primary":
                    with contextlib.suppress(SpoolFull):
                        self._record_request(agent)

    def _record_request(self, agent: Agent) -> None:
        prompt = int(self._random.lognormvariate(5.5, 0.8)) + 1
        completion = int(self._random.lognormvariate(5.0, 0.7)) + 1
        agent.usage(
            str(uuid4()),
            prompt_tokens=prompt,
            completion_tokens=completion,
            model=MODELS[hash(agent.logical_agent_id) % len(MODELS)],
            latency_ms=200 + completion * 8 + int(self._random.expovariate(1 / 80)),
            status_code=200 if self._random.random() > 0.01 else 503,
        )

    async def _take_instances(self) -> None:
        """Take an instance back now and then, first one whose replica stands ready."""
        await asyncio.sleep(self._settings.first_notice_seconds)
        while True:
            instance = await self._next_to_take()
            if instance is not None:
                self._interrupt(instance)
            await asyncio.sleep(self._settings.notice_every_seconds)

    async def _next_to_take(self) -> SimulatedInstance | None:
        for _ in range(60):
            covered = {
                instance.service.logical_agent_id + instance.service.api_key
                for instance in self._running("replica")
            }
            found = [
                instance
                for instance in self._running("primary")
                if instance.service.logical_agent_id + instance.service.api_key in covered
            ]
            if found:
                return self._random.choice(found)
            await asyncio.sleep(0.5)
        return self._random.choice(self._running("primary") or [None])

    def _running(self, role: str) -> list[SimulatedInstance]:
        return [
            instance
            for instance in self._cloud.instances.values()
            if instance.state == "running"
            and instance.deadline is None
            and instance.agent is not None
            and instance.agent.connected
            and instance.agent.role == role
        ]

    def _interrupt(self, instance: SimulatedInstance) -> None:
        agent_id = instance.agent.agent_id if instance.agent else None
        say("notice", instance.service.logical_agent_id, instance.instance_id, agent_id)
        self._cloud.interrupt(instance.instance_id)

    async def _follow_market(self, replay: Replayed) -> None:
        while True:
            await asyncio.sleep(self._settings.market_tick_seconds)
            replay.advance()
            self._obey_market(replay)

    def _obey_market(self, replay: Replayed) -> None:
        """Have no capacity where the recording had none, and give notice to who is there."""
        gone = replay.pools(frozenset(zone for _, zone in self._places) - replay.tick.available)
        self._cloud.unavailable_pools = gone
        for instance in list(self._cloud.instances.values()):
            if (
                instance.mode == "spot"
                and instance.pool_id in gone
                and instance.state == "running"
                and instance.deadline is None
            ):
                self._interrupt(instance)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def say(kind: str, name: str, instance_id: str, agent_id: str | None, **more: str) -> None:
    """Print what happened, for the parent to read."""
    event = {
        "kind": kind,
        "at": datetime.now(UTC).isoformat(),
        "agent": name,
        "agent_id": agent_id,
        "instance_id": instance_id,
        **more,
    }
    print(json.dumps(event), flush=True)


async def main() -> None:
    """Run until the parent ends, or SIGTERM."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    settings = Settings(**json.loads(await reader.readline()))
    fleet = asyncio.create_task(Fleet(settings).run())
    loop.add_signal_handler(signal.SIGTERM, fleet.cancel)
    parent = asyncio.create_task(reader.read())
    await asyncio.wait((fleet, parent), return_when=asyncio.FIRST_COMPLETED)
    fleet.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await fleet


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(main())
