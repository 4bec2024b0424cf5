"""One session: what waits to be said to an instance.

It is written to by whoever has something to say and read by its stream alone. Answers wait in a
bounded outbox; desired state and commands are not queued at all but fetched when the stream gets to
them, so that the newest state is what is sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from spotplane.v1 import agent_stream_pb2 as pb

from spotplane_server.agents import errors
from spotplane_server.agents.commands.service import instance_key
from spotplane_server.kernel.errors import DomainError
from spotplane_server.kernel.ratelimit.token_bucket import TokenBucket
from spotplane_server.kernel.request_context import TenantId
from spotplane_server.kernel.rpc.stream_registry import SlowConsumer

# Responses that wait to be sent: the SDK waits for at most 64 acknowledgements of reports and one
# of a heartbeat; the rest is room for cancelled commands.
OUTBOX_SIZE: Final = 256
# Heartbeats per second of one session, and of a burst: as many as an agent may send by polling. The
# server asks for one every five seconds.
HEARTBEAT_RATE: Final = 10.0
HEARTBEAT_BURST: Final = 50.0


class Session:
    """One instance's conversation, as seen from this process."""

    def __init__(
        self,
        tenant_id: TenantId,
        agent_id: UUID,
        instance_id: str,
        pace: Callable[[], timedelta],
        now: datetime,
    ) -> None:
        self.id = uuid4()
        self.tenant_id = tenant_id
        self.agent_id = agent_id
        self.instance_id = instance_id
        self.epoch = 0
        self.pace = pace
        self.sent_generation = 0
        self.applied_generation = 0
        self.last_seq = 0
        self.last_beat_at = now
        self.next_report_seq: int | None = None
        self.closed = False
        self.goodbye = False
        self._outbox: deque[pb.ConnectResponse] = deque()
        self._wake = asyncio.Event()
        self._error: DomainError | None = None
        self.state_due = True
        self.commands_due = True
        loop_time = asyncio.get_running_loop().time()
        self._heartbeats = TokenBucket(HEARTBEAT_RATE, HEARTBEAT_BURST, loop_time)

    @property
    def key(self) -> str:
        """Key of wake-ups that concern this instance."""
        return instance_key(self.tenant_id, self.instance_id)

    def admit_heartbeat(self) -> None:
        """Count a heartbeat.

        Raises:
            TooFrequent: There are far more than the server asked for.
        """
        wait = self._heartbeats.take(asyncio.get_running_loop().time())
        if wait > 0:
            raise errors.TooFrequent(wait)

    def say(self, response: pb.ConnectResponse) -> None:
        """Queue an answer; a session whose answers nobody reads ends."""
        if len(self._outbox) >= OUTBOX_SIZE:
            self.end(SlowConsumer())
        else:
            self._outbox.append(response)
            self._wake.set()

    def end(self, error: DomainError | None = None) -> None:
        """End the stream, with an error unless it ends well."""
        self.closed = True
        self._error = self._error or error
        self._wake.set()

    def fetch(self, *, state: bool = False, commands: bool = False) -> None:
        """Have the stream fetch the desired state or waiting commands."""
        self.state_due |= state
        self.commands_due |= commands
        self._wake.set()

    async def answers(self) -> AsyncIterator[pb.ConnectResponse | None]:
        """What is to be sent, in order; None when state or commands are to be fetched.

        Raises:
            DomainError: The session ended with it.
        """
        while True:
            if self._error is not None:
                raise self._error
            if self._outbox:
                yield self._outbox.popleft()
            elif self.closed:
                return
            elif self.state_due or self.commands_due:
                yield None
            else:
                self._wake.clear()
                await self._wake.wait()
