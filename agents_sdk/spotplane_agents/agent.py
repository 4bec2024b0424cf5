"""The agent of one instance: registration, commands, reports and lifecycle."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypedDict, Unpack

from spotplane.v1 import agent_stream_pb2 as pb

from spotplane_agents.backoff import Pace
from spotplane_agents.builtin import Builtins, end_own_instance
from spotplane_agents.commands import Handler, Registration
from spotplane_agents.connection import ConnectionOptions, ConnectionState, OnReplaced
from spotplane_agents.desired import ConfigHook, Desired, RoleHook
from spotplane_agents.errors import AgentError
from spotplane_agents.host import HostLoad, Load
from spotplane_agents.identity import Identity
from spotplane_agents.notices import NoticeSource
from spotplane_agents.polling import PollPace
from spotplane_agents.providers import Provider
from spotplane_agents.reports import Reporter
from spotplane_agents.runtime import Runtime
from spotplane_agents.spool import LANES, SpoolLimits
from spotplane_agents.state import State

logger: Final = logging.getLogger(__name__)

RETIRE_NOTE: Final = "retire_after_seconds"


class ConnectionSettings(TypedDict, total=False):
    """Optional settings of the connection; see ``ConnectionOptions``."""

    tls: bool
    root_certificates: bytes | None
    rest: str | None
    poll: PollPace
    on_replaced: OnReplaced
    retry: Pace
    refused_retry: Pace
    replaced_retry: Pace
    silence_seconds: float
    random: Callable[[], float]


def default_state_dir(identity: Identity) -> Path:
    """Return the state directory of an instance's agent, under ``$XDG_STATE_HOME``."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    # Instance ids come from the cloud, but a path must never leave its folder.
    return Path(base) / "spotplane" / identity.instance_id.replace("/", "_").lstrip(".")


class Agent(Reporter):
    """Connects one instance to the server: ``async with Agent(...)`` or ``await agent.run()``.

    Entering never waits for the server: reports are stored on disk in ``state_dir`` while it is
    unreachable, and sent later. Register commands and hooks before entering, since commands that an
    earlier process left are resumed at once.

    Args:
        server: Address of the server's gRPC port, e.g. ``plane.example.com:443``.
        api_key: A key of role ``agent`` or ``admin``, or the agent's own credential.
        identity: The instance; see ``Imds.identity`` for EC2.
        provider: Cloud to launch and terminate instances with; without one, such commands fail.
        notices: Source of the cloud's notices.
        state_dir: Directory of this agent alone; default one per instance, see
            ``default_state_dir``.
        spool_limits: Number and size of reports stored while the server is unreachable.
        load: Measures the machine for heartbeats; default from /proc.
        connection: TLS, REST address and retries; see ``ConnectionOptions``.
    """

    def __init__(
        self,
        *,
        server: str,
        api_key: str,
        identity: Identity,
        provider: Provider | None = None,
        notices: NoticeSource | None = None,
        state_dir: str | os.PathLike[str] | None = None,
        spool_limits: SpoolLimits | None = None,
        load: Callable[[], Load] | None = None,
        **connection: Unpack[ConnectionSettings],
    ) -> None:
        super().__init__(identity)
        self._settings = ConnectionOptions(server, api_key, **connection)
        self._provider = provider
        self._notices = notices
        self._state_dir = Path(state_dir) if state_dir else default_state_dir(identity)
        self._limits = spool_limits
        self._load = load or HostLoad()
        self._handlers: dict[str, Registration] = Builtins(self, provider).handlers()
        self._desired = Desired()
        self._desired.followers.append(self._follow)
        self._warm_up: Callable[[], Awaitable[None]] | None = None
        self._stood_by: str | None = None
        self._retiring = False
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._runtime: Runtime | None = None

    # Identity and state.

    @property
    def logical_agent_id(self) -> str:
        """The name it registers under."""
        return self.identity.logical_agent_id or self.identity.instance_id

    @property
    def agent_id(self) -> str | None:
        """UUID of the agent, once registered."""
        return self._runtime.agent_id if self._runtime else None

    @property
    def tenant_id(self) -> str | None:
        """UUID of the tenant, once registered."""
        return self._runtime.tenant_id if self._runtime else None

    @property
    def role(self) -> str:
        """``primary``, ``replica``, ``candidate`` or ``retired``; empty before registration."""
        return self._desired.state.role

    @property
    def config(self) -> pb.AgentConfig:
        """The configuration in force."""
        return self._desired.state.config

    @property
    def replica_id(self) -> str | None:
        """UUID of the replica this instance is bound to."""
        return self._desired.state.replica_id or None

    @property
    def connected(self) -> bool:
        """Whether the server has accepted the session, or responds to polls instead."""
        return self._runtime is not None and self._runtime.connection.connected

    @property
    def connection_state(self) -> ConnectionState:
        """State of the connection; ``refused`` and ``replaced`` need an operator.

        ``polling``: no stream is possible, e.g. because a proxy blocks HTTP/2; REST carries
        everything.
        """
        return self._runtime.connection.state if self._runtime else "idle"

    @property
    def last_error(self) -> str | None:
        """Error that prevents a stream; None while there is one."""
        return self._runtime.connection.last_error if self._runtime else None

    @property
    def failure(self) -> BaseException | None:
        """Error that ended the agent; None while it runs."""
        return self._runtime.failure if self._runtime else None

    # Handlers and hooks of the application.

    def command(self, name: str, *, idempotent: bool = False) -> Callable[[Handler], Handler]:
        """Register the handler of commands with this name; it may replace a built-in one.

        The handler receives a ``Command``; its return value is the result, ``CommandFailed`` is a
        failure. A command with a handler that was running when the process died is run again only
        if
        ``idempotent``; otherwise it is reported failed, "interrupted by a restart".
        """

        def register(handler: Handler) -> Handler:
            self._handlers[name] = Registration(handler, idempotent)
            return handler

        return register

    def on_role_change(self, hook: RoleHook) -> RoleHook:
        """Call ``hook(old, new)`` after every change of role; the first ``old`` is empty."""
        self._desired.role_hooks.append(hook)
        return hook

    def on_config(self, hook: ConfigHook) -> ConfigHook:
        """Call ``hook(config)`` after every change of the configuration, the first included."""
        self._desired.config_hooks.append(hook)
        return hook

    def warm_up(self, hook: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Await ``hook()`` before a replica is reported ready; failure marks it failed."""
        self._warm_up = hook
        return hook

    # Lifecycle.

    async def start(self) -> None:
        """Open the state directory and begin to connect.

        Raises:
            StateInUse: Another live agent holds the directory.
            StateUnavailable: It cannot be used.
        """
        state = await asyncio.to_thread(State, self._state_dir)
        runtime = Runtime(
            state=state,
            limits=self._limits,
            settings=self._settings,
            identity=self.identity,
            handlers=self._handlers,
            desired=self._desired,
            load=self._load,
            changed=self._notify,
        )
        self._runtime = runtime
        try:
            await runtime.start()
        except BaseException:
            await runtime.kill()
            raise
        runtime.spawn(self._usage.run(), "spotplane-usage")
        if self._notices is not None:
            runtime.spawn(self._watch(self._notices), "spotplane-notices")

    async def close(self, reason: str = "stopped") -> None:
        """Flush for a bounded time, send a goodbye, and release the state directory."""
        self._stop.set()
        if self._runtime is not None:
            await self._runtime.close(reason, self._flush_last())

    async def kill(self) -> None:
        """End at once without a goodbye, as a crash would; for tests and simulations."""
        self._stop.set()
        if self._runtime is not None:
            await self._runtime.kill()

    async def __aenter__(self) -> Self:
        """Start; see ``start``."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; see ``close``."""
        await self.close()

    def stop(self) -> None:
        """Let ``run`` and ``wait_closed`` return."""
        self._stop.set()
        self._notify()

    async def wait_closed(self) -> None:
        """Wait until ``stop``, or until the agent ends by itself.

        Raises:
            SessionReplaced: Another process has this instance's identity.
            AgentDeleted: An operator deleted the agent.
        """
        while not self._stop.is_set():
            self._raise_failure()
            await self._change()
        self._raise_failure()

    async def run(self) -> None:
        """Run until SIGTERM, ``stop`` or the end of the calling task; then close.

        Raises:
            SessionReplaced: Another process has this instance's identity.
            AgentDeleted: An operator deleted the agent.
            StateInUse: Another live agent holds the state directory.
        """
        async with stopped_by_sigterm(self.stop), self:
            await self.wait_closed()

    async def wait_for(self, *, role: str | None = None, connected: bool | None = None) -> None:
        """Wait until the agent has this role and connection state; None means any.

        Raises:
            AgentError: The agent ended by itself first.
        """
        while (role is not None and self.role != role) or (
            connected is not None and self.connected != connected
        ):
            self._raise_failure()
            if self._stop.is_set():
                raise AgentError("the agent was stopped")
            await self._change()

    async def wait_drained(self) -> None:
        """Wait until the server has acknowledged every report, usage included."""
        await self.flush()
        while (await asyncio.to_thread(self._running().spool.size))[0]:
            self._raise_failure()
            await asyncio.sleep(0.02)

    async def spool_size(self) -> tuple[int, int]:
        """Return the number of reports on disk, and their size in bytes."""
        return await asyncio.to_thread(self._running().spool.size)

    async def spool_dropped(self) -> dict[str, int]:
        """Return the number of reports dropped for lack of space, by kind."""
        return await asyncio.to_thread(self._running().spool.dropped)

    # Internal.

    async def append(self, report: pb.Report) -> None:
        """See ``Reporter.append``."""
        runtime = self._running()
        kind = report.WhichOneof("kind") or ""
        if LANES.get(kind) == 0:
            await runtime.disk.write(f"a {kind} report", lambda: runtime.append(report))
        else:
            await asyncio.to_thread(runtime.append, report)
        runtime.connection.wake()

    async def retire_after(self, seconds: int) -> None:
        """End this instance this long after another one serves; stored across restarts."""
        state = self._running().state
        await asyncio.to_thread(state.record_note, RETIRE_NOTE, str(seconds))
        await self._follow()

    async def _follow(self) -> None:
        """Follow the role: a replica warms up, a retired instance ends."""
        runtime = self._running()
        if self.role == "replica" and self.replica_id != self._stood_by:
            self._stood_by = self.replica_id
            if self.replica_id is not None:
                runtime.spawn(self._stand_by(self.replica_id), "spotplane-warm-up")
        if self.role == "retired" and self._provider is not None and not self._retiring:
            seconds = await asyncio.to_thread(runtime.state.find_note, RETIRE_NOTE)
            if seconds is not None:
                self._retiring = True
                runtime.spawn(self._retire(self._provider, float(seconds)), "spotplane-retire")

    async def _stand_by(self, replica_id: str) -> None:
        status, message = "ready", ""
        try:
            if self._warm_up is not None:
                await self._warm_up()
        except Exception as error:
            logger.exception("the replica could not warm up")
            status, message = "failed", f"{type(error).__name__}: {error}"
        if self.role == "replica" and self.replica_id == replica_id:
            await self.replica_status(status, message=message)

    async def _retire(self, provider: Provider, seconds: float) -> None:
        await asyncio.sleep(seconds)
        # The cloud shuts this machine down in response, which must not interrupt the report.
        await self._running().complete(end_own_instance(self, provider))

    async def _watch(self, source: NoticeSource) -> None:
        async for notice in source.notices():
            logger.warning("the cloud gave a %s notice, deadline %s", notice.kind, notice.deadline)
            await self.append(pb.Report(notice=notice.message(self.identity.instance_id)))

    async def _flush_last(self) -> None:
        try:
            await self.flush()
        except AgentError as error:
            logger.error("usage is lost: %s", error)

    def _running(self) -> Runtime:
        if self._runtime is None:
            raise AgentError("the agent has not been started")
        return self._runtime

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self) -> None:
        await self._changed.wait()


@asynccontextmanager
async def stopped_by_sigterm(stop: Callable[[], None]) -> AsyncIterator[None]:
    """Call ``stop`` instead of terminating on SIGTERM while the block runs."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGTERM, stop)
    except (ValueError, RuntimeError):  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
