"""The connection to the plane: register, hold a session, and come back after every end."""

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
from spotplane.v1.agent_pb2 import RegisterRequest, RegisterResponse
from spotplane.v1.agent_pb2_grpc import AgentServiceStub

from spotplane_agents.backoff import Pace
from spotplane_agents.errors import AgentDeleted, AgentError, SessionReplaced
from spotplane_agents.journal import Journal
from spotplane_agents.session import Listener, Session
from spotplane_agents.spool import Spool

logger: Final = logging.getLogger(__name__)

LinkState = Literal["idle", "connecting", "connected", "waiting", "refused", "replaced", "stopped"]
OnReplaced = Literal["stop", "wait"]

RETRY: Final = Pace(1.0, 30.0)
REFUSED_RETRY: Final = Pace(5.0, 60.0)
REPLACED_RETRY: Final = Pace(60.0, 600.0)
SILENCE_SECONDS: Final = 30.0
REGISTER_TIMEOUT_SECONDS: Final = 10.0
# A session that lived this long was a success, so the next failure is the first again.
PROVEN_SECONDS: Final = 30.0
# Trying again soon cannot help with these; a person has to do something first.
REFUSALS: Final = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
CHANNEL_OPTIONS: Final = (
    # Finds a dead peer within 40 s when a router drops packets silently.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # Every attempt has a channel of its own: gRPC's wait between connects must not add to ours.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True)
class LinkSettings:
    """Where the plane is, how to speak to it, and how patiently to come back."""

    server: str
    api_key: str = field(repr=False)
    tls: bool = False
    root_certificates: bytes | None = None
    """PEM; default the system's. Implies TLS."""
    on_replaced: OnReplaced = "stop"
    retry: Pace = RETRY
    refused_retry: Pace = REFUSED_RETRY
    replaced_retry: Pace = REPLACED_RETRY
    silence_seconds: float = SILENCE_SECONDS
    """How long a hello or a heartbeat may go unanswered before the stream is given up."""
    draw: Callable[[], float] = random.random


class LinkListener(Listener, Protocol):
    """What a link tells its agent, beyond what its sessions do."""

    def register_request(self) -> RegisterRequest:
        """Announce the instance."""

    async def registered(self, response: RegisterResponse) -> None:
        """Take note of what the plane knows of the instance."""

    def link_changed(self) -> None:
        """Take note that the link's state is another one."""


class Link:
    """Keeps one session up as long as it runs."""

    def __init__(
        self, settings: LinkSettings, spool: Spool, journal: Journal, listener: LinkListener
    ) -> None:
        self.state: LinkState = "idle"
        self.last_error: str | None = None
        self._settings = settings
        self._spool = spool
        self._journal = journal
        self._listener = listener
        self._registered = False
        self._failures = 0
        self._welcomed_at: float | None = None
        self._session: Session | None = None
        self._stopping = asyncio.Event()

    def wake(self) -> None:
        """There is something new in the spool."""
        if self._session is not None:
            self._session.wake()

    def progress(self, command_id: str, stage: "stream_pb.CommandProgress.Stage.ValueType") -> None:
        """Tell a step of a command, if there is a session to tell it on."""
        if self._session is not None:
            step = stream_pb.CommandProgress(command_id=command_id, stage=stage)
            self._session.progress(step)

    def welcomed(self) -> None:
        """The plane has accepted the session."""
        self._welcomed_at = asyncio.get_running_loop().time()
        self._become("connected", None)

    def leave(self, reason: str, flush_seconds: float) -> bool:
        """End the run for good; False when there is no session to say goodbye on."""
        self._stopping.set()
        if self._session is None or not self._session.welcomed:
            return False
        self._session.leave(reason, flush_seconds)
        return True

    async def run(self) -> None:
        """Register, connect, and come back, until ``leave``.

        Raises:
            SessionReplaced: Another process has this instance's identity.
            AgentDeleted: An operator deleted the agent.
        """
        try:
            while not self._stopping.is_set():
                self._welcomed_at = None
                await self._pause(await self._attempt())
        finally:
            if self.state != "replaced":
                self._become("stopped", self.last_error)

    async def _attempt(self) -> float:
        """Hold one session; return how long to wait before the next, in seconds."""
        self._become("connecting", self.last_error)
        session: Session | None = None
        try:
            async with self._channel() as channel:
                stub = AgentServiceStub(channel)
                if not self._registered:
                    await self._register(stub)
                hello = self._listener.hello(await asyncio.to_thread(self._journal.open_ids))
                call = stub.Connect(metadata=self._metadata())
                session = self._session = Session(
                    call, self._spool, self._listener, self._settings.silence_seconds
                )
                await session.run(hello)
        except grpc.aio.AioRpcError as error:
            return self._after_status(error)
        except AgentError as error:
            return self._after_failure(str(error))
        finally:
            self._session = None
        if session.reconnect_after is not None:
            self._failures = 0
            self._become("waiting", None)
            return session.reconnect_after.total_seconds()
        return self._after_failure("the stream ended")

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
        text = f"{code.name} {reason}: {error.details()}"
        if reason == "SESSION_REPLACED":
            return self._after_replacement(text)
        if reason == "AGENT_NOT_FOUND" and self._registered:
            raise AgentDeleted(text)
        if code in REFUSALS:
            return self._after_failure(text, refused=True)
        if code in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}:
            self._registered = False
        return self._after_failure(text)

    def _after_replacement(self, text: str) -> float:
        self._become("replaced", text)
        if self._settings.on_replaced == "stop":
            raise SessionReplaced(text)
        self._failures += 1
        wait = self._settings.replaced_retry.wait_seconds(self._failures, self._settings.draw)
        logger.error("another process has this instance's session; retry in %.0f s", wait)
        return wait

    def _after_failure(self, text: str, *, refused: bool = False) -> float:
        if self._stopping.is_set():
            return 0.0
        now, since = asyncio.get_running_loop().time(), self._welcomed_at
        proven = since is not None and now - since > PROVEN_SECONDS
        self._failures = 1 if proven else self._failures + 1
        pace = self._settings.refused_retry if refused else self._settings.retry
        wait = pace.wait_seconds(self._failures, self._settings.draw)
        level = logging.ERROR if refused else logging.WARNING
        logger.log(level, "no session with the plane, retry in %.1f s: %s", wait, text)
        self._become("refused" if refused else "waiting", text)
        return wait

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _become(self, state: LinkState, error: str | None) -> None:
        self.last_error = error
        if state != self.state:
            self.state = state
            self._listener.link_changed()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._settings.api_key}"),)

    def _channel(self) -> grpc.aio.Channel:
        settings = self._settings
        if settings.tls or settings.root_certificates is not None:
            credentials = grpc.ssl_channel_credentials(settings.root_certificates)
            return grpc.aio.secure_channel(settings.server, credentials, CHANNEL_OPTIONS)
        return grpc.aio.insecure_channel(settings.server, CHANNEL_OPTIONS)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Read the machine-readable reason of a status; empty when it carries none."""
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in Status.FromString(value).details:
                info = ErrorInfo()
                if detail.Unpack(info):
                    return info.reason
    return ""
