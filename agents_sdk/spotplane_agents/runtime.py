"""One run of an agent: state files, connection and tasks."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Final

from spotplane.v1 import agent_stream_pb2 as pb
from spotplane.v1.agent_pb2 import RegisterRequest, RegisterResponse

from spotplane_agents.clock import ServerClock
from spotplane_agents.commands import Dispatcher, Registration
from spotplane_agents.connection import Connection, ConnectionOptions
from spotplane_agents.desired import Desired
from spotplane_agents.diskwait import DiskRetry
from spotplane_agents.errors import StateUnavailable
from spotplane_agents.host import Load
from spotplane_agents.identity import Identity
from spotplane_agents.journal import Journal
from spotplane_agents.spool import Spool, SpoolLimits
from spotplane_agents.state import State

logger: Final = logging.getLogger(__name__)

COMMAND_GRACE_SECONDS: Final = 5.0
FLUSH_SECONDS: Final = 5.0
# Beyond the flush: the goodbye on its way, and the server's response to it.
FAREWELL_SECONDS: Final = 3.0


def agent_version() -> str:
    """Return the version of this program, at most 32 characters."""
    try:
        return metadata.version("spotplane")[:32]
    except metadata.PackageNotFoundError:
        return "unknown"


class Runtime:
    """One run of an agent: files, connection and tasks; handles the connection's events."""

    def __init__(
        self,
        *,
        state: State,
        limits: SpoolLimits | None,
        settings: ConnectionOptions,
        identity: Identity,
        handlers: Mapping[str, Registration],
        desired: Desired,
        load: Callable[[], Load],
        changed: Callable[[], None],
    ) -> None:
        self.agent_id: str | None = None
        self.tenant_id: str | None = None
        self.failure: BaseException | None = None
        self.state = state
        self.spool = Spool(state, limits)
        self._identity = identity
        self._desired = desired
        self._load = load
        self._changed = changed
        # Commands expire by the server's clock, and reports are stamped with its time.
        self.clock = ServerClock()
        journal = Journal(state, self.spool)
        self.disk = DiskRetry(settings.retry, settings.random)
        self._dispatcher = Dispatcher(journal, handlers, self.now, self.disk)
        self.connection = Connection(settings, self.spool, journal, self)
        self._dispatcher.send_progress_to(self.connection)
        self._tasks: set[asyncio.Task[None]] = set()
        self._owed: set[asyncio.Task[None]] = set()
        self._link_task: asyncio.Task[None] | None = None
        self._ended = False

    def now(self) -> datetime:
        """Return the server's time."""
        return self.clock.now()

    async def start(self) -> None:
        """Recover the state of an earlier process, then connect."""
        if await asyncio.to_thread(self.state.adopt, self._identity.instance_id):
            logger.warning("the state directory was another instance's; its commands are forgotten")
        await self._dispatcher.recover()
        self.spawn(self._dispatcher.run(), "spotplane-commands")
        self.spawn(self._desired.run(), "spotplane-hooks")
        self._link_task = self.spawn(self.connection.run(), "spotplane-connection")

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a coroutine as long as the agent runs; if it fails, the agent has failed."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def complete(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a short coroutine that ``close`` awaits instead of cancelling."""
        task = asyncio.create_task(work)
        self._owed.add(task)
        task.add_done_callback(self._owed.discard)
        await asyncio.shield(task)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self.failure is None:
            logger.error("the agent cannot go on: %s", error)
            self.failure = error
        self._changed()

    @property
    def connection_ended(self) -> bool:
        """Return whether there will be no further session."""
        return self._link_task is not None and self._link_task.done()

    async def close(self, reason: str, last_words: Coroutine[Any, Any, None]) -> None:
        """Let commands and reports finish for a bounded time, send a goodbye, release the files."""
        try:
            await self._end_tasks(keep=self._link_task)
            await self._dispatcher.finish(COMMAND_GRACE_SECONDS)
            if self._owed:
                await asyncio.wait(self._owed, timeout=COMMAND_GRACE_SECONDS)
            await last_words
            if self._link_task is not None and self.connection.leave(reason, FLUSH_SECONDS):
                await asyncio.wait({self._link_task}, timeout=FLUSH_SECONDS + FAREWELL_SECONDS)
        finally:
            last_words.close()
            await self.kill()

    async def kill(self) -> None:
        """End everything at once, as a crash would: no goodbye, and commands stay started."""
        if self._ended:
            return
        self._ended = True
        await self._end_tasks(keep=None)
        await self._dispatcher.finish(0)
        await asyncio.to_thread(self.state.close)
        self._changed()

    async def _end_tasks(self, keep: asyncio.Task[None] | None) -> None:
        ending = self._tasks - {keep, asyncio.current_task()}
        if keep is None:
            ending |= self._owed
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    # Events of the connection.

    def register_request(self) -> RegisterRequest:
        """See ``ConnectionListener``."""
        return self._identity.register_request(agent_version())

    async def registered(self, response: RegisterResponse) -> None:
        """See ``ConnectionListener``."""
        if self.agent_id not in {None, response.agent_id}:
            self._desired.forget()
        self.agent_id, self.tenant_id = response.agent_id, response.tenant_id
        if response.message:
            logger.info("message of the server: %s", response.message)
        await self.desired(response.desired_state)

    def hello(self, open_command_ids: list[str]) -> pb.Hello:
        """See ``Listener``."""
        return pb.Hello(
            agent_id=self.agent_id or "",
            instance_id=self._identity.instance_id,
            agent_version=agent_version(),
            applied_generation=self._desired.applied_generation,
            open_command_ids=open_command_ids,
        )

    def load(self) -> Load:
        """See ``Listener``."""
        return self._load()

    def applied_generation(self) -> int:
        """See ``Listener``."""
        return self._desired.applied_generation

    async def welcomed(self, welcome: pb.Welcome) -> None:
        """See ``Listener``."""
        if welcome.HasField("server_time"):
            await self.synchronize(welcome.server_time.ToDatetime(UTC))
        self.connection.welcomed()

    async def synchronize(self, server_time: datetime) -> None:
        """See ``PollListener``."""
        first = not self.clock.synchronized
        self.clock.synchronize(server_time)
        if first and self.clock.offset():
            logger.warning("this machine's clock is wrong by %s", self.clock.offset())
        try:
            await asyncio.to_thread(self.spool.set_shift, self.clock.offset())
        except StateUnavailable as error:
            logger.error("reports without the server's time stay so on disk: %s", error)

    def append(self, report: pb.Report) -> int:
        """Store a report with instants of this machine's clock. Blocks for a write."""
        return self.spool.append(report, self.clock.offset() if self.clock.synchronized else None)

    async def desired(self, state: pb.DesiredState) -> None:
        """See ``Listener``."""
        if self._desired.take(state):
            self._dispatcher.set_enabled(self._desired.enabled)
            self._changed()

    def observed(self, state: pb.DesiredState) -> None:
        """See ``PollListener``."""
        if self._desired.observe(state):
            self._dispatcher.set_enabled(self._desired.enabled)
            self._changed()

    @property
    def identity(self) -> Identity:
        """See ``PollListener``."""
        return self._identity

    @property
    def role(self) -> str:
        """See ``PollListener``."""
        return self._desired.state.role

    async def deliver(self, delivery: pb.CommandDelivery) -> None:
        """See ``Listener``."""
        await self._dispatcher.deliver(delivery)

    async def cancel(self, command_id: str) -> None:
        """See ``Listener``."""
        await self._dispatcher.cancel(command_id)

    def connection_changed(self) -> None:
        """See ``ConnectionListener``."""
        self._changed()
