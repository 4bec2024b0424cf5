"""One stream to the server, from hello to its end."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration
from spotplane.v1 import agent_stream_pb2 as pb

from spotplane_agents.errors import StreamSilent
from spotplane_agents.host import Load
from spotplane_agents.spool import Spool

logger: Final = logging.getLogger(__name__)

# Unacknowledged reports at a time. Usage and prices may take three quarters of it, so that there
# is always room for a notice.
WINDOW: Final = 64
SHARES: Final = ((0, WINDOW), (1, WINDOW * 3 // 4))
# Few at a time, so that a due heartbeat need not wait for a whole backlog.
BURST: Final = 16
PROGRESS_KEPT: Final = 256
FAREWELL_SECONDS: Final = 2.0

Call = grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]


class Listener(Protocol):
    """Interface between a session and its agent."""

    def hello(self, open_command_ids: list[str]) -> pb.Hello:
        """Return the first message of the stream."""

    def load(self) -> Load:
        """Measure the load for a heartbeat."""

    def applied_generation(self) -> int:
        """Return the last desired-state generation that was applied."""

    async def welcomed(self, welcome: pb.Welcome) -> None:
        """Handle the server's acceptance of the stream."""

    async def desired(self, state: pb.DesiredState) -> None:
        """Store the desired state."""

    async def deliver(self, delivery: pb.CommandDelivery) -> None:
        """Receive a command; it is on disk when this returns."""

    async def cancel(self, command_id: str) -> None:
        """Cancel a command that has not started."""


class Session:
    """One stream: a task that reads it, and one that writes it."""

    def __init__(
        self, call: Call, spool: Spool, listener: Listener, silence_seconds: float
    ) -> None:
        self.welcomed = False
        self.reconnect_after: timedelta | None = None
        self._call = call
        self._spool = spool
        self._listener = listener
        self._silence = silence_seconds
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._progress: deque[pb.CommandProgress] = deque(maxlen=PROGRESS_KEPT)
        self._beat_seq = 0
        self._beat_at = math.inf
        self._waiting_since: float | None = self._loop.time()
        self._seq = 0
        self._sent: dict[int, int] = {}
        self._acked: list[int] = []
        self._cursor = {0: 0, 1: 0}
        self._may_have_more = True
        self._goodbye: tuple[str, float] | None = None

    def wake(self) -> None:
        """Signal a new report in the spool."""
        self._may_have_more = True
        self._wake.set()

    def progress(self, step: pb.CommandProgress) -> None:
        """Send a step of a command; lost if the stream ends first."""
        self._progress.append(step)
        self._wake.set()

    def leave(self, reason: str, flush_seconds: float) -> None:
        """Send a goodbye after all reports are acknowledged, or after ``flush_seconds``."""
        self._goodbye = (reason, self._loop.time() + flush_seconds)
        self.wake()

    async def run(self, hello: pb.Hello) -> None:
        """Read and write the stream until it ends.

        Raises:
            grpc.aio.AioRpcError: It ended with a status other than OK.
            StreamSilent: The server does not respond.
            StateUnavailable: The journal or the spool cannot be used.
        """
        await self._write(pb.ConnectRequest(hello=hello))
        reader = asyncio.create_task(self._read(), name="spotplane-reader")
        writer = asyncio.create_task(self._write_all(), name="spotplane-writer")
        watch = asyncio.create_task(self._watch(), name="spotplane-watch")
        try:
            await asyncio.wait({reader, writer, watch}, return_when=asyncio.FIRST_COMPLETED)
            # A writer that has ended has sent the goodbye or met the end of the stream. In both
            # cases the reader is about to receive the status.
            if writer.done() and not reader.done() and writer.exception() is None:
                await asyncio.wait({reader}, timeout=FAREWELL_SECONDS)
        finally:
            self._call.cancel()
            for task in (reader, writer, watch):
                task.cancel()
            ends = await asyncio.gather(reader, writer, watch, return_exceptions=True)
            await asyncio.shield(self._settle_acks())
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _write(self, request: pb.ConnectRequest) -> None:
        with suppress(asyncio.InvalidStateError):  # the stream is over; the reader has the reason
            await self._call.write(request)

    async def _read(self) -> None:
        while self.reconnect_after is None:
            response = await self._call.read()
            if not isinstance(response, pb.ConnectResponse):
                return
            kind = response.WhichOneof("kind")
            if kind is not None:  # otherwise a kind of a newer server
                await self._receive(kind, response)

    async def _receive(self, kind: str, response: pb.ConnectResponse) -> None:
        receivers: dict[str, Callable[[Any], Awaitable[None]]] = {
            "welcome": self._on_welcome,
            "heartbeat_ack": self._on_heartbeat_ack,
            "desired_state": self._listener.desired,
            "command": self._listener.deliver,
            "report_ack": self._on_report_ack,
            "reconnect": self._on_reconnect,
        }
        if kind == "command_cancel":
            await self._listener.cancel(response.command_cancel.command_id)
        else:
            await receivers[kind](getattr(response, kind))

    async def _on_welcome(self, welcome: pb.Welcome) -> None:
        # Before reports are sent, since their instants are shifted by the server's time.
        await self._listener.welcomed(welcome)
        self.welcomed = True
        self._heartbeat_due_at(welcome.next_heartbeat_delay)

    async def _on_heartbeat_ack(self, ack: pb.HeartbeatAck) -> None:
        if ack.seq == self._beat_seq:
            self._heartbeat_due_at(ack.next_heartbeat_delay)

    def _heartbeat_due_at(self, delay: Duration) -> None:
        self._waiting_since = None
        self._beat_at = self._loop.time() + delay.ToTimedelta().total_seconds()
        self._wake.set()

    async def _on_report_ack(self, ack: pb.ReportAck) -> None:
        report_id = self._sent.pop(ack.seq, None)
        if report_id is None:
            return
        if ack.HasField("error"):
            logger.warning("report %d was refused for good: %s", report_id, ack.error.message)
        self._acked.append(report_id)
        self.wake()

    async def _on_reconnect(self, order: pb.Reconnect) -> None:
        logger.info("the server requests a reconnect: %s", order.reason)
        self.reconnect_after = order.delay.ToTimedelta()

    async def _write_all(self) -> None:
        while not self._call.done():
            self._wake.clear()
            await self._settle_acks()
            await self._write_progress()
            await self._send_heartbeat_if_due()
            more = await self._write_reports()
            if self._goodbye is not None and self._may_leave(self._goodbye[1]):
                await self._write(pb.ConnectRequest(goodbye=pb.Goodbye(reason=self._goodbye[0])))
                with suppress(asyncio.InvalidStateError):
                    await self._call.done_writing()
                return
            if not more:
                await self._sleep()

    async def _watch(self) -> None:
        """End the stream when heartbeats are not acknowledged, or cannot even be written.

        A stream may look alive long after the server behind it is gone or blocked.
        """
        while True:
            since = self._beat_at if self._waiting_since is None else self._waiting_since
            left = since + self._silence - self._loop.time()
            if left <= 0:
                raise StreamSilent(f"no answer for {self._silence:.0f} s")
            await asyncio.sleep(min(left, self._silence))

    async def _settle_acks(self) -> None:
        acked, self._acked = self._acked, []
        if acked:
            await asyncio.to_thread(self._spool.acknowledge, acked)

    async def _write_progress(self) -> None:
        while self.welcomed and self._progress:
            step = self._progress.popleft()
            await self._write(pb.ConnectRequest(command_progress=step))

    async def _send_heartbeat_if_due(self) -> None:
        now = self._loop.time()
        if now < self._beat_at:
            return
        self._beat_at, self._waiting_since = math.inf, now
        self._beat_seq += 1
        load = self._listener.load()
        beat = pb.Heartbeat(
            seq=self._beat_seq,
            applied_generation=self._listener.applied_generation(),
            cpu_percent=load.cpu_percent,
            memory_percent=load.memory_percent,
        )
        await self._write(pb.ConnectRequest(heartbeat=beat))

    async def _write_reports(self) -> bool:
        """Send a burst of reports; return whether there may be more to send now."""
        if not self.welcomed or not self._may_have_more:
            return False
        self._may_have_more = False
        for lane, share in SHARES:
            room = min(BURST, share - len(self._sent))
            if room <= 0:
                continue  # the next acknowledgement checks again
            after = self._cursor[lane]
            waiting = await asyncio.to_thread(self._spool.next, lane, after_id=after, limit=room)
            for spooled in waiting:
                self._seq += 1
                self._sent[self._seq] = self._cursor[lane] = spooled.id
                spooled.report.seq = self._seq
                await self._write(pb.ConnectRequest(report=spooled.report))
            self._may_have_more |= len(waiting) == room
        return self._may_have_more

    def _may_leave(self, deadline: float) -> bool:
        flushed = self.welcomed and not (
            self._may_have_more or self._sent or self._acked or self._progress
        )
        return flushed or self._loop.time() >= deadline

    async def _sleep(self) -> None:
        due = self._beat_at
        if self._goodbye is not None:
            due = min(due, self._goodbye[1])
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due if due < math.inf else None):
                await self._wake.wait()
