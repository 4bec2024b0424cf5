"""The processes of a campaign: PostgreSQL, two servers, a bridge, agents, and proxies between."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc.aio
from spotplane_agents import Agent
from spotplane_agents.backoff import Pace
from spotplane_agents.commands import Command
from spotplane_agents.providers.market import ReplayedMarket
from spotplane_agents.providers.simulated import Service, SimulatedCloud, SimulatedInstance

from spotplane_bench import agents, stack
from spotplane_bench.chaos import ChaosProxy, chaos_proxy, postgres_upstream, postgres_url
from spotplane_bench.faults.processes import Program, until
from spotplane_bench.faults.schedule import Fault

SERVERS: Final = 2
# From a notice until the cloud takes the instance.
NOTICE_SECONDS: Final = 20.0
# Missed heartbeats that count as a loss: longer than any fault, so that none must be counted.
OFFLINE_SECONDS: Final = 25
_ZONES: Final = ("us-east-1a", "us-east-1b", "us-east-1c")
_PRICE_NANOUSD: Final = 300_000_000
_ON_DEMAND_NANOUSD: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Effect:
    """One run of a command's handler."""

    instance_id: str
    command_id: str


@dataclass
class Site:
    """Everything that runs, and the effects and notices of its agents."""

    postgres: Any
    tenant: stack.Tenant
    servers: list[Program]
    bridge: Program
    databases: list[ChaosProxy]
    doors: list[ChaosProxy]
    cloud: SimulatedCloud
    effects: list[Effect] = field(default_factory=list)
    # Instances that were given notice, by the agent's name.
    noticed: dict[str, list[str]] = field(default_factory=dict)

    async def inject(self, fault: Fault) -> None:
        """Let one fault happen, last and end."""
        await getattr(self, f"_{fault.kind}")(fault)

    async def restore(self) -> None:
        """Withdraw all faults and wait until both servers and the bridge work."""
        for proxy in (*self.databases, *self.doors):
            proxy.restore()
        for server in self.servers:
            server.signal(signal.SIGCONT)
            await server.ready()
        await self.bridge.ready()

    def primary(self, name: str) -> SimulatedInstance | None:
        """The instance that serves for an agent, as its agents know."""
        return next(
            (
                one
                for one in self.cloud.instances.values()
                if one.identity.logical_agent_id == name
                and one.state == "running"
                and one.deadline is None
                and one.agent is not None
                and one.agent.role == "primary"
            ),
            None,
        )

    def announce_loss(self, name: str) -> None:
        """Have the cloud announce that it takes an agent's serving instance back."""
        primary = self.primary(name)
        if primary is not None and primary.agent is not None and primary.agent.connected:
            self.noticed[name].append(primary.instance_id)
            self.cloud.interrupt(primary.instance_id, NOTICE_SECONDS)

    async def _kill_server(self, fault: Fault) -> None:
        server = self.servers[fault.server]
        await server.kill()
        await asyncio.sleep(fault.seconds)
        await server.start()
        await server.ready()

    async def _restart_server_with_other_clock(self, fault: Fault) -> None:
        server = self.servers[fault.server]
        await server.stop()
        await server.start(clock_offset_seconds=str(fault.number))
        await asyncio.sleep(5.0)
        await server.stop()
        await server.start()
        await server.ready()

    async def _pause_server(self, fault: Fault) -> None:
        server = self.servers[fault.server]
        server.signal(signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        server.signal(signal.SIGCONT)

    async def _restart_bridge(self, fault: Fault) -> None:
        await self.bridge.kill()
        await self.bridge.start()
        await self.bridge.ready()

    async def _restart_database(self, fault: Fault) -> None:
        await asyncio.to_thread(self.postgres.stop)
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(self.postgres.start)

    async def _cut_database(self, fault: Fault) -> None:
        self.databases[fault.server].cut()

    async def _silence_database(self, fault: Fault) -> None:
        await self._silence(self.databases[fault.server], fault)

    async def _delay_database(self, fault: Fault) -> None:
        proxy = self.databases[fault.server]
        proxy.delay(0.02 * fault.number)
        await asyncio.sleep(fault.seconds)
        proxy.restore()

    async def _lose_commits(self, fault: Fault) -> None:
        proxy = self.databases[fault.server]
        proxy.lose_answers(fault.number)
        await asyncio.sleep(fault.seconds)
        proxy.restore()

    async def _cut_agents(self, fault: Fault) -> None:
        self.doors[fault.server].cut()

    async def _silence_agents(self, fault: Fault) -> None:
        await self._silence(self.doors[fault.server], fault)

    async def _restart_agents(self, fault: Fault) -> None:
        # A notice that an agent has read and not yet stored would be lost with its process.
        running = [
            one
            for one in self.cloud.instances.values()
            if one.state == "running" and one.deadline is None
        ]
        for instance in running[fault.server :: 7][: fault.number]:
            await self.cloud.restart_agent(instance.instance_id)

    async def _silence(self, proxy: ChaosProxy, fault: Fault) -> None:
        proxy.silence()
        await asyncio.sleep(fault.seconds)
        # What was held back is lost, as in a network that comes back with other routes.
        proxy.cut()
        proxy.restore()


@asynccontextmanager
async def running(postgres: Any, up: stack.Stack, count: int) -> AsyncIterator[Site]:
    """Run everything for the block, every agent connected.

    Args:
        postgres: The database's server, which is stopped and started.
        up: Its migrated database.
        count: Agents; every fourth has a replica that stands by.
    """
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        upstream = postgres_upstream(up.database_url)
        databases = [await enter(chaos_proxy(upstream)) for _ in range(SERVERS)]
        servers = [_server(up, proxy, number) for number, proxy in enumerate(databases)]
        targets = ",".join(server.target for server in servers)
        bridge = Program(
            "bridge",
            up.directory / "bridge.log",
            {"GRPC_TARGET": targets, "LOG_LEVEL": "WARNING", "DRAIN_TIMEOUT_S": "2"},
        )
        for program in (*servers, bridge):
            opened.push_async_callback(program.kill)
            await program.start()
        for program in (*servers, bridge):
            await program.ready()
        doors = [await enter(chaos_proxy(("127.0.0.1", server.port))) for server in servers]
        async with grpc.aio.insecure_channel(servers[0].target) as channel:
            tenant = await stack.new_tenant(up, channel)
        cloud = await enter(_cloud(up.directory / "instances"))
        site = Site(postgres, tenant, servers, bridge, databases, doors, cloud)
        await _populate(site, count)
        yield site


async def _populate(site: Site, count: int) -> None:
    for number in range(count):
        name = f"agent-{number:02}"
        door = site.doors[number % SERVERS].target
        quick: Any = {"retry": Pace(0.05, 0.5)}
        service = Service(name, door, site.tenant.key, _counting(site.effects), quick)
        site.cloud.start(
            service,
            instance_type=agents.INSTANCE_TYPE,
            region=agents.REGION,
            az=_ZONES[number % len(_ZONES)],
        )
        if number % 4 == 0:
            site.noticed[name] = []

    async def connected() -> bool:
        found = site.cloud.agents()
        return len(found) >= count and all(agent.connected for agent in found)

    await until(connected, 60.0, "all agents are connected")


def _counting(effects: list[Effect]) -> Any:
    """What gives an agent the handler whose runs are counted."""

    def prepare(agent: Agent) -> None:
        @agent.command("count")
        async def handle(command: Command) -> dict[str, int]:
            effects.append(Effect(agent.identity.instance_id, command.id))
            await asyncio.sleep(0.01)
            return {"runs": 1}

    return prepare


def _server(up: stack.Stack, proxy: ChaosProxy, number: int) -> Program:
    settings = {
        "DATABASE_URL": postgres_url(up.database_url, proxy),
        "ADMIN_TOKEN": stack.ADMIN_TOKEN,
        "ADMIN_RATE_LIMIT_RPM": "1000000000",
        "TENANT_RPM": "1000000000",
        "HEARTBEAT_SECONDS": "1",
        "OFFLINE_SECONDS": str(OFFLINE_SECONDS),
        "DRAIN_SECONDS": "1",
        "DB_POOL_SIZE": "8",
        "LOG_LEVEL": "WARNING",
    }
    return Program("server", up.directory / f"server-{number}.log", settings)


@asynccontextmanager
async def _cloud(directory: Path) -> AsyncIterator[SimulatedCloud]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    prices = [(start, f"{agents.INSTANCE_TYPE}.{zone}", _PRICE_NANOUSD) for zone in _ZONES]
    async with SimulatedCloud(
        directory,
        market=ReplayedMarket(prices, start=start),
        on_demand={agents.INSTANCE_TYPE: _ON_DEMAND_NANOUSD},
        boot_seconds=0.3,
        price_period_seconds=5.0,
    ) as cloud:
        yield cloud
