"""Polling of the REST routes while no stream is possible.

Polling exchanges the same messages as the stream, from the same spool and journal, so the transport
makes no difference to the agent and its commands.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from spotplane.v1 import agent_stream_pb2 as pb
from spotplane.v1.agent_pb2 import RegisterRequest, RegisterResponse

from spotplane_agents import routes
from spotplane_agents.backoff import Pace
from spotplane_agents.errors import AgentDeleted, AgentError, RestRefused, RestUnavailable
from spotplane_agents.host import Load
from spotplane_agents.identity import Identity
from spotplane_agents.rest import Rest
from spotplane_agents.spool import Spool, Spooled

logger: Final = logging.getLogger(__name__)

PAGE: Final = 64
# Reports by task: a notice waits for nothing, and a result not for an hour of usage.
NOTICES: Final = frozenset({"notice"})
RESULTS: Final = frozenset({"command_result", "replica", "termination"})
BULK: Final = frozenset({"prices", "usage"})
LANE_OF: Final = {NOTICES: 0, RESULTS: 0, BULK: 1}
# Time between checks of the spool without a signal.
IDLE_SECONDS: Final = 30.0
FAREWELL_SECONDS: Final = 2.0
# Codes of routes about the agent itself when it does not exist; an unknown route has another.
GONE: Final = frozenset({"AGENT_NOT_FOUND", "NOT_FOUND"})
RETRY: Final = Pace(1.0, 30.0)
REFUSED_RETRY: Final = Pace(5.0, 60.0)


@dataclass(frozen=True, slots=True)
class PollPace:
    """Intervals of polling, in seconds.

    Each wait is spread by a quarter to both sides, so that agents do not poll at the same time.
    Together with heartbeats this is one call in four seconds.
    """

    commands: float = 15.0
    state: float = 15.0
    retry: Pace = RETRY
    refused_retry: Pace = REFUSED_RETRY
    random: Callable[[], float] = random.random

    def spread(self, seconds: float) -> float:
        """Return a wait around this value."""
        return seconds * (0.75 + 0.5 * self.random())


class PollListener(Protocol):
    """Interface between polling and its agent."""

    @property
    def agent_id(self) -> str | None:
        """UUID of the agent, once registered."""

    @property
    def identity(self) -> Identity:
        """The instance."""

    @property
    def role(self) -> str:
        """The current role."""

    def register_request(self) -> RegisterRequest:
        """Return the registration request."""

    async def registered(self, response: RegisterResponse) -> None:
        """Store the server's registration response."""

    def load(self) -> Load:
        """Measure the load for a heartbeat."""

    async def synchronize(self, server_time: datetime) -> None:
        """Store the server's time."""

    def observed(self, state: pb.DesiredState) -> None:
        """Store the desired state, as far as a poll reports it."""

    async def deliver(self, delivery: pb.CommandDelivery) -> None:
        """Receive a command; it is on disk when this returns."""


class Polling:
    """Polls for an agent by REST while enabled.

    Heartbeats, commands, the desired state and three kinds of reports have a task each, so that
    none waits for the response of another.

    Args:
        rest: The routes.
        spool: Reports to send.
        listener: The agent.
        pace: Intervals between polls.
        changed: Called when polls begin or cease to succeed.
    """

    def __init__(
        self,
        rest: Rest,
        spool: Spool,
        listener: PollListener,
        pace: PollPace,
        changed: Callable[[], None],
    ) -> None:
        self.up = False
        """Whether the server responds."""
        self.registered = False
        """Whether the instance has been made known this way."""
        self._rest = rest
        self._spool = spool
        self._listener = listener
        self._pace = pace
        self._changed = changed
        self._wanted = asyncio.Event()
        self._over = asyncio.Event()
        self._goodbye: tuple[str, float] | None = None
        self._news = {kinds: asyncio.Event() for kinds in LANE_OF}
        self._orders = asyncio.Event()
        self._sent = asyncio.Event()
        self._heard = asyncio.Event()

    @property
    def leaving(self) -> bool:
        """Whether a goodbye is to be sent."""
        return self._goodbye is not None

    def enable(self) -> None:
        """Start polling, unless started: there is no stream."""
        if not self._wanted.is_set():
            logger.warning("no stream can be had; the REST routes are tried meanwhile")
            self._over.clear()
            self._wanted.set()

    def disable(self) -> None:
        """Stop polling: a stream is accepted."""
        if self._wanted.is_set() and not self.leaving:
            self._wanted.clear()
            self._over.set()

    def wake(self) -> None:
        """Signal a new report in the spool."""
        for news in self._news.values():
            news.set()

    def leave(self, reason: str, flush_seconds: float) -> None:
        """Send a goodbye once the spool is empty, at the latest after ``flush_seconds``."""
        self._goodbye = reason, flush_seconds
        self._over.set()
        self.wake()

    async def run(self) -> None:
        """Poll while enabled, until a goodbye is sent.

        Raises:
            AgentDeleted: An operator deleted the agent.
        """
        try:
            while not self.leaving:
                await self._wanted.wait()
                await self._poll()
        finally:
            self._rest.close()

    async def _poll(self) -> None:
        """Poll until a stream is accepted, or the agent leaves."""
        running = asyncio.create_task(self._run_tasks(), name="spotplane-polling")
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({running, over}, return_when=asyncio.FIRST_COMPLETED)
            if self._goodbye is not None and not running.done():
                await self._send_goodbye(*self._goodbye)
        finally:
            await _cancel(running, over)
            self._become(up=False)
        if not running.cancelled():
            running.result()

    async def _run_tasks(self) -> None:
        """Register if necessary, then run all tasks at their own intervals; never returns."""
        while self._listener.agent_id is None:
            await self._keep(self._register, asyncio.Event(), once=True)
        await _together(
            self._keep(self._send_heartbeat, asyncio.Event()),
            self._keep(self._fetch, self._orders),
            self._keep(self._poll_state, asyncio.Event()),
            *(self._keep(self._sender(kinds), news) for kinds, news in self._news.items()),
        )

    async def _keep(
        self, work: Callable[[], Awaitable[float]], news: asyncio.Event, *, once: bool = False
    ) -> None:
        """Repeat an action, with backoff while it fails.

        Args:
            work: Returns the longest wait for ``news`` until the next time, in seconds.
            news: Set when there is new work.
            once: Only until it succeeds.
        """
        failures = 0
        while True:
            news.clear()
            try:
                seconds = self._pace.spread(await work())
            except AgentDeleted:
                raise
            except AgentError as error:  # of the disk too, as on the stream
                if isinstance(error, RestRefused) and error.code in GONE:
                    raise AgentDeleted(str(error)) from error
                failures += 1
                await asyncio.sleep(self._after(error, failures))
                continue
            failures = 0
            if once:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await news.wait()

    def _after(self, error: AgentError, failures: int) -> float:
        refused = isinstance(error, RestRefused)
        pace = self._pace.refused_retry if refused else self._pace.retry
        wait = pace.wait_seconds(failures, self._pace.random)
        logger.log(logging.ERROR if refused else logging.INFO, "%s; retry in %.1f s", error, wait)
        return wait

    async def _register(self) -> float:
        post = routes.register(self._listener.register_request())
        response = routes.registered(await self._rest.call(*post))
        self.registered = True
        await self._listener.registered(response)
        return 0.0

    async def _send_heartbeat(self) -> float:
        post = routes.heartbeat(
            self._agent_id, self._listener.identity, await asyncio.to_thread(self._listener.load)
        )
        try:
            response = await self._rest.call(*post)
        except (RestUnavailable, RestRefused):
            self._become(up=False)
            raise
        if self._rest.server_time is not None:
            await self._listener.synchronize(self._rest.server_time)
        self._become(up=True)
        self._heard.set()
        if response.get("commands_pending"):
            self._orders.set()
        return float(response.get("next_heartbeat_seconds") or 30)

    async def _fetch(self) -> float:
        """Receive every waiting command, one by one as the server leases them."""
        path = f"/api/agents/{self._agent_id}/pending-commands"
        while items := await self._rest.call("GET", path):
            for item in items:
                await self._listener.deliver(routes.delivery(item))
        return self._pace.commands

    async def _poll_state(self) -> float:
        """Poll the desired state."""
        replicas = await self._rest.call("GET", f"/api/agents/{self._agent_id}/replicas")
        agent = await self._rest.call("GET", routes.agent_path(self._agent_id))
        here = self._listener.identity.instance_id
        state = routes.state(agent, replicas, here, self._listener.role)
        if self._wanted.is_set():  # otherwise a stream has newer state by now
            self._listener.observed(state)
        return self._pace.state

    def _sender(self, kinds: frozenset[str]) -> Callable[[], Coroutine[Any, Any, float]]:
        async def send() -> float:
            if kinds is BULK:
                await self._heard.wait()  # usage and prices are stamped with the server's time
            async for spooled in self._waiting(kinds):
                await self._send(spooled)
            return IDLE_SECONDS

        return send

    async def _waiting(self, kinds: frozenset[str]) -> AsyncIterator[Spooled]:
        lane, after = LANE_OF[kinds], 0
        while page := await asyncio.to_thread(self._spool.next, lane, after_id=after, limit=PAGE):
            for spooled in page:
                if spooled.report.WhichOneof("kind") in kinds:
                    yield spooled
            after = page[-1].id

    async def _send(self, spooled: Spooled) -> None:
        here = self._listener.identity.instance_id
        try:
            await self._rest.call(*routes.report(self._agent_id, here, spooled.report))
        except RestRefused as error:
            if error.status in {401, 403}:  # the key is rejected, not the report
                raise
            logger.warning("report %d was refused for good: %s", spooled.id, error)
        await asyncio.to_thread(self._spool.acknowledge, [spooled.id])
        self._sent.set()

    async def _send_goodbye(self, reason: str, flush_seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(flush_seconds):
                await self._flushed()
        here = self._listener.identity.instance_id
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._rest.call(*routes.goodbye(self._agent_id, here, reason))
        except (TimeoutError, RestUnavailable, RestRefused) as error:
            logger.warning("no goodbye could be said: %s", error)

    async def _flushed(self) -> None:
        while True:
            self._sent.clear()
            if (await asyncio.to_thread(self._spool.size))[0] == 0:
                return
            await self._sent.wait()

    @property
    def _agent_id(self) -> str:
        return self._listener.agent_id or ""

    def _become(self, *, up: bool) -> None:
        if up != self.up:
            self.up = up
            self._changed()


async def _together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all tasks until one fails; then cancel the others."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _cancel(*tasks)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
