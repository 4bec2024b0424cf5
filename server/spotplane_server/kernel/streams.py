"""Streams that are open, and end when their callers lose their right."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import structlog

from spotplane_server.kernel import db, errors, policy, stops
from spotplane_server.kernel.auth import Authenticator, Verified
from spotplane_server.kernel.clock import Clock
from spotplane_server.kernel.errors import DomainError

log = structlog.get_logger(__name__)

RECHECK_SECONDS: Final = 0.5


@dataclass(eq=False, slots=True)
class OpenStream:
    """A stream whose right is checked again whenever rights have changed."""

    access: policy.Access
    verified: Verified
    task: asyncio.Task[Any]
    address: str | None
    error: DomainError | None = None


class OpenStreams:
    """All open streams of this process."""

    def __init__(self, auth: Authenticator, clock: Clock) -> None:
        self._auth = auth
        self._clock = clock
        self._streams: set[OpenStream] = set()
        self._epoch: int | None = None

    def add(
        self, access: policy.Access | None, verified: Verified | None, address: str | None
    ) -> OpenStream | None:
        """Watch the stream of the current task; None when it needs no right."""
        task = asyncio.current_task()
        if verified is None or access is None or task is None:
            return None
        stream = OpenStream(access, verified, task, address)
        self._streams.add(stream)
        if self._epoch is not None and verified.epoch < self._epoch:
            self._epoch = None  # rights moved between proof and now: check again at the next tick
        return stream

    def discard(self, stream: OpenStream | None) -> None:
        """Forget a stream that has ended."""
        if stream is not None:
            self._streams.discard(stream)

    async def run(self) -> None:
        """Every half second, end the streams whose callers have lost their right."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            try:
                await self._recheck()
            except (errors.Unavailable, asyncpg.PostgresError, *db.AWAY):
                self._epoch = None  # nobody has been checked for sure: all are, the next time
                log.warning("streams_not_rechecked", exc_info=True)

    async def _recheck(self) -> None:
        epoch = await self._auth.epoch()
        moved, self._epoch = epoch != self._epoch, epoch
        now = self._clock.now()
        for stream in list(self._streams):
            known = stream.verified
            if not moved and (known.expires_at is None or known.expires_at > now):
                continue
            try:
                stream.verified = await self._auth.again(
                    known.caller.kind, known.hashed, stream.address
                )
                policy.check(stream.access, stream.verified.caller)
                stops.check(stream.access, stream.verified.stop, now)
            except errors.Unavailable:
                raise  # says nothing about the caller's right
            except DomainError as err:
                # Its traceback holds this frame, and this frame the stream.
                stream.error = err.with_traceback(None)
                stream.task.cancel()
