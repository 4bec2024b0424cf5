"""The connection to the server: register, hold a session, and reconnect after every end.

The agent prefers a stream. While no stream is possible, it sends and receives the same messages by
the REST routes.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from spotplane.v1 import agent_stream_pb2 as stream_pb
from spotplane.v1.agent_pb2_grpc import AgentServiceStub

from spotplane_agents.backoff import Pace
from spotplane_agents.errors import AgentDeleted, AgentError, SessionReplaced
from spotplane_agents.journal import Journal
from spotplane_agents.polling import Polling, PollListener, PollPace
from spotplane_agents.rest import Rest
from spotplane_agents.session import Listener, Session
from spotplane_agents.spool import Spool

logger: Final = logging.getLogger(__name__)

ConnectionState = Literal[
    "idle", "connecting", "connected", "polling", "waiting", "refused", "replaced", "stopped"
]
OnReplaced = Literal["stop", "wait"]

RETRY: Final = Pace(1.0, 30.0)
REFUSED_RETRY: Final = Pace(5.0, 60.0)
REPLACED_RETRY: Final = Pace(60.0, 600.0)
SILENCE_SECONDS: Final = 30.0
REGISTER_TIMEOUT_SECONDS: Final = 10.0
# A session that lasted this long was a success, so the next failure counts as the first.
PROVEN_SECONDS: Final = 30.0
# The REST routes are used after this many failed streams in a row, or after this time without an
# accepted stream: a proxy may drop streams silently instead of rejecting them.
POLLED_AFTER_FAILURES: Final = 3
POLLED_AFTER_SECONDS: Final = 10.0
POLL_PACE: Final = PollPace()
# An early retry cannot help with these; an operator has to act first.
REFUSALS: Final = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
CHANNEL_OPTIONS: Final = (
    # Detects a dead peer within 40 s when a router drops packets silently.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # Every attempt has its own channel: gRPC's wait between connects must not add to ours.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True)
class ConnectionOptions:
    """Address, credentials and retries of the connection to the server."""

    server: str
    api_key: str = field(repr=False)
    tls: bool = False
    root_certificates: bytes | None = None
    """PEM; default the system's. Implies TLS."""
    rest: str | None = None
    """Base URL of the REST routes, for use without a stream; default the server's own
    address, where the edge serves both. An empty one does without."""
    poll: PollPace = POLL_PACE
    """Intervals of polling by REST."""
    on_replaced: OnReplaced = "stop"
    retry: Pace = RETRY
    refused_retry: Pace = REFUSED_RETRY
    replaced_retry: Pace = REPLACED_RETRY
    silence_seconds: float = SILENCE_SECONDS
    """Longest time without a response to a hello or heartbeat before the stream is closed."""
    random: Callable[[], float] = random.random

    @property
    def secure(self) -> bool:
        """Whether to use TLS."""
        return self.tls or self.root_certificates is not None

    @property
    def rest_url(self) -> str:
        """Base URL of the REST routes; empty when they are disabled."""
        if self.rest is not None:
            return self.rest
        return f"{'https' if self.secure else 'http'}://{self.server}"


class ConnectionListener(Listener, PollListener, Protocol):
    """Interface through which a connection notifies its agent."""

    def connection_changed(self) -> None:
        """Handle a change of the connection's state."""


class Connection:
    """Maintains one session while it runs."""

    def __init__(
        self,
        settings: ConnectionOptions,
        spool: Spool,
        journal: Journal,
        listener: ConnectionListener,
    ) -> None:
        self._state: ConnectionState = "idle"
        self.last_error: str | None = None
        self._settings = settings
        self._spool = spool
        self._journal = journal
        self._listener = listener
        self._registered = False
        self._failures = 0
        self._welcomed_at: float | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._refused = False
        self._session: Session | None = None
        self._stopping = asyncio.Event()
        rest = Rest(
            settings.rest_url,
            settings.api_key,
            listener.identity.instance_id,
            settings.root_certificates,
        )
        self._polling = Polling(rest, spool, listener, settings.poll, listener.connection_changed)

    @property
    def state(self) -> ConnectionState:
        """State of the connection; ``polling`` when polls succeed and there is no stream."""
        lasting = self._state in {"connected", "replaced", "stopped"}
        return "polling" if self._polling.up and not lasting else self._state

    @property
    def connected(self) -> bool:
        """Whether the server receives the agent's messages, by stream or by polling."""
        return self.state in {"connected", "polling"}

    def wake(self) -> None:
        """Signal a new report in the spool."""
        self._polling.wake()
        if self._session is not None:
            self._session.wake()

    def progress(self, command_id: str, stage: "stream_pb.CommandProgress.Stage.ValueType") -> None:
        """Send a step of a command, if there is a session."""
        if self._session is not None:
            step = stream_pb.CommandProgress(command_id=command_id, stage=stage)
            self._session.progress(step)

    def welcomed(self) -> None:
        """Handle the server's acceptance of the session."""
        self._welcomed_at = asyncio.get_running_loop().time()
        self._keep_patience()
        self._polling.disable()
        self._become("connected", None)

    def leave(self, reason: str, flush_seconds: float) -> bool:
        """End the run for good; False when no goodbye can be sent."""
        self._stopping.set()
        if self._session is None or not self._session.welcomed:
            if self._polling.up:
                self._polling.leave(reason, flush_seconds)
            return self._polling.leaving
        self._session.leave(reason, flush_seconds)
        return True

    async def run(self) -> None:
        """Register, connect and reconnect, until ``leave``.

        Raises:
            SessionReplaced: Another process has this instance's identity.
            AgentDeleted: An operator deleted the agent.
        """
        streaming = asyncio.create_task(self._keep_streaming(), name="spotplane-streaming")
        polling = asyncio.create_task(self._polling.run(), name="spotplane-fallback")
        try:
            await asyncio.wait({streaming, polling}, return_when=asyncio.FIRST_COMPLETED)
            if self._polling.leaving:
                await asyncio.wait({polling})
        finally:
            for task in (streaming, polling):
                task.cancel()
            ends = await asyncio.gather(streaming, polling, return_exceptions=True)
            if self._state != "replaced":
                self._become("stopped", self.last_error)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _keep_streaming(self) -> None:
        try:
            while not self._stopping.is_set():
                self._welcomed_at = None
                self._lose_patience_in(POLLED_AFTER_SECONDS)
                wait = await self._attempt()
                if self._failures >= POLLED_AFTER_FAILURES:
                    self._lose_patience_in(0)
                await self._pause(wait)
        finally:
            self._keep_patience()

    def _lose_patience_in(self, seconds: float) -> None:
        """Start polling after this time unless a stream is accepted before."""
        if self._refused or not self._settings.rest_url:
            return  # the server's response is the same by REST
        if self._patience is None or seconds == 0:
            self._keep_patience()
            self._patience = asyncio.get_running_loop().call_later(seconds, self._polling.enable)

    def _keep_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    async def _attempt(self) -> float:
        """Hold one session; return the wait before the next, in seconds."""
        self._become("connecting", self.last_error)
        session: Session | None = None
        try:
            async with self._channel() as channel:
                stub = AgentServiceStub(channel)
                if not self._known:
                    await self._register(stub)
                hello = self._listener.hello(await asyncio.to_thread(self._journal.open_ids))
                call = stub.Connect(metadata=self._metadata())
                session = self._session = Session(
                    call, self._spool, self._listener, self._settings.silence_seconds
                )
                await session.run(hello)
        except (grpc.aio.AioRpcError, AgentError) as error:
            # Its traceback refers to frames that hold the call. They would keep the connection
            # open until the garbage collector runs, which may take hours in a quiet process.
            error.__traceback__ = None
            if isinstance(error, AgentError):
                return self._after_failure(str(error))
            return self._after_status(error)
        finally:
            self._session = None
        if session.reconnect_after is not None:
            self._failures = 0
            self._become("waiting", None)
            return session.reconnect_after.total_seconds()
        return self._after_failure("the stream ended")

    @property
    def _known(self) -> bool:
        return self._registered or self._polling.registered

    async def _register(self, stub: AgentServiceStub) -> None:
        response = await stub.Register(
            self._listener.register_request(),
            timeout=REGISTER_TIMEOUT_SECONDS,
            metadata=self._metadata(),
        )
        await self._listener.registered(response)
        self._registered = True

    def _after_status(self, error: grpc.aio.AioRpcError) -> float:
        code, reason = error.code(), reason_of(error)
        self._refused = reason == "SESSION_REPLACED" or (code in REFUSALS and reason != "")
        if self._refused:
            self._keep_patience()
            self._polling.disable()
        text = f"{code.name} {reason}: {error.details()}"
        if reason == "SESSION_REPLACED":
            return self._after_replacement(text)
        if reason == "AGENT_NOT_FOUND" and self._known:
            raise AgentDeleted(text)
        if code in REFUSALS:
            return self._after_failure(text, refused=True)
        if code in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}:
            self._registered = self._polling.registered = False
        return self._after_failure(text)

    def _after_replacement(self, text: str) -> float:
        self._become("replaced", text)
        if self._settings.on_replaced == "stop":
            raise SessionReplaced(text)
        self._failures += 1
        wait = self._settings.replaced_retry.wait_seconds(self._failures, self._settings.random)
        logger.error("another process has this instance's session; retry in %.0f s", wait)
        return wait

    def _after_failure(self, text: str, *, refused: bool = False) -> float:
        if self._stopping.is_set():
            return 0.0
        now, since = asyncio.get_running_loop().time(), self._welcomed_at
        proven = since is not None and now - since > PROVEN_SECONDS
        self._failures = 1 if proven else self._failures + 1
        pace = self._settings.refused_retry if refused else self._settings.retry
        wait = pace.wait_seconds(self._failures, self._settings.random)
        level = logging.ERROR if refused else logging.WARNING
        logger.log(level, "no session with the server, retry in %.1f s: %s", wait, text)
        self._become("refused" if refused else "waiting", text)
        return wait

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _become(self, state: ConnectionState, error: str | None) -> None:
        self.last_error = error
        if state != self._state:
            self._state = state
            self._listener.connection_changed()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._settings.api_key}"),)

    def _channel(self) -> grpc.aio.Channel:
        settings = self._settings
        if settings.secure:
            credentials = grpc.ssl_channel_credentials(settings.root_certificates)
            return grpc.aio.secure_channel(settings.server, credentials, CHANNEL_OPTIONS)
        return grpc.aio.insecure_channel(settings.server, CHANNEL_OPTIONS)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the machine-readable reason of a status; empty when it has none."""
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in Status.FromString(value).details:
                info = ErrorInfo()
                if detail.Unpack(info):
                    return info.reason
    return ""
