"""Command execution: each command once, by priority, emergencies at once."""

import asyncio
import heapq
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final, Protocol

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from spotplane.v1.agent_stream_pb2 import CommandDelivery, CommandProgress, CommandResult

from spotplane_agents.diskwait import DiskRetry
from spotplane_agents.errors import AgentError, CommandFailed
from spotplane_agents.journal import Journal

logger: Final = logging.getLogger(__name__)

EMERGENCY_PRIORITY: Final = 100
MAX_MESSAGE_CHARS: Final = 2000
MAX_RESULT_BYTES: Final = 64 << 10
FORGET_EVERY_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Command:
    """A command, as a handler receives it."""

    id: str
    type: str
    name: str
    parameters: Mapping[str, Any]
    priority: int
    delivery: int
    created_at: datetime
    expires_at: datetime

    @property
    def is_emergency(self) -> bool:
        """Whether it is executed at once, even by a disabled agent."""
        return self.priority >= EMERGENCY_PRIORITY


Handler = Callable[[Command], Awaitable[Mapping[str, Any] | None]]


@dataclass(frozen=True, slots=True)
class Registration:
    """A handler, and whether it is idempotent."""

    handler: Handler
    idempotent: bool


class Outlet(Protocol):
    """Receiver of the progress of commands."""

    def progress(self, command_id: str, stage: "CommandProgress.Stage.ValueType") -> None:
        """Send a progress step; may be lost."""

    def wake(self) -> None:
        """Signal a new result in the spool."""


@dataclass(order=True)
class _Queued:
    rank: tuple[int, int]
    command: Command = field(compare=False)
    begun_before: bool = field(compare=False, default=False)


class Dispatcher:
    """Receives commands, runs their handlers and stores their results.

    One ordinary command runs at a time, higher priorities first. Each emergency has its own task
    and waits for nothing. A disabled agent starts emergencies only; other commands wait until it is
    enabled, or expire.
    """

    def __init__(
        self,
        journal: Journal,
        handlers: Mapping[str, Registration],
        now: Callable[[], datetime],
        disk: DiskRetry,
    ) -> None:
        self._journal = journal
        self._disk = disk
        self._handlers = handlers
        self._now = now
        self._outlet: Outlet | None = None
        self._queue: list[_Queued] = []
        self._order = count()
        self._enabled = True
        self._wake = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    def send_progress_to(self, outlet: Outlet) -> None:
        """Send progress through ``outlet`` from now on."""
        self._outlet = outlet

    def set_enabled(self, enabled: bool) -> None:
        """Allow or suspend the start of ordinary commands."""
        self._enabled = enabled
        self._wake.set()

    async def deliver(self, delivery: CommandDelivery) -> None:
        """Store a command in the journal and queue it, unless it is known."""
        before = await asyncio.to_thread(self._journal.receive, delivery)
        if before == "cancelled":
            return
        self._send_progress(delivery.command_id, CommandProgress.STAGE_RECEIVED)
        if before == "new":
            self._queue_up(delivery)
        elif before == "done" and self._outlet is not None:
            self._outlet.wake()

    async def cancel(self, command_id: str) -> None:
        """Cancel a command that has not started; a started one continues."""
        await asyncio.to_thread(self._journal.cancel, command_id)

    async def recover(self) -> None:
        """Queue the commands of an earlier process. Call it before the first delivery."""
        left = await asyncio.to_thread(self._journal.recover, self._is_idempotent, self._now())
        for undone in left:
            self._queue_up(undone.delivery, begun_before=undone.started)

    async def run(self) -> None:
        """Run ordinary commands, one at a time, until cancelled."""
        while True:
            self._wake.clear()
            while self._queue and self._enabled:
                # A task of its own, so that the end of this loop does not cancel the command.
                await asyncio.wait({self._spawn(heapq.heappop(self._queue))})
            try:
                async with asyncio.timeout(FORGET_EVERY_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                await self._forget_expired()

    async def _forget_expired(self) -> None:
        try:
            await asyncio.to_thread(self._journal.forget_expired, self._now())
        except AgentError as error:
            logger.warning("expired commands stay in the journal: %s", error)

    async def finish(self, seconds: float) -> None:
        """Wait briefly for running commands, then cancel them; the journal has them as started."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _is_idempotent(self, name: str) -> bool:
        known = self._handlers.get(name)
        return known is not None and known.idempotent

    def _queue_up(self, delivery: CommandDelivery, *, begun_before: bool = False) -> None:
        command = command_of(delivery)
        queued = _Queued((-command.priority, next(self._order)), command, begun_before)
        if command.is_emergency:
            self._spawn(queued)
        else:
            heapq.heappush(self._queue, queued)
            self._wake.set()

    def _spawn(self, queued: _Queued) -> asyncio.Task[None]:
        task = asyncio.create_task(self._carry_out(queued), name=f"command-{queued.command.id}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _carry_out(self, queued: _Queued) -> None:
        command = queued.command
        if not queued.begun_before and not await self._begin(command):
            return
        result = await self._result(command)
        # The command took effect, so its result is stored however long that takes.
        await self._disk.write(
            f"the result of command {command.id}", lambda: self._journal.finish(result)
        )
        if self._outlet is not None:
            self._outlet.wake()

    async def _begin(self, command: Command) -> bool:
        # Also False when it was cancelled while it waited.
        if not await self._disk.write(
            f"the start of command {command.id}", lambda: self._start(command)
        ):
            return False
        self._send_progress(command.id, CommandProgress.STAGE_STARTED)
        return True

    def _start(self, command: Command) -> bool:
        if command.expires_at <= self._now():
            logger.warning("command %s %s expired before it was begun", command.id, command.name)
            return False
        return self._journal.start(command.id)

    async def _result(self, command: Command) -> CommandResult:
        known = self._handlers.get(command.name)
        if known is None:
            return self._finish_with(command, False, f"this agent has no handler {command.name!r}")
        try:
            returned = await known.handler(command)
        except CommandFailed as error:
            return self._finish_with(command, False, str(error))
        except Exception as error:
            logger.exception("command %s %s failed", command.id, command.name)
            return self._finish_with(command, False, f"{type(error).__name__}: {error}")
        return self._finish_with(command, True, "", returned)

    def _finish_with(
        self,
        command: Command,
        success: bool,
        message: str,
        returned: Mapping[str, Any] | None = None,
    ) -> CommandResult:
        finished = Timestamp()
        finished.FromDatetime(self._now())
        result = CommandResult(
            command_id=command.id,
            success=success,
            message=message[:MAX_MESSAGE_CHARS],
            finished_at=finished,
        )
        try:
            result.result.CopyFrom(struct_of(returned or {}))
        except (ValueError, TypeError) as error:
            # It has taken effect, and must not appear as not executed.
            result.message = f"done, but what the handler returned is left out: {error}"
        return result

    def _send_progress(self, command_id: str, stage: "CommandProgress.Stage.ValueType") -> None:
        if self._outlet is not None:
            self._outlet.progress(command_id, stage)


def struct_of(values: Mapping[str, Any]) -> Struct:
    """Convert a handler's result into a message.

    Raises:
        ValueError: It is larger than 64 KiB as JSON, or has no JSON form.
        TypeError: A part of it has no JSON form.
    """
    text = json.dumps(dict(values), allow_nan=False)
    if len(text.encode()) > MAX_RESULT_BYTES:
        raise ValueError(f"it is larger than {MAX_RESULT_BYTES} bytes as JSON")
    struct = Struct()
    struct.update(json.loads(text))
    return struct


def command_of(delivery: CommandDelivery) -> Command:
    """Parse a delivery. Without an expiry it expires after an hour, the server's default."""
    created = delivery.created_at.ToDatetime(UTC)
    expires = delivery.expires_at.ToDatetime(UTC)
    return Command(
        id=delivery.command_id,
        type=delivery.type,
        name=delivery.name or delivery.type,
        parameters=MessageToDict(delivery.parameters),
        priority=delivery.priority,
        delivery=delivery.delivery,
        created_at=created,
        expires_at=expires if delivery.HasField("expires_at") else created + timedelta(hours=1),
    )
