"""Registry of open streams: limits their number, ends stuck and unauthorized ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import asyncpg
import structlog

from spotplane_server.kernel import errors, metrics
from spotplane_server.kernel.auth import policy, spend_limits
from spotplane_server.kernel.auth.authenticator import Authenticator, VerifiedCaller
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.db import database
from spotplane_server.kernel.errors import DomainError, Exhausted
from spotplane_server.kernel.request_context import Call

log = structlog.get_logger(__name__)

RECHECK_SECONDS: Final = 0.5
# A caller at a limit may wait for one of its streams to end; nothing says when one will.
RETRY_SECONDS: Final = 5.0


class StreamLimit(Exhausted):
    """The credential, its tenant or the address has as many open streams as it may."""

    reason = "STREAM_LIMIT"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} streams of this kind are open already; end one first",
            retry_after_seconds=RETRY_SECONDS,
            limit=str(limit),
        )


class SlowConsumer(Exhausted):
    """The caller does not read what is sent to it."""

    reason = "SLOW_CONSUMER"

    def __init__(self) -> None:
        super().__init__("too much waits to be read; reconnect", retry_after_seconds=1.0)


class StreamLimits(NamedTuple):
    """Most open streams of one kind in this process.

    Attributes:
        credential: Of one key, agent, ticket or administrator.
        tenant: Of all credentials of one tenant.
    """

    credential: int
    tenant: int


# Agents' streams count while they have no session: before the first message, and while they end.
# Sessions are limited by the tenant's instances, as each has one. A fleet that reconnects after a
# restart sends the first message at once, so that few of its streams count at the same moment.
AGENTS: Final = StreamLimits(credential=300, tenant=600)
# Uploads and exports, which end by themselves.
TRANSFERS: Final = StreamLimits(credential=32, tenant=64)
# Health watches and reflection need no credential, so an address is limited in a credential's
# place; every bridge and load balancer of one host holds one.
PUBLIC: Final = StreamLimits(credential=32, tenant=256)


@dataclass(eq=False, slots=True)
class OpenStream:
    """A stream while it is open.

    Attributes:
        access: Who may call its method.
        verified: Its caller; None where no credential is needed.
        task: Serves it.
        address: The caller's address.
        keys: What it counts towards.
        error: With which it was ended, if it was.
    """

    access: policy.Access
    verified: VerifiedCaller | None
    task: asyncio.Task[Any]
    address: str | None
    keys: Sequence[str]
    error: DomainError | None = None
    _counts: Counter[str] = field(default_factory=Counter)
    _due: float | None = None
    _late: Callable[[], DomainError] = SlowConsumer

    def count(self, by: int) -> None:
        """Take, or give back, its place in every limit."""
        for key in self.keys:
            self._counts[key] += by
            if self._counts[key] <= 0:
                del self._counts[key]

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Count towards no limit within the block: something else limits the stream there."""
        self.count(-1)
        try:
            yield
        finally:
            self.count(1)

    def expect(self, seconds: float, late: Callable[[], DomainError]) -> None:
        """End the stream with an error unless `arrived` is called within the seconds.

        Cheaper than a timeout for every message: the registry looks at the deadline twice a second.
        """
        self._due, self._late = self.task.get_loop().time() + seconds, late

    def arrived(self) -> None:
        """What was expected has happened."""
        self._due = None

    def end(self, error: DomainError) -> None:
        """End the stream with an error."""
        if self.error is None:
            self.error = error
            self.task.cancel()

    def end_if_late(self, now: float) -> None:
        """End the stream when what was expected did not happen in time."""
        if self._due is not None and self._due <= now:
            self._due = None
            self.end(self._late())


class StreamRegistry:
    """All open streams of this process.

    Args:
        auth: Checks credentials again.
        clock: The time.
        subscriptions: Limits of streams of events and logs.
    """

    def __init__(self, auth: Authenticator, clock: Clock, subscriptions: StreamLimits) -> None:
        self._auth = auth
        self._clock = clock
        self._subscriptions = subscriptions
        self._streams: set[OpenStream] = set()
        self._counts: Counter[str] = Counter()
        self._epoch: int | None = None

    def add(self, access: policy.Access, verified: VerifiedCaller | None, call: Call) -> OpenStream:
        """Register the stream of the current task.

        Raises:
            StreamLimit: There are too many already.
        """
        task = asyncio.current_task()
        assert task is not None
        keys = self._admit(access, verified, call)
        stream = OpenStream(access, verified, task, call.client_ip, keys, _counts=self._counts)
        stream.count(1)
        self._streams.add(stream)
        call.stream = stream
        if verified is not None and self._epoch is not None and verified.epoch < self._epoch:
            self._epoch = None  # rights moved between proof and now: check again at the next tick
        return stream

    def discard(self, stream: OpenStream | None) -> None:
        """Forget a stream that has ended."""
        if stream is not None:
            self._streams.discard(stream)
            stream.count(-1)

    async def run(self) -> None:
        """Every half second, end streams that are stuck or whose callers lost their right."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            now = asyncio.get_running_loop().time()
            for stream in self._streams:
                stream.end_if_late(now)
            try:
                await self._recheck()
            except (errors.Unavailable, asyncpg.PostgresError, *database.CONNECTION_ERRORS):
                self._epoch = None  # nothing was checked for sure: all are, the next time
                log.warning("streams_not_rechecked", exc_info=True)

    def _admit(
        self, access: policy.Access, verified: VerifiedCaller | None, call: Call
    ) -> tuple[str, ...]:
        kind, limits = self._kind(access)
        if verified is None:
            keys: tuple[str, ...] = (f"{kind}:address:{call.client_ip}", f"{kind}:all")
        else:
            caller = verified.caller
            keys = (f"{kind}:{caller.kind}:{caller.id}",)
            if caller.tenant_id is not None:
                keys += (f"{kind}:{caller.tenant_id}",)
        for key, limit in zip(keys, limits, strict=False):
            if self._counts[key] >= limit:
                metrics.LIMITED.labels(StreamLimit.reason).inc()
                raise StreamLimit(limit)
        return keys

    def _kind(self, access: policy.Access) -> tuple[str, StreamLimits]:
        if access.public:
            return "public", PUBLIC
        if not access.endless:
            return "transfers", TRANSFERS
        if access.session:
            return "agents", AGENTS
        return "subscriptions", self._subscriptions

    async def _recheck(self) -> None:
        epoch = await self._auth.epoch()
        moved, self._epoch = epoch != self._epoch, epoch
        now = self._clock.now()
        for stream in list(self._streams):
            known = stream.verified
            if known is None:
                continue
            if not moved and (known.expires_at is None or known.expires_at > now):
                continue
            try:
                stream.verified = await self._auth.again(
                    known.caller.kind, known.hashed, stream.address
                )
                policy.check(stream.access, stream.verified.caller)
                spend_limits.check(stream.access, stream.verified.stop, now)
            except errors.Unavailable:
                raise  # says nothing about the caller's right
            except DomainError as err:
                stream.end(err)
