"""A simulated cloud in this process: every instance runs a real agent over real gRPC."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, Protocol, Self

from spotplane_agents.agent import Agent, ConnectionSettings
from spotplane_agents.errors import AgentError, ProviderError
from spotplane_agents.host import Load
from spotplane_agents.identity import Identity
from spotplane_agents.notices import CloudNotice, NoticeKind
from spotplane_agents.providers import InstanceState, InstanceView, LaunchSpec
from spotplane_agents.providers.market import Market

logger: Final = logging.getLogger(__name__)

BOOT_SECONDS: Final = 1.0
NOTICE_SECONDS: Final = 120.0
PRICE_PERIOD_SECONDS: Final = 30.0


class Clock(Protocol):
    """Clock of a simulation, which may run faster than real time."""

    def now(self) -> datetime:
        """Return the current time, in UTC."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """See ``Clock.now``."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """See ``Clock.sleep``."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True)
class Service:
    """Common settings of the agents of one service, as user data would carry them.

    ``prepare`` receives every new agent before it starts, to add commands and hooks.
    """

    logical_agent_id: str
    server: str
    api_key: str = field(repr=False)
    prepare: Callable[[Agent], None] | None = None
    connection: ConnectionSettings = field(default_factory=ConnectionSettings)


@dataclass
class SimulatedInstance:
    """One instance: its specification, its state, and its agent while it runs."""

    identity: Identity
    mode: Literal["spot", "ondemand"]
    service: Service
    tags: Mapping[str, str]
    state: InstanceState = "pending"
    deadline: datetime | None = None
    agent: Agent | None = None
    notices: "asyncio.Queue[CloudNotice]" = field(default_factory=asyncio.Queue)

    @property
    def instance_id(self) -> str:
        """The cloud's id of it."""
        return self.identity.instance_id

    @property
    def pool_id(self) -> str:
        """The pool it runs in."""
        return self.identity.pool_id


class QueuedNotices:
    """Notices of the simulated cloud for one instance."""

    def __init__(self, queue: "asyncio.Queue[CloudNotice]") -> None:
        self._queue = queue

    async def notices(self) -> AsyncIterator[CloudNotice]:
        """See ``NoticeSource.notices``."""
        while True:
            yield await self._queue.get()


class SimulatedProvider:
    """The cloud from the view of one agent: it launches instances of its own service."""

    def __init__(self, cloud: "SimulatedCloud", service: Service) -> None:
        self._cloud = cloud
        self._service = service

    async def launch(self, spec: LaunchSpec) -> str:
        """See ``Provider.launch``."""
        service = replace(self._service, logical_agent_id=spec.logical_agent_id)
        return self._cloud.launch(service, spec).instance_id

    async def terminate(self, instance_id: str) -> None:
        """See ``Provider.terminate``."""
        self._cloud.terminate(instance_id)

    async def describe(self, instance_id: str) -> InstanceView | None:
        """See ``Provider.describe``."""
        return self._cloud.view(instance_id)


class SimulatedCloud:
    """Instances in this process that can be launched, interrupted and crashed.

    Args:
        state_dir: Parent folder of the disks of all instances.
        market: Spot prices, reported by primaries; without one none are reported.
        on_demand: On-demand price by instance type, nano-USD per hour.
        boot_seconds: From a launch to the start of the agent.
        price_period_seconds: Time between price reports of primaries.
        seed: Selects the instance ids.
        clock: Time for boots, deadlines and prices.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        market: Market | None = None,
        on_demand: Mapping[str, int] | None = None,
        boot_seconds: float = BOOT_SECONDS,
        price_period_seconds: float = PRICE_PERIOD_SECONDS,
        seed: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self.instances: dict[str, SimulatedInstance] = {}
        self.unavailable_pools: set[str] = set()
        """Pools where launches fail for want of capacity."""
        self._state_dir = state_dir
        self._market = market
        self._on_demand = dict(on_demand or {})
        self._boot_seconds = boot_seconds
        self._price_period = price_period_seconds
        self._random = random.Random(seed)
        self._clock = clock or SystemClock()
        self._by_token: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Enter; nothing starts before the first launch."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close; see ``close``."""
        await self.close()

    def launch(self, service: Service, spec: LaunchSpec) -> SimulatedInstance:
        """Launch an instance; its agent starts after the boot time.

        Raises:
            ProviderError: The pool has no capacity.
        """
        known = self._by_token.get(spec.client_token)
        if known is not None:
            return self.instances[known]
        if spec.mode == "spot" and f"{spec.instance_type}.{spec.az}" in self.unavailable_pools:
            raise ProviderError(f"no spot capacity for {spec.instance_type} in {spec.az}")
        instance = self._new_instance(service, spec)
        self.instances[instance.instance_id] = instance
        self._by_token[spec.client_token] = instance.instance_id
        self._spawn(self._live(instance))
        return instance

    def start(
        self,
        service: Service,
        *,
        instance_type: str,
        region: str,
        az: str,
        mode: Literal["spot", "ondemand"] = "spot",
    ) -> SimulatedInstance:
        """Launch the first instance of a service, as its operator would."""
        token = f"operator-{len(self.instances)}"
        name = service.logical_agent_id
        return self.launch(service, LaunchSpec(instance_type, region, az, mode, token, name))

    def interrupt(self, instance_id: str, notice_seconds: float = NOTICE_SECONDS) -> datetime:
        """Send a termination notice to an instance, and stop it at the deadline.

        Returns:
            The deadline.
        """
        instance = self.instances[instance_id]
        deadline = self._clock.now() + timedelta(seconds=notice_seconds)
        instance.deadline = deadline
        self._notify(instance, "termination", deadline)
        self._spawn(self._take(instance, notice_seconds))
        return deadline

    def rebalance(self, instance_id: str) -> None:
        """Send an instance a rebalance recommendation."""
        self._notify(self.instances[instance_id], "rebalance", None)

    async def crash(self, instance_id: str) -> None:
        """Stop an instance at once without a notice; the server receives nothing more from it."""
        instance = self.instances[instance_id]
        instance.state = "terminated"
        if instance.agent is not None:
            await instance.agent.kill()

    async def restart_agent(self, instance_id: str) -> None:
        """Kill an instance's agent and start it again, as a process supervisor would."""
        instance = self.instances[instance_id]
        if instance.state != "running" or instance.agent is None:
            return
        instance.state = "pending"
        await instance.agent.kill()
        self._spawn(self._live(instance))

    def terminate(self, instance_id: str) -> None:
        """Shut an instance down in order: its agent may still flush and send a goodbye."""
        instance = self.instances.get(instance_id)
        if instance is None or instance.state in {"stopping", "terminated"}:
            return
        instance.state = "stopping"
        if instance.agent is not None:
            instance.agent.stop()

    def view(self, instance_id: str) -> InstanceView | None:
        """Return an instance; None for an unknown id."""
        found = self.instances.get(instance_id)
        if found is None:
            return None
        at, kind = found.identity.az, found.identity.instance_type
        return InstanceView(instance_id, kind, at, found.mode, found.state, found.tags)

    def agents(self) -> list[Agent]:
        """Agents that run at present."""
        running = (i for i in self.instances.values() if i.state == "running")
        return [i.agent for i in running if i.agent is not None]

    def stop(self) -> None:
        """Shut every instance down in order."""
        for instance_id in list(self.instances):
            self.terminate(instance_id)

    async def ended(self) -> None:
        """Wait until no instance is left.

        Raises:
            AgentError: An agent ended by itself, for this reason.
        """
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        failures = (i.agent.failure for i in self.instances.values() if i.agent is not None)
        for failure in failures:
            if failure is not None:
                raise failure

    async def close(self) -> None:
        """End every instance, each with a goodbye."""
        self.stop()
        agents = [i.agent for i in self.instances.values() if i.agent is not None]
        await asyncio.gather(*(agent.close("the cloud was closed") for agent in agents))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _new_instance(self, service: Service, spec: LaunchSpec) -> SimulatedInstance:
        number = self._random.getrandbits(68)
        identity = Identity(
            instance_id=f"i-{number:017x}",
            instance_type=spec.instance_type,
            region=spec.region,
            az=spec.az,
            logical_agent_id=service.logical_agent_id,
            mode=spec.mode,
            hostname=f"ip-10-{number >> 16 & 255}-{number >> 8 & 255}-{number & 255}",
            image_id="ami-simulated",
            private_ip=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
            replica_id=spec.replica_id,
        )
        return SimulatedInstance(identity, spec.mode, service, dict(spec.tags))

    async def _live(self, instance: SimulatedInstance) -> None:
        """Boot an instance and run its agent to its end."""
        await self._clock.sleep(self._boot_seconds)
        if instance.state != "pending":  # ended before it had booted
            instance.state = "terminated"
            return
        agent = instance.agent = self._new_agent(instance)
        instance.state = "running"
        prices = asyncio.create_task(self._report_prices(instance, agent))
        try:
            await agent.start()
            await agent.wait_closed()
            await agent.close("the instance is shut down")
        except AgentError as error:
            logger.warning("%s: its agent ended: %s", instance.instance_id, error)
            await agent.close("failed")
        finally:
            prices.cancel()
            await asyncio.gather(prices, return_exceptions=True)
            self._mark_ended(instance)

    def _mark_ended(self, instance: SimulatedInstance) -> None:
        # A failed agent leaves its instance running, like a dead process.
        if instance.state == "stopping":
            instance.state = "terminated"

    def _new_agent(self, instance: SimulatedInstance) -> Agent:
        service = instance.service
        agent = Agent(
            server=service.server,
            api_key=service.api_key,
            identity=instance.identity,
            provider=SimulatedProvider(self, service),
            notices=QueuedNotices(instance.notices),
            state_dir=self._state_dir / instance.instance_id,
            # Every simulated instance would report this one machine's load.
            load=Load,
            **service.connection,
        )
        if service.prepare is not None:
            service.prepare(agent)
        return agent

    async def _take(self, instance: SimulatedInstance, notice_seconds: float) -> None:
        await self._clock.sleep(notice_seconds)
        if instance.state != "terminated":
            await self.crash(instance.instance_id)

    async def _report_prices(self, instance: SimulatedInstance, agent: Agent) -> None:
        """Report the prices of its region's pools while the instance is primary."""
        if self._market is None:
            return
        region = instance.identity.region
        await agent.wait_for(role="primary")
        while True:
            now = self._clock.now()
            known = self._market.prices(now)
            spot = {p: price for p, price in known.items() if _zone(p).startswith(region)}
            with suppress(AgentError):
                await agent.report_prices(spot=spot, on_demand=self._on_demand, observed_at=now)
            await self._clock.sleep(self._price_period)
            await agent.wait_for(role="primary")

    def _notify(
        self, instance: SimulatedInstance, kind: NoticeKind, deadline: datetime | None
    ) -> None:
        instance.notices.put_nowait(CloudNotice(kind, self._clock.now(), deadline))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _zone(pool_id: str) -> str:
    return pool_id.rpartition(".")[2]
